// A prompt before tokenisation: a list of blocks, each a list of pieces of text.
//
// Who wrote a text decides what it may do. Markup is the application's own (a chat template): control tokens such as
// <|im_end|> act in it. Content comes from outside (a document, a question): the same characters are ordinary text
// there, so a document can't end a turn or open another one.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace blockattn::inline v0 {

/// A stretch of text, UTF-8.
struct text_piece {
  std::string text;
  bool markup = false;  ///< whether control tokens are recognised in it

  friend bool operator==(const text_piece&, const text_piece&) = default;
};

/// One block of a prompt. Its text is that of its pieces, one after the other.
struct text_block {
  std::vector<text_piece> pieces;

  /// Text taken as it is, control tokens recognised.
  [[nodiscard]] static text_block raw(std::string text) { return {{{std::move(text), true}}}; }

  /// Text from outside: no control tokens.
  [[nodiscard]] static text_block content(std::string text) { return {{{std::move(text), false}}}; }

  /// The whole text.
  [[nodiscard]] std::string text() const {
    std::string result;
    for (const text_piece& piece : pieces) result += piece.text;
    return result;
  }

  friend bool operator==(const text_block&, const text_block&) = default;
};

}  // namespace blockattn::inline v0
