// Methods of Python's strings. Every result keeps the marks of what it was made of.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/arguments.hpp"
#include "blockattn/text/jinja/format.hpp"
#include "blockattn/text/jinja/iterate.hpp"
#include "blockattn/text/jinja/letter_case.hpp"
#include "blockattn/text/jinja/print.hpp"

namespace blockattn::inline v0::jinja {

struct method {
  std::string_view name;
  native_function call;
};

/// Takes characters off the ends: white space, or those of `set`.
[[nodiscard]] inline text stripped(const text& t, const text* set, bool left, bool right) {
  const auto goes = [&](std::size_t at) {
    const std::size_t end = t.next(at);
    if (set == nullptr) return is_space(code_point_at(t.bytes(), at));
    const std::string_view c = t.bytes().substr(at, end - at);
    for (std::size_t s = 0; s < set->size(); s = set->next(s))
      if (set->bytes().substr(s, set->next(s) - s) == c) return true;
    return false;
  };
  std::size_t begin = 0, end = t.size();
  while (left && begin < end && goes(begin)) begin = t.next(begin);
  while (right && end > begin) {
    std::size_t last = end - 1;
    while (last > begin && !detail::starts_character(t.bytes(), last)) --last;
    if (!goes(last)) break;
    end = last;
  }
  return t.slice(begin, end);
}

/// str.replace; `most` < 0: all.
[[nodiscard]] inline text replaced(budget& b, const text& t, const text& old, const text& by, std::int64_t most) {
  text_builder out;
  std::size_t from = 0;
  for (std::size_t at = 0; most != 0 && at <= t.size();) {
    const std::size_t found = old.empty() ? at : t.bytes().find(old.bytes(), at);
    if (found == std::string_view::npos) break;
    out.append(t, from, found);
    out.append(by);
    b.step();
    b.check_string(out.size());
    from = found + old.size();
    at = old.empty() ? (found < t.size() ? t.next(found) : found + 1) : from;
    if (most > 0) --most;
  }
  out.append(t, from, t.size());
  return out.finish();
}

/// str.splitlines
[[nodiscard]] inline std::vector<text> lines_of(const text& t, bool keep_ends = false) {
  std::vector<text> lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < t.size();) {
    const char32_t c = code_point_at(t.bytes(), at);
    std::size_t end = t.next(at);
    if ((c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029) {
      if (c == '\r' && end < t.size() && t.bytes()[end] == '\n') ++end;
      lines.push_back(t.slice(begin, keep_ends ? end : at));
      begin = end;
    }
    at = end;
  }
  if (begin < t.size()) lines.push_back(t.slice(begin, t.size()));
  return lines;
}

namespace detail_methods {

using span = std::pair<std::size_t, std::size_t>;  // bytes

/// Runs of what isn't white space; after `most` splits the rest stays whole.
[[nodiscard]] inline std::vector<span> words_of(const text& t, std::int64_t most) {
  std::vector<span> words;
  const auto space = [&](std::size_t at) { return is_space(code_point_at(t.bytes(), at)); };
  for (std::size_t at = 0; at < t.size();) {
    while (at < t.size() && space(at)) at = t.next(at);
    if (at == t.size()) break;
    std::size_t end = at;
    if (most >= 0 && static_cast<std::int64_t>(words.size()) == most) {
      end = t.size();
    } else {
      while (end < t.size() && !space(end)) end = t.next(end);
    }
    words.emplace_back(at, end);
    if (most >= 0 && static_cast<std::int64_t>(words.size()) > most) break;
    at = end;
  }
  return words;
}

[[nodiscard]] inline std::vector<span> words_from_right(const text& t, std::int64_t most) {
  std::vector<span> words = words_of(t, -1);
  if (most < 0 || static_cast<std::int64_t>(words.size()) <= most + 1) return words;
  const auto rest = words.size() - static_cast<std::size_t>(most);
  words[rest - 1].first = 0;
  words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(rest) - 1);
  return words;
}

[[nodiscard]] inline std::vector<span> split_at(const text& t, std::string_view separator, std::int64_t most,
                                                bool right) {
  if (separator.empty()) fail("split() at an empty string");
  std::vector<span> parts;
  if (!right) {
    std::size_t from = 0;
    while (most < 0 || static_cast<std::int64_t>(parts.size()) < most) {
      const std::size_t found = t.bytes().find(separator, from);
      if (found == std::string_view::npos) break;
      parts.emplace_back(from, found);
      from = found + separator.size();
    }
    parts.emplace_back(from, t.size());
    return parts;
  }
  std::size_t end = t.size();
  while (most < 0 || static_cast<std::int64_t>(parts.size()) < most) {
    const std::size_t found =
        end < separator.size() ? std::string_view::npos : t.bytes().rfind(separator, end - separator.size());
    if (found == std::string_view::npos) break;
    parts.emplace_back(found + separator.size(), end);
    end = found;
  }
  parts.emplace_back(0, end);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

inline value split(runtime& r, value self, const arguments& given, bool right) {
  const bound<2> a(right ? "rsplit" : "split", given, {"sep", "maxsplit"});
  const std::int64_t most = a.integer(1, -1);
  const text& t = self.string();
  r.use().bytes(t.size());
  const auto spans = a.given(0) ? split_at(t, a.string(0).bytes(), most, right)
                     : right    ? words_from_right(t, most)
                                : words_of(t, most);
  r.use().check_items(spans.size());
  std::vector<value> parts;
  for (const auto& [begin, end] : spans) parts.push_back(r.heap().make(t.slice(begin, end)));
  return r.heap().make(std::move(parts));
}

inline value strip(runtime& r, value self, const arguments& given, bool left, bool right) {
  const bound<1> a("strip", given, {"chars"});
  r.use().bytes(self.string().size());
  return r.heap().make(stripped(self.string(), a.given(0) ? &a.string(0) : nullptr, left, right));
}

/// The bytes that find(sub, start, end) looks at.
[[nodiscard]] inline span range_of(const text& t, const bound<3>& a) {
  const auto n = static_cast<std::int64_t>(t.length());
  const auto place = [&](std::size_t i, std::int64_t standard) {
    std::int64_t at = a.given(i) ? a.integer(i, 0) : standard;
    if (at < 0) at = std::max<std::int64_t>(at + n, 0);
    return t.byte_of(static_cast<std::size_t>(std::min(at, n)));
  };
  return {place(1, 0), place(2, n)};
}

inline value find(runtime& r, value self, const arguments& given, std::string_view name, bool right, bool must) {
  const bound<3> a(name, given, {"sub", "start", "end"}, 1);
  const text& t = self.string();
  r.use().bytes(t.size());
  const auto [begin, end] = range_of(t, a);
  const std::string_view where = t.bytes().substr(begin, end > begin ? end - begin : 0);
  const std::size_t found = begin > end ? std::string_view::npos
                            : right     ? where.rfind(a.string(0).bytes())
                                        : where.find(a.string(0).bytes());
  if (found == std::string_view::npos) {
    if (must) fail("substring not found");
    return std::int64_t{-1};
  }
  return static_cast<std::int64_t>(t.slice(0, begin + found).length());
}

inline value count(runtime& r, value self, const arguments& given) {
  const bound<3> a("count", given, {"sub", "start", "end"}, 1);
  const text& t = self.string();
  r.use().bytes(t.size());
  const auto [begin, end] = range_of(t, a);
  const std::string_view where = t.bytes().substr(begin, end > begin ? end - begin : 0), sub = a.string(0).bytes();
  if (sub.empty()) return static_cast<std::int64_t>(t.slice(begin, end).length()) + 1;
  std::int64_t n = 0;
  for (std::size_t at = where.find(sub); at != std::string_view::npos; at = where.find(sub, at + sub.size())) ++n;
  return n;
}

/// startswith and endswith: a string, or a tuple of them.
inline value affix(runtime& r, value self, const arguments& given, bool end_of) {
  const bound<3> a(end_of ? "endswith" : "startswith", given, {"prefix", "start", "end"}, 1);
  const text& t = self.string();
  const auto [begin, end] = range_of(t, a);
  const std::string_view where = t.bytes().substr(begin, end > begin ? end - begin : 0);
  const auto fits = [&](value v) {
    if (!v.is(kind::text))
      fail(end_of ? "endswith" : "startswith", "() needs a string or a tuple of strings, got ", type_name(v));
    r.use().bytes(v.string().size());
    return end_of ? where.ends_with(v.string().bytes()) : where.starts_with(v.string().bytes());
  };
  const value what = a.get(0);
  if (!what.is(kind::list) || what.sequence().from != flavour::tuple) return fits(what);
  for (const value& v : what.sequence().items)
    if (fits(v)) return true;
  return false;
}

inline value without_affix(runtime& r, value self, const arguments& given, bool end_of) {
  const bound<1> a(end_of ? "removesuffix" : "removeprefix", given, {"affix"}, 1);
  const text& t = self.string();
  const std::string_view affix = a.string(0).bytes();
  if (end_of && t.bytes().ends_with(affix)) return r.heap().make(t.slice(0, t.size() - affix.size()));
  if (!end_of && t.bytes().starts_with(affix)) return r.heap().make(t.slice(affix.size(), t.size()));
  return self;
}

inline value partition(runtime& r, value self, const arguments& given, bool right) {
  const bound<1> a("partition", given, {"sep"}, 1);
  const text& t = self.string();
  const text& separator = a.string(0);
  if (separator.empty()) fail("partition() at an empty string");
  const std::size_t found = right ? t.bytes().rfind(separator.bytes()) : t.bytes().find(separator.bytes());
  auto& heap = r.heap();
  const value nothing = heap.make(text());
  if (found == std::string_view::npos)
    return heap.make(right ? std::vector{nothing, nothing, self} : std::vector{self, nothing, nothing}, flavour::tuple);
  const std::size_t after = found + separator.size();
  return heap.make(
      std::vector{heap.make(t.slice(0, found)), heap.make(t.slice(found, after)), heap.make(t.slice(after, t.size()))},
      flavour::tuple);
}

/// Fills up to a width; where the text goes: < left, > right, ^ centre as str.center has it.
inline value justify(runtime& r, value self, const arguments& given, char where) {
  const bound<2> a("justify", given, {"width", "fillchar"}, 1);
  const text& t = self.string();
  const std::string_view fill = a.has(1) ? a.string(1).bytes() : " ";
  const std::int64_t missing = a.integer(0, 0) - static_cast<std::int64_t>(t.length());
  if (missing <= 0) return self;
  r.use().check_string(static_cast<std::size_t>(missing));
  const std::int64_t left = where == '<' ? 0 : where == '>' ? missing : missing / 2 + (missing & a.integer(0, 0) & 1);
  text_builder out;
  for (std::int64_t i = 0; i < left; ++i) out.append(fill);
  out.append(t);
  for (std::int64_t i = left; i < missing; ++i) out.append(fill);
  return r.heap().make(out.finish());
}

inline value zfill(runtime& r, value self, const arguments& given) {
  const bound<1> a("zfill", given, {"width"}, 1);
  const text& t = self.string();
  const std::int64_t missing = a.integer(0, 0) - static_cast<std::int64_t>(t.length());
  if (missing <= 0) return self;
  r.use().check_string(static_cast<std::size_t>(missing));
  const std::size_t sign = t.bytes().starts_with('-') || t.bytes().starts_with('+') ? 1 : 0;
  text_builder out;
  out.append(t, 0, sign);
  for (std::int64_t i = 0; i < missing; ++i) out.append("0");
  out.append(t, sign, t.size());
  return r.heap().make(out.finish());
}

inline value join(runtime& r, value self, const arguments& given) {
  const bound<1> a("join", given, {"iterable"}, 1);
  text_builder out;
  bool first = true;
  for (const value& item : items_of(r, a.get(0))) {
    if (!item.is(kind::text)) fail("join() of something that isn't a string: ", type_name(item));
    if (!std::exchange(first, false)) out.append(self.string());
    out.append(item.string());
    r.use().check_string(out.size());
  }
  return r.heap().make(out.finish());
}

inline value replace(runtime& r, value self, const arguments& given) {
  const bound<3> a("replace", given, {"old", "new", "count"}, 2);
  r.use().bytes(self.string().size());
  return r.heap().make(replaced(r.use(), self.string(), a.string(0), a.string(1), a.integer(2, -1)));
}

inline value splitlines(runtime& r, value self, const arguments& given) {
  const bound<1> a("splitlines", given, {"keepends"});
  r.use().bytes(self.string().size());
  std::vector<value> lines;
  for (text& line : lines_of(self.string(), a.flag(0))) lines.push_back(r.heap().make(std::move(line)));
  return r.heap().make(std::move(lines));
}

template <text (*Change)(const text&)>
value change_case(runtime& r, value self, const arguments& given) {
  takes_nothing("a method of case", given);
  r.use().bytes(self.string().size());
  return r.heap().make(Change(self.string()));
}

template <bool (*Holds)(char32_t)>
value all_of(runtime& r, value self, const arguments& given) {
  takes_nothing("a test of characters", given);
  const text& t = self.string();
  r.use().bytes(t.size());
  for (std::size_t at = 0; at < t.size(); at = t.next(at))
    if (!Holds(code_point_at(t.bytes(), at))) return false;
  return !t.empty();
}

/// islower, isupper: some letter has case, and all that have are of this one.
template <bool Upper>
value one_case(runtime& r, value self, const arguments& given) {
  takes_nothing("a test of case", given);
  const text& t = self.string();
  r.use().bytes(t.size());
  bool some = false;
  for (std::size_t at = 0; at < t.size(); at = t.next(at)) {
    const char32_t c = code_point_at(t.bytes(), at);
    if (Upper ? is_lower(c) : is_upper(c)) return false;
    some = some || (Upper ? is_upper(c) : is_lower(c));
  }
  return some;
}

inline bool is_letter_or_digit(char32_t c) { return is_letter(c) || is_digit(c); }
inline bool is_ascii(char32_t c) { return c < 0x80; }
inline bool is_digit_character(char32_t c) { return is_digit(c); }
inline bool is_space_character(char32_t c) { return is_space(c); }
inline bool is_letter_character(char32_t c) { return is_letter(c); }

}  // namespace detail_methods

/// By name.
[[nodiscard]] inline std::span<const method> string_methods() {
  namespace m = detail_methods;
  static constexpr std::array<method, 39> table = {{
      {"capitalize", m::change_case<capitalized>},
      {"casefold", m::change_case<lowered>},
      {"center", [](runtime& r, value s, const arguments& a) { return m::justify(r, s, a, '^'); }},
      {"count", m::count},
      {"endswith", [](runtime& r, value s, const arguments& a) { return m::affix(r, s, a, true); }},
      {"find", [](runtime& r, value s, const arguments& a) { return m::find(r, s, a, "find", false, false); }},
      {"format", [](runtime& r, value s, const arguments& a) { return brace_formatter(r, s.string(), a).run(); }},
      {"index", [](runtime& r, value s, const arguments& a) { return m::find(r, s, a, "index", false, true); }},
      {"isalnum", m::all_of<m::is_letter_or_digit>},
      {"isalpha", m::all_of<m::is_letter_character>},
      {"isascii",
       [](runtime& r, value s, const arguments& a) {
         return s.string().empty() ? value(true) : m::all_of<m::is_ascii>(r, s, a);
       }},
      {"isdecimal", m::all_of<m::is_digit_character>},
      {"isdigit", m::all_of<m::is_digit_character>},
      {"islower", m::one_case<false>},
      {"isnumeric", m::all_of<m::is_digit_character>},
      {"isspace", m::all_of<m::is_space_character>},
      {"isupper", m::one_case<true>},
      {"join", m::join},
      {"ljust", [](runtime& r, value s, const arguments& a) { return m::justify(r, s, a, '<'); }},
      {"lower", m::change_case<lowered>},
      {"lstrip", [](runtime& r, value s, const arguments& a) { return m::strip(r, s, a, true, false); }},
      {"partition", [](runtime& r, value s, const arguments& a) { return m::partition(r, s, a, false); }},
      {"removeprefix", [](runtime& r, value s, const arguments& a) { return m::without_affix(r, s, a, false); }},
      {"removesuffix", [](runtime& r, value s, const arguments& a) { return m::without_affix(r, s, a, true); }},
      {"replace", m::replace},
      {"rfind", [](runtime& r, value s, const arguments& a) { return m::find(r, s, a, "rfind", true, false); }},
      {"rindex", [](runtime& r, value s, const arguments& a) { return m::find(r, s, a, "rindex", true, true); }},
      {"rjust", [](runtime& r, value s, const arguments& a) { return m::justify(r, s, a, '>'); }},
      {"rpartition", [](runtime& r, value s, const arguments& a) { return m::partition(r, s, a, true); }},
      {"rsplit", [](runtime& r, value s, const arguments& a) { return m::split(r, s, a, true); }},
      {"rstrip", [](runtime& r, value s, const arguments& a) { return m::strip(r, s, a, false, true); }},
      {"split", [](runtime& r, value s, const arguments& a) { return m::split(r, s, a, false); }},
      {"splitlines", m::splitlines},
      {"startswith", [](runtime& r, value s, const arguments& a) { return m::affix(r, s, a, false); }},
      {"strip", [](runtime& r, value s, const arguments& a) { return m::strip(r, s, a, true, true); }},
      {"swapcase", m::change_case<swapped_case>},
      {"title", m::change_case<titled>},
      {"upper", m::change_case<uppered>},
      {"zfill", m::zfill},
  }};
  return table;
}

}  // namespace blockattn::inline v0::jinja
