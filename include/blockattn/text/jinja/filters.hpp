// The filters and tests that a template may name.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>

#include "blockattn/text/jinja/list_filters.hpp"
#include "blockattn/text/jinja/text_filters.hpp"

namespace blockattn::inline v0::jinja {

[[nodiscard]] inline std::span<const method> filters() {
  namespace f = detail_filters;
  static constexpr std::array<method, 47> table = {{
      {"abs", f::absolute},
      {"attr", f::attribute},
      {"batch", f::batch},
      {"capitalize", f::change<capitalized>},
      {"center", f::center},
      {"count", f::length},
      {"d", f::defaulted},
      {"default", f::defaulted},
      {"dictsort", f::dict_sort},
      {"e", f::escape},
      {"escape", f::escape},
      {"first", f::first},
      {"float", f::to_float},
      {"forceescape", f::force_escape},
      {"format", f::format},
      {"groupby", f::group_by},
      {"indent", f::indent},
      {"int", f::to_int},
      {"items", f::items},
      {"join", f::join},
      {"last", f::last},
      {"length", f::length},
      {"list", f::to_list},
      {"lower", f::change<lowered>},
      {"map", f::map},
      {"max", f::extreme<true>},
      {"min", f::extreme<false>},
      {"reject", f::select<false, false>},
      {"rejectattr", f::select<false, true>},
      {"replace", f::replace},
      {"reverse", f::reverse},
      {"round", f::round},
      {"safe", f::safe},
      {"select", f::select<true, false>},
      {"selectattr", f::select<true, true>},
      {"slice", f::slice},
      {"sort", f::sort},
      {"string", f::string},
      {"sum", f::sum},
      {"title", f::change<titled>},
      {"tojson", f::to_json},
      {"trim", f::trim},
      {"truncate", f::truncate},
      {"unique", f::unique},
      {"upper", f::change<uppered>},
      {"urlencode", f::url_encode},
      {"wordcount", f::word_count},
  }};
  return table;
}

[[nodiscard]] inline native_function find_filter(std::string_view name) {
  for (const method& f : filters())
    if (f.name == name) return f.call;
  return nullptr;
}

namespace detail_tests {

using test_function = bool (*)(runtime&, value, const arguments&);

struct test {
  std::string_view name;
  test_function holds;
};

/// The one argument of a test with one.
[[nodiscard]] inline value other(const arguments& given) {
  if (given.positional.size() + given.named.size() != 1) fail("the test takes one argument");
  return given.positional.empty() ? given.named.front().second : given.positional.front();
}

template <op Which>
bool compares(runtime& r, value v, const arguments& given) {
  return holds(r.use(), Which, v, other(given));
}

template <kind Kind>
bool has_type(runtime&, value v, const arguments&) {
  return v.is(Kind);
}

[[nodiscard]] inline std::int64_t rest(runtime& r, value v, value by) {
  const value result = v.is(kind::text) ? value() : arithmetic(r, op::modulo, v, by);
  if (!result.is_number()) fail("the test needs a number, got ", type_name(v));
  return result.number() == 0 ? 0 : result.number() == 1 ? 1 : 2;
}

template <bool Upper>
bool in_case(runtime& r, value v, const arguments&) {
  return truthy(detail_methods::one_case<Upper>(r, r.heap().make(str(r, v)), {}));
}

inline bool is_sequence(runtime&, value v, const arguments&) {
  return v.is(kind::text) || v.is(kind::undefined) || v.is(kind::dict) ||
         (v.is(kind::list) && v.sequence().from <= flavour::range);
}

inline bool is_boolean(value v, bool b) { return v.is(kind::boolean) && (v.integer() != 0) == b; }

}  // namespace detail_tests

[[nodiscard]] inline detail_tests::test_function find_test(std::string_view name);

[[nodiscard]] inline std::span<const detail_tests::test> tests() {
  namespace t = detail_tests;
  using args = const arguments&;
  static constexpr std::array<t::test, 39> table = {{
      {"boolean", t::has_type<kind::boolean>},
      {"callable", t::has_type<kind::callable>},
      {"defined", [](runtime&, value v, args) { return !v.is(kind::undefined); }},
      {"divisibleby", [](runtime& r, value v, args a) { return t::rest(r, v, t::other(a)) == 0; }},
      {"eq", t::compares<op::equal>},
      {"equalto", t::compares<op::equal>},
      {"escaped", [](runtime&, value v, args) { return v.is(kind::text) && v.string().safe; }},
      {"even", [](runtime& r, value v, args) { return t::rest(r, v, value(std::int64_t{2})) == 0; }},
      {"false", [](runtime&, value v, args) { return t::is_boolean(v, false); }},
      {"filter",
       [](runtime&, value v, args) { return v.is(kind::text) && find_filter(v.string().bytes()) != nullptr; }},
      {"float", t::has_type<kind::floating>},
      {"ge", t::compares<op::greater_equal>},
      {"greaterthan", t::compares<op::greater>},
      {"gt", t::compares<op::greater>},
      {"in", [](runtime& r, value v, args a) { return contains(r.use(), t::other(a), v); }},
      {"integer", t::has_type<kind::integer>},
      {"iterable", [](runtime&, value v, args) { return iterable(v); }},
      {"le", t::compares<op::less_equal>},
      {"lessthan", t::compares<op::less>},
      {"lower", t::in_case<false>},
      {"lt", t::compares<op::less>},
      {"mapping", t::has_type<kind::dict>},
      {"ne", t::compares<op::unequal>},
      {"none", t::has_type<kind::none>},
      {"number", [](runtime&, value v, args) { return v.is_number(); }},
      {"odd", [](runtime& r, value v, args) { return t::rest(r, v, value(std::int64_t{2})) == 1; }},
      {"sameas", [](runtime&, value v, args a) { return v.same(t::other(a)); }},
      {"sequence", t::is_sequence},
      {"string", t::has_type<kind::text>},
      {"test", [](runtime&, value v, args) { return v.is(kind::text) && find_test(v.string().bytes()) != nullptr; }},
      {"true", [](runtime&, value v, args) { return t::is_boolean(v, true); }},
      {"undefined", t::has_type<kind::undefined>},
      {"upper", t::in_case<true>},
      {"==", t::compares<op::equal>},
      {"!=", t::compares<op::unequal>},
      {"<", t::compares<op::less>},
      {"<=", t::compares<op::less_equal>},
      {">", t::compares<op::greater>},
      {">=", t::compares<op::greater_equal>},
  }};
  return table;
}

inline detail_tests::test_function find_test(std::string_view name) {
  for (const auto& t : tests())
    if (t.name == name) return t.holds;
  return nullptr;
}

/// "a, b, c"
template <class Named>
[[nodiscard]] std::string names_of(std::span<const Named> all) {
  std::string names;
  for (const Named& n : all) names += cat(names.empty() ? "" : ", ", n.name);
  return names;
}

/// A message for a filter or test that isn't there.
[[nodiscard]] inline std::string unknown_filter(std::string_view name) {
  return cat("no filter named '", name.substr(0, 100), "'; supported: ", names_of(filters()));
}
[[nodiscard]] inline std::string unknown_test(std::string_view name) {
  return cat("no test named '", name.substr(0, 100), "'; supported: ", names_of(tests()));
}

}  // namespace blockattn::inline v0::jinja
