// Filters that make texts and numbers.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/arguments.hpp"
#include "blockattn/text/jinja/format.hpp"
#include "blockattn/text/jinja/operators.hpp"
#include "blockattn/text/jinja/string_methods.hpp"

namespace blockattn::inline v0::jinja {

namespace detail_filters {

/// What stands in a string; of other values, str().
[[nodiscard]] inline text soft(runtime& r, value v) {
  text t = str(r, v);
  r.use().bytes(t.size());
  return t;
}

template <text (*Change)(const text&)>
value change(runtime& r, value v, const arguments& given) {
  takes_nothing("the filter", given);
  return r.heap().make(Change(soft(r, v)));
}

inline value trim(runtime& r, value v, const arguments& given) {
  const bound<1> a("trim", given, {"chars"});
  return r.heap().make(stripped(soft(r, v), a.given(0) ? &a.string(0) : nullptr, true, true));
}

inline value replace(runtime& r, value v, const arguments& given) {
  const bound<3> a("replace", given, {"old", "new", "count"}, 2);
  return r.heap().make(
      replaced(r.use(), soft(r, v), soft(r, a.get(0)), soft(r, a.get(1)), a.given(2) ? a.integer(2, -1) : -1));
}

inline value string(runtime& r, value v, const arguments& given) {
  takes_nothing("string", given);
  return v.is(kind::text) ? v : r.heap().make(str(r, v));
}

inline value safe(runtime& r, value v, const arguments& given) {
  takes_nothing("safe", given);
  text t = soft(r, v);
  t.safe = true;
  return r.heap().make(std::move(t));
}

inline value escape(runtime& r, value v, const arguments& given) {
  takes_nothing("escape", given);
  text t = soft(r, v);
  return r.heap().make(t.safe ? std::move(t) : detail_operators::escaped(t));
}

inline value force_escape(runtime& r, value v, const arguments& given) {
  takes_nothing("forceescape", given);
  return r.heap().make(detail_operators::escaped(soft(r, v)));
}

inline value center(runtime& r, value v, const arguments& given) {
  const bound<1> a("center", given, {"width"});
  return detail_methods::justify(r, r.heap().make(soft(r, v)), {{a.get(0, std::int64_t{80})}, {}}, '^');
}

inline value indent(runtime& r, value v, const arguments& given) {
  const bound<3> a("indent", given, {"width", "first", "blank"});
  if (!v.is(kind::text)) fail("indent needs a string, got ", type_name(v));
  const std::int64_t spaces = a.has(0) && a.get(0).is(kind::text) ? 0 : std::max<std::int64_t>(a.integer(0, 4), 0);
  r.use().check_string(static_cast<std::size_t>(spaces));
  const text width =
      a.has(0) && a.get(0).is(kind::text) ? a.string(0) : text(std::string(static_cast<std::size_t>(spaces), ' '));
  text_builder with_end, out;
  with_end.append(soft(r, v));
  with_end.append("\n");
  const std::vector<text> lines = lines_of(with_end.finish());
  if (a.flag(1)) out.append(width);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n");
    if (i > 0 && (a.flag(2) || !lines[i].empty())) out.append(width);
    out.append(lines[i]);
    r.use().check_string(out.size());
  }
  return r.heap().make(out.finish());
}

inline value truncate(runtime& r, value v, const arguments& given) {
  const bound<4> a("truncate", given, {"length", "killwords", "end", "leeway"});
  const text t = soft(r, v);
  const text end = a.has(2) ? a.string(2) : text("...");
  const std::int64_t length = a.integer(0, 255), leeway = a.given(3) ? a.integer(3, 5) : 5,
                     keep = length - static_cast<std::int64_t>(end.length());
  if (keep < 0 || leeway < 0)
    fail("truncate: length ", length, " is shorter than the end, or leeway ", leeway, " is negative");
  if (static_cast<std::int64_t>(t.length()) <= length + leeway) return r.heap().make(t);
  text kept = t.slice(0, t.byte_of(static_cast<std::size_t>(keep)));
  const std::size_t space = kept.bytes().rfind(' ');
  text_builder out;
  out.append(kept, 0, a.flag(1) || space == std::string_view::npos ? kept.size() : space);
  out.append(end);
  return r.heap().make(out.finish());
}

inline value word_count(runtime& r, value v, const arguments& given) {
  takes_nothing("wordcount", given);
  const text t = soft(r, v);
  std::int64_t words = 0;
  bool inside = false;
  for (std::size_t at = 0; at < t.size(); at = t.next(at)) {
    const char32_t c = code_point_at(t.bytes(), at);
    const bool word = is_letter(c) || is_digit(c) || c == '_';
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return words;
}

inline value format(runtime& r, value v, const arguments& given) {
  if (!given.positional.empty() && !given.named.empty()) fail("format takes either positions or names");
  const value text_value = r.heap().make(soft(r, v));
  value values = r.heap().make(given.positional, flavour::tuple);
  if (!given.named.empty()) {
    dict d;
    for (const auto& [name, item] : given.named) d.set(r.heap().make(name), item);
    values = r.heap().make(std::move(d));
  }
  return percent_formatter(r, text_value.string(), values).run();
}

inline value to_json(runtime& r, value v, const arguments& given) {
  const bound<4> a("tojson", given, {"ensure_ascii", "indent", "separators", "sort_keys"});
  json_style style;
  style.ascii = a.flag(0);
  style.sort_keys = a.flag(3);
  if (a.given(1)) {
    style.item_separator = ",";
    if (!a.get(1).is(kind::text) && a.integer(1, 0) > 1000)
      fail("tojson: an indent of ", a.integer(1, 0), "; allowed: up to 1000");
    style.indent = a.get(1).is(kind::text)
                       ? std::string(a.string(1).bytes())
                       : std::string(static_cast<std::size_t>(std::max<std::int64_t>(a.integer(1, 0), 0)), ' ');
  }
  if (a.given(2)) {
    const std::vector<value> pair = items_of(r, a.get(2));
    if (pair.size() != 2 || !pair[0].is(kind::text) || !pair[1].is(kind::text))
      fail("tojson: separators are two strings");
    style.item_separator = pair[0].string().bytes();
    style.key_separator = pair[1].string().bytes();
  }
  return r.heap().make(printer(r.use()).json(v, style));
}

/// A whole number from its digits, or nothing. Base 0: by prefix.
[[nodiscard]] inline std::optional<std::int64_t> parse_integer(std::string_view s, int base) {
  const bool negative = s.starts_with('-');
  if (negative || s.starts_with('+')) s.remove_prefix(1);
  if (s.size() > 2 && s[0] == '0') {
    const char p = static_cast<char>(s[1] | 0x20);
    const int prefix = p == 'x' ? 16 : p == 'o' ? 8 : p == 'b' ? 2 : 0;
    if (prefix != 0 && (base == prefix || base == 0)) s.remove_prefix(2), base = prefix;
  }
  std::string digits;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] == '_' && i > 0 && i + 1 < s.size() && s[i - 1] != '_') continue;
    digits += s[i];
  }
  std::uint64_t n = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), n, base == 0 ? 10 : base);
  if (problem == std::errc::result_out_of_range || (problem == std::errc() && n > 9223372036854775807U))
    fail("a whole number beyond 64 bits");
  if (problem != std::errc() || end != digits.data() + digits.size() || digits.empty()) return std::nullopt;
  return negative ? -static_cast<std::int64_t>(n) : static_cast<std::int64_t>(n);
}

[[nodiscard]] inline std::optional<double> parse_float(std::string_view s) {
  std::string digits(s);
  const bool plus = digits.starts_with('+');
  if (plus) digits.erase(0, 1);
  std::string word;
  for (const char c : digits) word += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  double d = 0;
  const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), d);
  if (problem == std::errc::result_out_of_range) return word.starts_with('-') ? -HUGE_VAL : HUGE_VAL;
  if (problem != std::errc() || end != word.data() + word.size() || (plus && word.starts_with('-')))
    return std::nullopt;
  return d;
}

[[nodiscard]] inline std::optional<std::int64_t> whole_of(double d) {
  if (std::isnan(d) || std::isinf(d)) return std::nullopt;
  if (std::abs(d) >= 9.2e18) fail("a whole number beyond 64 bits");
  return static_cast<std::int64_t>(d);
}

inline value to_int(runtime& r, value v, const arguments& given) {
  const bound<2> a("int", given, {"default", "base"});
  const value standard = a.get(0, std::int64_t{0});
  std::optional<std::int64_t> n;
  if (v.is(kind::undefined)) fail_undefined(v);
  if (v.is_integral()) return v.integer();
  if (v.is(kind::floating)) n = whole_of(v.number());
  if (v.is(kind::text)) {
    const std::int64_t base = a.integer(1, 10);
    if (base != 0 && (base < 2 || base > 36)) return standard;
    const text t = stripped(soft(r, v), nullptr, true, true);
    n = parse_integer(t.bytes(), static_cast<int>(base));
    if (!n)
      if (const auto d = parse_float(t.bytes())) n = whole_of(*d);
  }
  return n ? value(*n) : standard;
}

inline value to_float(runtime& r, value v, const arguments& given) {
  const bound<1> a("float", given, {"default"});
  if (v.is(kind::undefined)) fail_undefined(v);
  if (v.is_number()) return v.number();
  std::optional<double> d;
  if (v.is(kind::text)) d = parse_float(stripped(soft(r, v), nullptr, true, true).bytes());
  return d ? value(*d) : a.get(0, 0.0);
}

inline value absolute(runtime&, value v, const arguments& given) {
  takes_nothing("abs", given);
  if (v.is(kind::undefined)) fail_undefined(v);
  if (!v.is_number()) fail("abs of a value of type ", type_name(v));
  if (v.is(kind::floating)) return std::abs(v.number());
  return v.integer() < 0 ? negate(v, true) : value(v.integer());
}

/// Half to even by the decimal digits, as Python rounds.
[[nodiscard]] inline double rounded(double d, std::int64_t places) {
  if (!std::isfinite(d) || places > 300) return d;
  if (places >= 0) {
    std::array<char, 700> buffer{};
    const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), d, std::chars_format::fixed,
                                   static_cast<int>(places))
                         .ptr;
    double result = 0;
    (void)std::from_chars(buffer.data(), end, result);
    return result;
  }
  const double unit = std::pow(10.0, static_cast<double>(-places));
  return std::nearbyint(d / unit) * unit;
}

inline value round(runtime&, value v, const arguments& given) {
  const bound<2> a("round", given, {"precision", "method"});
  const std::int64_t places = a.integer(0, 0);
  const std::string_view how = a.has(1) ? a.string(1).bytes() : "common";
  if (how != "common" && how != "ceil" && how != "floor") fail("round: method must be common, ceil or floor");
  if (v.is(kind::undefined)) fail_undefined(v);
  if (!v.is_number()) fail("round of a value of type ", type_name(v));
  if (how == "common") {
    if (v.is_integral() && places >= 0) return v.integer();
    const double d = rounded(v.number(), places);
    return v.is_integral() ? value(static_cast<std::int64_t>(d)) : value(d);
  }
  const double scale = std::pow(10.0, static_cast<double>(places)), d = v.number() * scale;
  return (how == "ceil" ? std::ceil(d) : std::floor(d)) / scale;
}

inline value url_encode(runtime& r, value v, const arguments& given) {
  takes_nothing("urlencode", given);
  if (!v.is(kind::text)) fail("urlencode is supported for strings, got ", type_name(v));
  const text& t = v.string();
  text_builder out;
  for (std::size_t at = 0; at < t.size(); ++at) {
    const char c = t.bytes()[at];
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x80 && (is_letter(u) || is_digit(u) || std::string_view("_.-~/").find(c) != std::string_view::npos))
      out.append(t, at, at + 1);
    else
      out.append(std::string{'%', "0123456789ABCDEF"[u >> 4], "0123456789ABCDEF"[u & 15]}, t.at(at));
  }
  return r.heap().make(out.finish());
}

}  // namespace detail_filters
}  // namespace blockattn::inline v0::jinja
