// Patterns of tokenizer.json files, which are written for the library Oniguruma (its Ruby syntax), as PCRE2 understands them.
//
// Where the two differ: \s is White_Space, \w has marks and connecting punctuation, \h is a hexadecimal digit, ^ and $ match at
// line ends. Sets inside of sets and their intersection (&&) are refused: PCRE2 would take them for something else. Source:
// https://github.com/kkos/oniguruma/blob/master/doc/RE
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "blockattn/core/error.hpp"
#include "blockattn/text/regex.hpp"

namespace blockattn::inline v0::detail {

/// The pattern for PCRE2. Throws argument_error, which names what isn't supported.
[[nodiscard]] inline std::string from_oniguruma(std::string_view pattern) {
  constexpr std::string_view space = "\\t-\\r\\x{85}\\p{Z}", word = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}", hex = "0-9A-Fa-f";
  std::string out;
  bool in_set = false;
  for (std::size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    if (c == '\\' && at + 1 < pattern.size()) {
      const char next = pattern[++at];
      const std::string_view set = next == 's' || next == 'S' ? space : next == 'w' || next == 'W' ? word : next == 'h' || next == 'H' ? hex : "";
      const bool negated = next == 'S' || next == 'W' || next == 'H';
      if (!set.empty() && in_set && negated && next == 'S') out += "\\S";  // differs from White_Space by U+180E alone
      else if (!set.empty() && in_set && negated) throw argument_error(cat("[regex] '", pattern, "' has \\", next, " in a set; not supported"));
      else if (!set.empty()) out += in_set ? std::string(set) : cat(negated ? "[^" : "[", set, "]");
      else out.append({c, next});
      continue;
    }
    if (in_set && c == '[' && !(at + 1 < pattern.size() && pattern[at + 1] == ':'))
      throw argument_error(cat("[regex] '", pattern, "' has a set inside of a set at ", at, "; not supported"));
    if (in_set && c == '&' && at + 1 < pattern.size() && pattern[at + 1] == '&')
      throw argument_error(cat("[regex] '", pattern, "' intersects sets (&&) at ", at, "; not supported"));
    if (in_set && c == '[') {  // [:alpha:]
      const std::size_t end = pattern.find(":]", at);
      if (end == std::string_view::npos) throw argument_error(cat("[regex] '", pattern, "' has no end of [: at ", at));
      out += pattern.substr(at, end + 2 - at);
      at = end + 1;
      continue;
    }
    const bool opens = !in_set && c == '[';
    if (opens) in_set = true;
    else if (in_set && c == ']') in_set = false;
    out += c;
    if (opens) {  // a ] right after [ or [^ belongs to the set
      if (at + 1 < pattern.size() && pattern[at + 1] == '^') out += pattern[++at];
      if (at + 1 < pattern.size() && pattern[at + 1] == ']') out += "\\", out += pattern[++at];
    }
  }
  return out;
}

/// A text as a pattern that matches it and nothing else.
[[nodiscard]] inline std::string literal_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z');
    if (byte == 0) out += "\\x{0}";
    else if (plain || byte < 0x20) out += c;
    else out.append({'\\', c});
  }
  return out;
}

}  // namespace blockattn::inline v0::detail
