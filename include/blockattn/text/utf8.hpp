// UTF-8: checked, and mended where it is broken.
//
// Well-formed sequences are those of table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above
// U+10FFFF. A broken sequence is replaced as section 3.9 of the standard recommends ("substitution of maximal
// subparts"): the longest run of bytes that begins a well-formed sequence becomes one U+FFFD, any other byte that can't
// stand alone becomes one U+FFFD by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

namespace detail {

inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";  // U+FFFD

enum class utf8_state {
  whole,    ///< `length` bytes are one character
  broken,   ///< `length` bytes are a maximal subpart of an ill-formed sequence
  unended,  ///< the text ends inside a sequence that is well-formed so far; `length` bytes of it are there
};

struct utf8_sequence {
  std::size_t length = 0;
  utf8_state state = utf8_state::broken;
};

/// What a first byte asks for: the length of the sequence (0: can't begin one), and the range of its second byte.
struct utf8_lead {
  std::size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
};

[[nodiscard]] constexpr utf8_lead utf8_lead_of(unsigned char first) {
  if (first < 0x80) return {1};
  if (first < 0xC2) return {0};
  if (first < 0xE0) return {2};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

/// The sequence that starts at text[at]; at < text.size().
[[nodiscard]] constexpr utf8_sequence utf8_sequence_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const utf8_lead lead = utf8_lead_of(byte(at));
  if (lead.length <= 1) return {1, lead.length == 1 ? utf8_state::whole : utf8_state::broken};
  for (std::size_t i = 1; i < lead.length; ++i) {
    if (at + i == text.size()) return {i, utf8_state::unended};
    const unsigned char low = i == 1 ? lead.low : 0x80;
    const unsigned char high = i == 1 ? lead.high : 0xBF;
    if (byte(at + i) < low || byte(at + i) > high) return {i, utf8_state::broken};
  }
  return {lead.length, utf8_state::whole};
}

/// The first position at or after `at` that isn't ASCII; the text's size if there is none.
[[nodiscard]] inline std::size_t skip_ascii(std::string_view text, std::size_t at) {
  for (std::uint64_t word = 0; at + sizeof(word) <= text.size(); at += sizeof(word)) {
    std::memcpy(&word, text.data() + at, sizeof(word));
    if ((word & 0x8080808080808080U) != 0) break;
  }
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) ++at;
  return at;
}

/// Whether a character starts at `at`; the text is valid UTF-8, at < text.size().
[[nodiscard]] constexpr bool starts_character(std::string_view text, std::size_t at) {
  return (static_cast<unsigned char>(text[at]) & 0xC0U) != 0x80U;
}

}  // namespace detail

/// Text that is valid UTF-8, and how many U+FFFD had to be put into it.
struct utf8_result {
  std::string text;
  index_t replaced = 0;
};

[[nodiscard]] inline bool is_valid_utf8(std::string_view text) {
  for (std::size_t at = detail::skip_ascii(text, 0); at < text.size(); at = detail::skip_ascii(text, at)) {
    const detail::utf8_sequence sequence = detail::utf8_sequence_at(text, at);
    if (sequence.state != detail::utf8_state::whole) return false;
    at += sequence.length;
  }
  return true;
}

/// `text` with each maximal ill-formed subpart replaced by U+FFFD. Valid text comes back as it is.
[[nodiscard]] inline utf8_result to_valid_utf8(std::string_view text) {
  utf8_result result;
  result.text.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = detail::skip_ascii(text, at);
    result.text.append(text, at, end - at);
    if (end == text.size()) break;
    const detail::utf8_sequence sequence = detail::utf8_sequence_at(text, end);
    const bool whole = sequence.state == detail::utf8_state::whole;
    result.text += whole ? text.substr(end, sequence.length) : detail::replacement_character;
    result.replaced += whole ? 0 : 1;
    at = end + sequence.length;
  }
  return result;
}

}  // namespace blockattn::inline v0
