// Cuts text into blocks. Blocks are what the cache reuses: the same text gives the same block.
//
// All functions keep the order, and lose nothing but what they say. A block's text is content: mark it as such
// (text_block::content).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/text/tokenizer.hpp"
#include "blockattn/text/utf8.hpp"

namespace blockattn::inline v0 {

/// How paragraphs become blocks. `fill`: neighbours share a block while they fit, so that a heading stays with its
/// text. `separate`: each paragraph is a block, so that a change in one leaves the blocks of all others as they are.
enum class paragraph_packing { fill, separate };

/// Text between two blocks of a file in the form of the method's authors.
inline constexpr std::string_view default_block_marker = "[Block-Attention]";

namespace detail {

inline constexpr std::string_view blanks = " \t\r\n\v\f";

[[nodiscard]] inline std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(blanks);
  return begin == std::string_view::npos ? std::string_view()
                                         : text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

/// Cuts one text, which is valid UTF-8, into parts of at most `limit` tokens; its lifetime is the caller's affair.
class paragraph_cutter {
 public:
  paragraph_cutter(std::string_view text, const tokenizer& vocabulary, index_t limit, paragraph_packing packing)
      : text_(text), tokenizer_(&vocabulary), limit_(static_cast<std::size_t>(limit)), packing_(packing) {}

  [[nodiscard]] std::vector<std::string> cut() {
    for (std::size_t at = 0; at < text_.size();) {
      const std::size_t end = paragraph_end(at);
      if (const std::string_view paragraph = trimmed(text_.substr(at, end - at)); !paragraph.empty()) take(paragraph);
      at = end;
    }
    close();
    return std::move(blocks_);
  }

 private:
  /// Behind the line feed that ends the paragraph's last line: the next line is blank, or there is none.
  [[nodiscard]] std::size_t paragraph_end(std::size_t at) const {
    for (std::size_t line = text_.find('\n', at); line != std::string_view::npos; line = text_.find('\n', line + 1)) {
      const std::size_t next = text_.find('\n', line + 1);
      if (next == std::string_view::npos) break;
      if (trimmed(text_.substr(line, next - line)).empty()) return next;
    }
    return text_.size();
  }

  /// Adds a paragraph, or the rest of one, to the open block or after it.
  void take(std::string_view paragraph) {
    if (!open_.empty() && packing_ == paragraph_packing::fill) {
      const std::string_view joined = text_.substr(offset(open_), offset(paragraph) + paragraph.size() - offset(open_));
      if (fits(joined)) {
        open_ = joined;
        return;
      }
    }
    close();
    while (!fits(paragraph)) {
      const std::size_t size = part(paragraph);
      blocks_.emplace_back(trimmed(paragraph.substr(0, size)));
      paragraph = trimmed(paragraph.substr(size));
    }
    open_ = paragraph;
  }

  void close() {
    if (!open_.empty()) blocks_.emplace_back(open_);
    open_ = {};
  }

  [[nodiscard]] std::size_t offset(std::string_view part) const {
    return static_cast<std::size_t>(part.data() - text_.data());
  }

  [[nodiscard]] bool fits(std::string_view text) const {
    return text.size() <= limit_ ||
           encode_start(text, limit_ + slack).size() <= limit_;  // no token is shorter than a byte
  }

  /// Tokens of so much of the text's beginning that they are more than `enough`, or of all of it.
  [[nodiscard]] std::vector<token_id> encode_start(std::string_view text, std::size_t enough) const {
    for (std::size_t size = std::min(limit_ * 6 + 64, text.size());; size = std::min(size * 2, text.size())) {
      std::vector<token_id> ids = tokenizer_->encode(text.substr(0, size), false);
      if (ids.size() > enough || size == text.size()) return ids;
    }
  }

  /// Bytes of the longest first part of `text`, which doesn't fit as a whole, that does: up to a sentence, else a word,
  /// else a character.
  [[nodiscard]] std::size_t part(std::string_view text) const {
    std::size_t end = reach(text);
    for (;;) {
      std::size_t cut = last_sentence(text, end);
      if (cut == 0) cut = last_word(text, end);
      if (cut == 0) cut = last_character(text, end);
      if (fits(trimmed(text.substr(0, cut)))) return cut;
      end = cut - 1;  // a text cut elsewhere may have a token more
    }
  }

  /// Bytes of the first `limit_` tokens of `text`, or more if some bytes have no token.
  [[nodiscard]] std::size_t reach(std::string_view text) const {
    const std::vector<token_id> ids = encode_start(text, limit_);
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < std::min(ids.size(), limit_); ++i) bytes += tokenizer_->bytes(ids[i]).size();
    return std::clamp<std::size_t>(bytes, 1, text.size());
  }

  /// Behind the last sentence that ends at or before `end`; 0 if there is none.
  [[nodiscard]] static std::size_t last_sentence(std::string_view text, std::size_t end) {
    for (std::size_t at = end; at > 0; --at)
      if (ends_sentence(text, at)) return at;
    return 0;
  }

  /// A line feed, an ideographic full stop, or . ! ? and closing marks with white space behind.
  [[nodiscard]] static bool ends_sentence(std::string_view text, std::size_t at) {
    std::string_view before = text.substr(0, at);
    for (const std::string_view mark : {"。", "！", "？"})
      if (before.ends_with(mark)) return true;
    if (before.back() == '\n') return true;
    if (at == text.size() || blanks.find(text[at]) == std::string_view::npos) return false;
    for (int marks = 0;
         marks < 4 && !before.empty() && std::string_view("\"')]").find(before.back()) != std::string_view::npos;
         ++marks)
      before.remove_suffix(1);
    for (const std::string_view mark : {".", "!", "?", "…", "।", "؟", "۔"})
      if (before.ends_with(mark)) return true;
    return false;
  }

  [[nodiscard]] static std::size_t last_word(std::string_view text, std::size_t end) {
    for (std::size_t at = end; at > 0; --at)
      if (at < text.size() && blanks.find(text[at]) != std::string_view::npos) return at;
    return 0;
  }

  /// The last border between characters at or before `end`; behind the first character if there is none.
  [[nodiscard]] static std::size_t last_character(std::string_view text, std::size_t end) {
    while (end > 0 && end < text.size() && !starts_character(text, end)) --end;
    return end > 0 ? end : utf8_sequence_at(text, 0).length;
  }

  static constexpr std::size_t slack = 16;  // tokens that a cut inside a word may add

  std::string_view text_;
  const tokenizer* tokenizer_;
  std::size_t limit_;
  paragraph_packing packing_;
  std::string_view open_;  // of text_: the block that may still grow
  std::vector<std::string> blocks_;
};

}  // namespace detail

/// One block a passage: each without surrounding white space, those with nothing else dropped.
[[nodiscard]] inline std::vector<std::string> passage_blocks(const std::vector<std::string>& passages) {
  std::vector<std::string> blocks;
  for (const std::string& passage : passages)
    if (const auto text = detail::trimmed(passage); !text.empty()) blocks.emplace_back(text);
  return blocks;
}

/// Blocks that somebody chose: just these.
[[nodiscard]] inline std::vector<std::string> explicit_blocks(std::vector<std::string> blocks) { return blocks; }

/// A text by its paragraphs (parts between blank lines), none longer than `max_tokens` tokens when encoded as content.
/// A paragraph that is too long is cut behind a sentence, where there is none in reach at white space, where there is
/// none between two characters. Blocks are stretches of the text (made valid UTF-8 first); what lies between them is
/// white space. max_tokens >= 4, the tokens of one character at most, or argument_error.
[[nodiscard]] inline std::vector<std::string> paragraph_blocks(std::string_view text, const tokenizer& vocabulary,
                                                               index_t max_tokens,
                                                               paragraph_packing packing = paragraph_packing::fill) {
  if (max_tokens < 4) throw argument_error(cat("[segmenter] max_tokens is ", max_tokens, "; allowed: 4 or more"));
  const std::string valid = to_valid_utf8(text).text;
  return detail::paragraph_cutter(valid, vocabulary, std::min<index_t>(max_tokens, index_t{1} << 40), packing).cut();
}

/// The parts between the markers, as they are; empty ones are dropped. The parts with the markers between them are the
/// text again, up to empty parts. Throws argument_error if the marker is empty.
[[nodiscard]] inline std::vector<std::string> marker_blocks(std::string_view text,
                                                            std::string_view marker = default_block_marker) {
  if (marker.empty())
    throw argument_error(
        "[segmenter] the marker is empty; give a text that separates blocks, such as [Block-Attention]");
  std::vector<std::string> blocks;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(marker, at), text.size());
    if (end > at) blocks.emplace_back(text.substr(at, end - at));
    at = end == text.size() ? end : end + marker.size();
  }
  return blocks;
}

}  // namespace blockattn::inline v0
