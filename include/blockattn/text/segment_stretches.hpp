// Stretches of a text: what every lossless segmenter is made of.
//
// A lossless segmenter gives views into the text that it was given, none empty, one after the other without gaps: put together they are the text, byte for
// byte. Any bytes are accepted; what isn't UTF-8 is kept as it is (the tokenizer puts U+FFFD in its place) and never makes a cut inside of a whole
// character. No stretch is longer than max_tokens tokens when encoded as content.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/text/tokenizer.hpp"
#include "blockattn/text/utf8.hpp"

namespace blockattn::inline v0 {

/// Parts of one text, in order, which together are the text. They live as long as the text.
using text_stretches = std::vector<std::string_view>;

/// Whether neighbouring parts share a block while they fit, or each is a block of its own, so that a change in one leaves all others as they are.
enum class stretch_packing { fill, separate };

namespace detail {

/// Tells what fits into a block, and cuts what doesn't.
class stretch_limit {
 public:
  /// max_tokens >= 4, the most tokens of one character, or argument_error.
  stretch_limit(const tokenizer& vocabulary, index_t max_tokens) : tokenizer_(&vocabulary) {
    if (max_tokens < 4) throw argument_error(cat("[segmenter] max_tokens is ", max_tokens, "; allowed: 4 or more"));
    limit_ = static_cast<std::size_t>(std::min<index_t>(max_tokens, index_t{1} << 40));
  }

  [[nodiscard]] bool fits(std::string_view text) const {
    if (text.size() * 3 <= limit_) return true;  // a byte that isn't UTF-8 becomes a character of three
    if (text.size() <= limit_ && is_valid_utf8(text)) return true;
    return encoded_start(text) <= limit_;
  }

  /// Appends `part` to `out`, cut where it doesn't fit: behind a blank line, else a line, a sentence, a word, a character.
  void cut(std::string_view part, text_stretches& out) const {
    while (!part.empty() && !fits(part)) {
      const std::size_t size = first_piece(part);
      out.push_back(part.substr(0, size));
      part.remove_prefix(size);
    }
    if (!part.empty()) out.push_back(part);
  }

 private:
  /// Tokens of the text, or of enough of its beginning to be more than the limit.
  [[nodiscard]] std::size_t encoded_start(std::string_view text) const {
    for (std::size_t size = std::min(limit_ * 6 + 64, text.size());; size = std::min(size * 2, text.size())) {
      const std::size_t count = tokenizer_->encode(text.substr(0, size), false).size();
      if (count > limit_ + slack || size == text.size()) return count;
    }
  }

  [[nodiscard]] std::size_t first_piece(std::string_view text) const {
    std::size_t end = reach(text);
    for (;;) {
      const std::size_t size = best_cut(text, end);
      if (fits(text.substr(0, size))) return size;
      end = size - 1;  // a text cut elsewhere may have a token more
    }
  }

  /// Bytes that about `limit_` tokens stand for, at least one.
  [[nodiscard]] std::size_t reach(std::string_view text) const {
    const std::vector<token_id> ids = tokenizer_->encode(text.substr(0, std::min(limit_ * 12 + 64, text.size())), false);
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < std::min(ids.size(), limit_); ++i) bytes += tokenizer_->bytes(ids[i]).size();
    return std::clamp<std::size_t>(bytes, 1, text.size());
  }

  /// The best place to cut at or before `end`, in the later half of the reach if there is one; behind the first character at least.
  [[nodiscard]] static std::size_t best_cut(std::string_view text, std::size_t end) {
    const std::string_view head = text.substr(0, end);
    const std::size_t least = end / 2;
    for (const std::string_view border : {"\n\n", "\n", ". ", "? ", "! ", " "})
      if (const std::size_t at = head.rfind(border); at != std::string_view::npos && at + border.size() > least) return at + border.size();
    while (end > 0 && end < text.size() && !starts_character(text, end)) --end;
    return end > 0 ? end : utf8_sequence_at(text, 0).length;
  }

  static constexpr std::size_t slack = 16;  // tokens that a cut inside a word may add

  const tokenizer* tokenizer_;
  std::size_t limit_ = 0;
};

/// Parts that cover one text, made to fit: long ones cut, and with `fill` neighbours joined while they fit.
[[nodiscard]] inline text_stretches packed(const text_stretches& parts, const stretch_limit& limit, stretch_packing packing) {
  text_stretches result;
  bool open = false;  // whether the last stretch may still grow
  for (const std::string_view part : parts) {
    if (part.empty()) continue;
    if (open && packing == stretch_packing::fill) {
      const std::string_view joined(result.back().data(), result.back().size() + part.size());
      if (limit.fits(joined)) {
        result.back() = joined;
        continue;
      }
    }
    limit.cut(part, result);
    open = true;
  }
  return result;
}

/// The next line of `text` from `at` on, its line feed included.
[[nodiscard]] inline std::string_view line_at(std::string_view text, std::size_t at) {
  const std::size_t feed = text.find('\n', at);
  return text.substr(at, feed == std::string_view::npos ? feed : feed + 1 - at);
}

[[nodiscard]] inline bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

/// Cuts before each offset of `borders` (ascending); 0 and the end may be among them.
[[nodiscard]] inline text_stretches cut_before(std::string_view text, const std::vector<std::size_t>& borders) {
  text_stretches parts;
  std::size_t at = 0;
  for (const std::size_t border : borders)
    if (border > at && border < text.size()) {
      parts.push_back(text.substr(at, border - at));
      at = border;
    }
  if (at < text.size()) parts.push_back(text.substr(at));
  return parts;
}

}  // namespace detail
}  // namespace blockattn::inline v0
