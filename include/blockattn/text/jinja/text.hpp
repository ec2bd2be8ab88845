// Text that knows where it comes from.
//
// Every byte carries a mark: its origin (0: written in the template; otherwise a number of the caller's, of a message
// or a passage) and its emitter (which message or document was being written out; 0: none). The marks go with the bytes
// through slices, joins, replacements and everything else; a number made of a text has none, for digits can't be a
// control token. Lengths and positions are in characters, as Python counts them; the bytes are valid UTF-8.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/utf8.hpp"

namespace blockattn::inline v0::jinja {

struct mark {
  std::uint32_t origin = 0, emitter = 0;

  friend bool operator==(const mark&, const mark&) = default;
};

/// The bytes up to `end` (from the run before) have this mark.
struct run {
  std::size_t end = 0;
  mark from;

  friend bool operator==(const run&, const run&) = default;
};

class text {
 public:
  text() = default;
  explicit text(std::string bytes, mark from = {}) : bytes_(std::move(bytes)) {
    if (from != mark{} && !bytes_.empty()) runs_.push_back({bytes_.size(), from});
  }

  [[nodiscard]] std::string_view bytes() const { return bytes_; }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  /// Empty: all bytes have the mark {}. Otherwise they cover the text, and neighbours differ.
  [[nodiscard]] const std::vector<run>& runs() const { return runs_; }

  [[nodiscard]] mark at(std::size_t byte) const {
    const auto found =
        std::upper_bound(runs_.begin(), runs_.end(), byte, [](std::size_t b, const run& r) { return b < r.end; });
    return found == runs_.end() ? mark{} : found->from;
  }

  /// Characters.
  [[nodiscard]] std::size_t length() const {
    return static_cast<std::size_t>(std::count_if(
        bytes_.begin(), bytes_.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
  }

  /// The byte where character number `index` begins; the size if there are no more.
  [[nodiscard]] std::size_t byte_of(std::size_t index) const {
    std::size_t byte = 0;
    if (detail::skip_ascii(bytes_, 0) == bytes_.size()) return std::min(index, bytes_.size());
    for (; index > 0 && byte < bytes_.size(); --index) byte = next(byte);
    return byte;
  }
  /// The byte behind the character that begins at `byte`.
  [[nodiscard]] std::size_t next(std::size_t byte) const {
    do ++byte;
    while (byte < bytes_.size() && !detail::starts_character(bytes_, byte));
    return byte;
  }

  [[nodiscard]] text slice(std::size_t begin, std::size_t end) const;

  bool safe = false;  ///< Jinja's "Markup": + escapes what is added to it

 private:
  friend class text_builder;
  std::string bytes_;
  std::vector<run> runs_;
};

/// Puts a text together.
class text_builder {
 public:
  void append(std::string_view bytes, mark from = {}) {
    if (bytes.empty()) return;
    const std::size_t before = out_.bytes_.size();
    out_.bytes_ += bytes;
    note(before, from);
  }
  void append(const text& other) { append(other, 0, other.size()); }
  /// `emitter`: of the bytes that have none yet.
  void append(const text& other, std::size_t begin, std::size_t end, std::uint32_t emitter = 0) {
    if (begin >= end) return;
    if (other.runs().empty()) return append(other.bytes().substr(begin, end - begin), {0, emitter});
    auto r = std::upper_bound(other.runs().begin(), other.runs().end(), begin,
                              [](std::size_t b, const run& x) { return b < x.end; });
    for (std::size_t from = begin; from < end; ++r) {
      const std::size_t to = std::min(end, r->end);
      append(other.bytes().substr(from, to - from), {r->from.origin, r->from.emitter != 0 ? r->from.emitter : emitter});
      from = to;
    }
  }

  [[nodiscard]] std::size_t size() const { return out_.size(); }
  [[nodiscard]] text finish() { return std::exchange(out_, {}); }

 private:
  void note(std::size_t before, mark from) {
    auto& runs = out_.runs_;
    if (runs.empty() && from == mark{}) return;
    if (runs.empty() && before > 0) runs.push_back({before, {}});
    if (!runs.empty() && runs.back().from == from)
      runs.back().end = out_.bytes_.size();
    else
      runs.push_back({out_.bytes_.size(), from});
  }

  text out_;
};

inline text text::slice(std::size_t begin, std::size_t end) const {
  text_builder out;
  out.append(*this, begin, std::max(begin, end));
  text result = out.finish();
  result.safe = safe;
  return result;
}

/// The code point at a byte where one begins.
[[nodiscard]] inline char32_t code_point_at(std::string_view bytes, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(bytes[at + i])); };
  const std::size_t length = detail::utf8_sequence_at(bytes, at).length;
  if (length == 2) return ((byte(0) & 0x1F) << 6) | (byte(1) & 0x3F);
  if (length == 3) return ((byte(0) & 0x0F) << 12) | ((byte(1) & 0x3F) << 6) | (byte(2) & 0x3F);
  if (length == 4)
    return ((byte(0) & 0x07) << 18) | ((byte(1) & 0x3F) << 12) | ((byte(2) & 0x3F) << 6) | (byte(3) & 0x3F);
  return byte(0);
}

/// UTF-8 of a code point; U+FFFD for what isn't one (surrogates, above U+10FFFF).
[[nodiscard]] inline std::string utf8_of(char32_t c) {
  if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) c = 0xFFFD;
  const auto tail = [](char32_t bits) { return static_cast<char>(0x80 | (bits & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | (c >> 6)), tail(c)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | (c >> 12)), tail(c >> 6), tail(c)};
  return {static_cast<char>(0xF0 | (c >> 18)), tail(c >> 12), tail(c >> 6), tail(c)};
}

/// White space as Python's str.isspace() has it.
[[nodiscard]] constexpr bool is_space(char32_t c) {
  return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace blockattn::inline v0::jinja
