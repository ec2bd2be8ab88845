// Upper and lower case: ASCII, Latin, Greek and Cyrillic letters; others have none here.
#pragma once

#include <string>

#include "blockattn/text/jinja/text.hpp"

namespace blockattn::inline v0::jinja {

/// In Latin Extended-A, upper and lower case take turns: whether an even number is the upper case one.
[[nodiscard]] constexpr bool even_is_upper(char32_t c) {
  return !((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E));
}
[[nodiscard]] constexpr bool is_paired_latin(char32_t c) {
  return c >= 0x100 && c <= 0x17E && c != 0x130 && c != 0x131 && c != 0x138 && c != 0x149 && c != 0x178;
}

[[nodiscard]] constexpr char32_t lower_of(char32_t c) {
  if ((c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE && c != 0xD7)) return c + 32;
  if (c < 0x100) return c;
  if (c == 0x178) return 0xFF;
  if (is_paired_latin(c)) return (c % 2 == 0) == even_is_upper(c) ? c + 1 : c;
  if ((c >= 0x391 && c <= 0x3AB && c != 0x3A2) || (c >= 0x410 && c <= 0x42F)) return c + 32;
  if (c >= 0x400 && c <= 0x40F) return c + 80;
  return c;
}

[[nodiscard]] constexpr char32_t upper_of(char32_t c) {
  if ((c >= 'a' && c <= 'z') || (c >= 0xE0 && c <= 0xFE && c != 0xF7)) return c - 32;
  if (c == 0xB5) return 0x39C;
  if (c < 0xFF) return c;
  if (c == 0xFF) return 0x178;
  if (c == 0x131) return 'I';
  if (is_paired_latin(c)) return (c % 2 == 0) == even_is_upper(c) ? c : c - 1;
  if (c == 0x3C2) return 0x3A3;
  if ((c >= 0x3B1 && c <= 0x3CB) || (c >= 0x430 && c <= 0x44F)) return c - 32;
  if (c >= 0x450 && c <= 0x45F) return c - 80;
  return c;
}

[[nodiscard]] constexpr bool is_upper(char32_t c) { return lower_of(c) != c; }
[[nodiscard]] constexpr bool is_lower(char32_t c) { return upper_of(c) != c || c == 0xDF; }
[[nodiscard]] constexpr bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }
/// A letter of any script: beyond ASCII and Latin-1 all but spaces and punctuation blocks are taken as letters.
[[nodiscard]] constexpr bool is_letter(char32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  if (c < 0x100) return c == 0xAA || c == 0xB5 || c == 0xBA || (c >= 0xC0 && c != 0xD7 && c != 0xF7);
  return !is_space(c) && !(c >= 0x2000 && c <= 0x2BFF) && !(c >= 0x3000 && c <= 0x303F) &&
         !(c >= 0xFE00 && c <= 0xFE6F) && !(c >= 0xE000 && c <= 0xF8FF) && c < 0x1F000;
}

/// Each character by `change(code point, the one before or 0)`; ß becomes SS where upper case is asked for.
template <class Change>
[[nodiscard]] text with_case(const text& t, Change change) {
  text_builder out;
  char32_t before = 0;
  for (std::size_t at = 0; at < t.size();) {
    const std::size_t end = t.next(at);
    const char32_t c = code_point_at(t.bytes(), at);
    const char32_t changed = change(c, before);
    if (changed == c)
      out.append(t, at, end);
    else
      out.append(changed == 0xDF + 1'000'000 ? std::string("SS") : utf8_of(changed), t.at(at));
    before = c;
    at = end;
  }
  return out.finish();
}

[[nodiscard]] inline text lowered(const text& t) {
  return with_case(t, [](char32_t c, char32_t) { return lower_of(c); });
}
[[nodiscard]] inline text uppered(const text& t) {
  return with_case(t, [](char32_t c, char32_t) { return c == 0xDF ? char32_t{0xDF + 1'000'000} : upper_of(c); });
}
[[nodiscard]] inline text capitalized(const text& t) {
  return with_case(t, [](char32_t c, char32_t before) { return before == 0 ? upper_of(c) : lower_of(c); });
}
[[nodiscard]] inline text swapped_case(const text& t) {
  return with_case(t, [](char32_t c, char32_t) { return is_upper(c) ? lower_of(c) : upper_of(c); });
}
/// str.title(): a letter is upper case if the character before it is none.
[[nodiscard]] inline text titled(const text& t) {
  return with_case(t, [](char32_t c, char32_t before) { return is_letter(before) ? lower_of(c) : upper_of(c); });
}

}  // namespace blockattn::inline v0::jinja
