// What is done to a text before it is cut into words: Unicode forms, letter case, replacements, spaces.
//
// A list of steps, each of which may leave the text alone at no cost. Text is valid UTF-8 before and after each.
#pragma once

#include <utf8proc.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/text/regex.hpp"
#include "blockattn/text/utf8.hpp"

namespace blockattn::inline v0 {

/// Unicode's normalization forms (UAX 15), of Unicode 9, as the published tokenizers have them.
enum class unicode_form : std::uint8_t { nfc, nfd, nfkc, nfkd };

namespace detail {

/// The character that starts at text[at], and its length; the text is valid UTF-8.
struct character {
  char32_t code = 0;
  std::size_t length = 0;
};

[[nodiscard]] inline character character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (first < 0xF0) return {(first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

inline void append_character(char32_t code, std::string& out) {
  char bytes[4];
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), reinterpret_cast<utf8proc_uint8_t*>(bytes));
  out.append(bytes, static_cast<std::size_t>(size));
}

/// Unicode's property White_Space.
[[nodiscard]] constexpr bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Letters, marks, digits and connecting punctuation: what makes up words in regular expressions.
[[nodiscard]] inline bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return false;
  }
}

/// Bytes of white space at the beginning of `text`.
[[nodiscard]] inline std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const character c = character_at(text, at);
    if (!is_white_space(c.code)) break;
    at += c.length;
  }
  return at;
}

/// Bytes of white space at the end of `text`.
[[nodiscard]] inline std::size_t trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t at = end - 1;
    while (!starts_character(text, at)) --at;
    if (!is_white_space(character_at(text, at).code)) break;
    end = at;
  }
  return text.size() - end;
}

/// Whether no character of `text` is below U+0300: such text is in form NFC already.
[[nodiscard]] inline bool below_marks(std::string_view text) {
  for (std::size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at + 1))
    if (static_cast<unsigned char>(text[at]) >= 0xCC) return false;
  return true;
}

/// Marks and composed characters that Unicode has assigned since version 9. The published tokenizers normalise by that version:
/// to them, these are characters that nothing is done to.
[[nodiscard]] constexpr bool is_later_mark(char32_t c) {
  constexpr char32_t ranges[][2] = {
      {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},
      {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50},
      {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
      {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
      {0x11D97, 0x11D97}, {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}};
  for (const auto& [first, last] : ranges)
    if (c <= last) return c >= first;
  return false;
}

/// One stretch without such characters.
[[nodiscard]] inline std::string to_form_by_utf8proc(std::string_view text, unicode_form form) {
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) / 8)
    throw argument_error(cat("[normalizer] a text of ", text.size(), " bytes; allowed: up to 256 MiB. Give it in parts."));
  int options = UTF8PROC_STABLE;
  options |= form == unicode_form::nfc || form == unicode_form::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == unicode_form::nfkc || form == unicode_form::nfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()), &result,
                   static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (size == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
  if (size < 0) throw error(cat("[normalizer] ", utf8proc_errmsg(size)));
  return {reinterpret_cast<const char*>(result), static_cast<std::size_t>(size)};
}

[[nodiscard]] inline std::string to_form(std::string_view text, unicode_form form) {
  std::string out;
  std::size_t done = 0;
  for (std::size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    const character c = character_at(text, at);
    if (is_later_mark(c.code)) {
      out += to_form_by_utf8proc(text.substr(done, at - done), form);
      out += text.substr(at, c.length);
      done = at + c.length;
    }
    at += c.length;
  }
  return out += to_form_by_utf8proc(text.substr(done), form);
}

/// Small letters, character by character: what one character becomes doesn't depend on its neighbours.
[[nodiscard]] inline std::string to_small_letters(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const character c = character_at(text, at);
    if (c.code == 0x130) out += "i\xCC\x87";  // the only character that becomes two
    else append_character(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code))), out);
    at += c.length;
  }
  return out;
}

/// Without the marks that have no width of their own.
[[nodiscard]] inline std::string without_accents(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const character c = character_at(text, at);
    if (utf8proc_category(static_cast<utf8proc_int32_t>(c.code)) != UTF8PROC_CATEGORY_MN) out += text.substr(at, c.length);
    at += c.length;
  }
  return out;
}

[[nodiscard]] inline std::string replace_all(std::string_view text, std::string_view what, std::string_view with) {
  std::string out;
  std::size_t done = 0;
  for (std::size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, done)) {
    out += text.substr(done, at - done);
    out += with;
    done = at + what.size();
  }
  return out += text.substr(done);
}

[[nodiscard]] inline std::string replace_matches(std::string_view text, const regex& pattern, std::string_view with) {
  regex_scratch scratch;
  std::string out;
  std::size_t done = 0;
  for (std::size_t at = 0; at <= text.size();) {
    const auto found = pattern.search(text, at, scratch);
    if (!found.found) break;
    out += text.substr(done, found.begin - done);
    out += with;
    done = at = found.end;
    if (found.end == found.begin) at += at < text.size() ? character_at(text, at).length : 1;
  }
  return done < text.size() ? out += text.substr(done) : out;
}

/// Without spaces (U+0020) at both ends, and one where there are several.
[[nodiscard]] inline std::string single_spaces(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (c != ' ' || (!out.empty() && out.back() != ' ')) out += c;
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace detail

/// Immutable once it is built.
class normalizer {
 public:
  struct step {
    std::function<bool(std::string_view)> changes;  ///< false: surely not; costs little
    std::function<std::string(std::string_view)> apply;
  };

  void add(step s) { steps_.push_back(std::move(s)); }
  [[nodiscard]] bool empty() const { return steps_.empty(); }

  /// The normalised text: a view of `text` if nothing changes it, else of `buffer`.
  [[nodiscard]] std::string_view apply(std::string_view text, std::string& buffer) const {
    for (const step& s : steps_) {
      if (!s.changes(text)) continue;
      buffer = s.apply(text);
      text = buffer;
    }
    return text;
  }

  [[nodiscard]] static step form(unicode_form form) {
    const auto changes = [form](std::string_view text) {
      return form == unicode_form::nfc ? !detail::below_marks(text) : detail::skip_ascii(text, 0) < text.size();
    };
    return {changes, [form](std::string_view text) { return detail::to_form(text, form); }};
  }
  [[nodiscard]] static step lowercase() { return {always, detail::to_small_letters}; }
  [[nodiscard]] static step strip_accents() {
    return {[](std::string_view text) { return detail::skip_ascii(text, 0) < text.size(); }, detail::without_accents};
  }
  [[nodiscard]] static step strip(bool left, bool right) {
    return {always, [left, right](std::string_view text) {
              if (left) text.remove_prefix(detail::leading_space(text));
              if (right) text.remove_suffix(detail::trailing_space(text));
              return std::string(text);
            }};
  }
  /// `what` must not be empty.
  [[nodiscard]] static step replace(std::string what, std::string with) {
    const auto changes = [what](std::string_view text) { return text.find(what) != std::string_view::npos; };
    return {changes, [what, with](std::string_view text) { return detail::replace_all(text, what, with); }};
  }
  [[nodiscard]] static step replace(detail::regex pattern, std::string with) {
    return {always, [pattern, with](std::string_view text) { return detail::replace_matches(text, pattern, with); }};
  }
  /// Puts `prefix` before a text that isn't empty; `once`: nor begins with it already.
  [[nodiscard]] static step prepend(std::string prefix, bool once = false) {
    const auto changes = [prefix, once](std::string_view text) { return !text.empty() && !(once && text.starts_with(prefix)); };
    return {changes, [prefix](std::string_view text) { return cat(prefix, text); }};
  }
  [[nodiscard]] static step single_spaces() {
    return {[](std::string_view text) { return text.find(' ') != std::string_view::npos; }, detail::single_spaces};
  }

 private:
  [[nodiscard]] static bool always(std::string_view text) { return !text.empty(); }

  std::vector<step> steps_;
};

}  // namespace blockattn::inline v0
