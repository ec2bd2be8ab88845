// Tokens to text as they come, one whole character after the other.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "blockattn/text/tokenizer.hpp"
#include "blockattn/text/utf8.hpp"

namespace blockattn::inline v0 {

/// Turns a stream of tokens into UTF-8 text. A token may end inside a character: its beginning is held back until the
/// rest has come. Everything returned is valid UTF-8, and all of it together is to_valid_utf8(decode(ids)).text. For
/// one thread.
class stream_decoder {
 public:
  explicit stream_decoder(tokenizer vocabulary) : tokenizer_(std::move(vocabulary)) {}

  /// The text that `id` completes, often all of its own, sometimes none. Control tokens give none.
  /// Throws argument_error for an id outside of the vocabulary.
  [[nodiscard]] std::string push(token_id id) {
    if (tokenizer_.is_control(id)) return {};
    std::string_view bytes = tokenizer_.bytes(id);
    if (at_start_ && !bytes.empty()) {
      at_start_ = false;
      if (tokenizer_.strips_first_space() && bytes.front() == ' ') bytes.remove_prefix(1);
    }
    held_ += bytes;
    const std::size_t keep = unended(held_);
    std::string text = to_valid_utf8(std::string_view(held_).substr(0, held_.size() - keep)).text;
    held_.erase(0, held_.size() - keep);
    return text;
  }

  /// The end of the stream: U+FFFD for the beginning of a character that never got its rest, otherwise nothing. Starts
  /// afresh.
  [[nodiscard]] std::string finish() {
    at_start_ = true;
    return to_valid_utf8(std::exchange(held_, {})).text;
  }

 private:
  /// Bytes at the end of `text` that may still become a character.
  [[nodiscard]] static std::size_t unended(std::string_view text) {
    for (std::size_t size = 1; size <= 3 && size <= text.size(); ++size) {
      const std::size_t at = text.size() - size;
      if (detail::starts_character(text, at))
        return detail::utf8_sequence_at(text, at).state == detail::utf8_state::unended ? size : 0;
    }
    return 0;
  }

  tokenizer tokenizer_;
  std::string held_;
  bool at_start_ = true;  // nothing has come yet
};

}  // namespace blockattn::inline v0
