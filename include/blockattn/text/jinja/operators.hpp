// Operators on values, as Python has them. Whole numbers have 64 bits: what doesn't fit is an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <compare>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/text/jinja/ast.hpp"
#include "blockattn/text/jinja/print.hpp"
#include "blockattn/text/jinja/value.hpp"

namespace blockattn::inline v0::jinja {

[[nodiscard]] inline bool equal(budget& b, value l, value r);

[[nodiscard]] inline bool equal_lists(budget& b, const list& l, const list& r) {
  const deeper level(b);
  if ((l.from == flavour::tuple) != (r.from == flavour::tuple) || l.items.size() != r.items.size()) return &l == &r;
  for (std::size_t i = 0; i < l.items.size(); ++i)
    if (!equal(b, l.items[i], r.items[i])) return false;
  return true;
}

[[nodiscard]] inline bool equal_dicts(budget& b, const dict& l, const dict& r) {
  const deeper level(b);
  if (l.entries.size() != r.entries.size()) return false;
  for (const auto& [key, v] : l.entries) {
    const value* other = r.find(key);
    if (other == nullptr || !equal(b, v, *other)) return false;
  }
  return true;
}

[[nodiscard]] inline bool equal(budget& b, value l, value r) {
  b.step();
  if (l.is_number() && r.is_number())
    return l.is_integral() && r.is_integral() ? l.integer() == r.integer() : l.number() == r.number();
  if (l.type() != r.type()) return false;
  switch (l.type()) {
    case kind::undefined:
    case kind::none: return true;
    case kind::text: b.bytes(l.string().size()); return l.string().bytes() == r.string().bytes();
    case kind::list: return equal_lists(b, l.sequence(), r.sequence());
    case kind::dict: return equal_dicts(b, l.mapping(), r.mapping());
    default: return l.same(r);
  }
}

/// Order of numbers, strings and lists; unordered for NaN. Fails for other types.
[[nodiscard]] inline std::partial_ordering compare(budget& b, value l, value r) {
  const deeper level(b);
  b.step();
  if (l.is(kind::undefined)) fail_undefined(l);
  if (r.is(kind::undefined)) fail_undefined(r);
  if (l.is_integral() && r.is_integral()) return l.integer() <=> r.integer();
  if (l.is_number() && r.is_number()) return l.number() <=> r.number();
  if (l.is(kind::text) && r.is(kind::text)) {
    b.bytes(l.string().size());
    return l.string().bytes().compare(r.string().bytes()) <=> 0;
  }
  if (l.is(kind::list) && r.is(kind::list) && l.sequence().from == r.sequence().from) {
    const auto &left = l.sequence().items, &right = r.sequence().items;
    for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i)
      if (!equal(b, left[i], right[i])) return compare(b, left[i], right[i]);
    return left.size() <=> right.size();
  }
  fail("'", type_name(l), "' and '", type_name(r), "' can't be put in order");
}

/// `v in where`
[[nodiscard]] inline bool contains(budget& b, value where, value v) {
  switch (where.type()) {
    case kind::text:
      if (v.is(kind::undefined)) fail_undefined(v);
      if (!v.is(kind::text)) fail("'in' a string needs a string on its left, got ", type_name(v));
      b.bytes(where.string().size());
      return where.string().bytes().find(v.string().bytes()) != std::string_view::npos;
    case kind::list:
      for (const value& item : where.sequence().items)
        if (equal(b, item, v)) return true;
      return false;
    case kind::dict: return where.mapping().find(v) != nullptr;
    case kind::undefined: return false;
    default: fail("a value of type ", type_name(where), " has no members ('in')");
  }
}

namespace detail_operators {

[[noreturn]] inline void refuse(std::string_view sign, value l, value r) {
  if (l.is(kind::undefined)) fail_undefined(l);
  if (r.is(kind::undefined)) fail_undefined(r);
  fail("'", sign, "' isn't defined for ", type_name(l), " and ", type_name(r));
}

[[noreturn]] inline void overflow() { fail("a whole number beyond 64 bits"); }

/// & < > " ' for HTML.
[[nodiscard]] inline text escaped(const text& t) {
  text_builder out;
  std::size_t from = 0;
  for (std::size_t at = 0; at < t.size(); ++at) {
    const std::size_t which = std::string_view("&<>\"'").find(t.bytes()[at]);
    if (which == std::string_view::npos) continue;
    static constexpr std::string_view names[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    out.append(t, from, at);
    out.append(names[which], t.at(at));
    from = at + 1;
  }
  out.append(t, from, t.size());
  text result = out.finish();
  result.safe = true;
  return result;
}

[[nodiscard]] inline value add_texts(runtime& r, const text& left, const text& right) {
  text_builder out;
  const bool safe = left.safe || right.safe;
  r.use().check_string(left.size() + right.size());
  out.append(safe && !left.safe ? escaped(left) : left);
  out.append(safe && !right.safe ? escaped(right) : right);
  text result = out.finish();
  result.safe = safe;
  return r.heap().make(std::move(result));
}

[[nodiscard]] inline value repeated(runtime& r, value v, std::int64_t times) {
  const auto n = static_cast<std::size_t>(std::max<std::int64_t>(times, 0));
  if (v.is(kind::text)) {
    if (n > 0 && v.string().size() > r.use().most().string / n)
      fail("a string repeated ", n, " times is too long (limits::string)");
    text_builder out;
    for (std::size_t i = 0; i < n && !v.string().empty(); ++i) out.append(v.string());
    return r.heap().make(out.finish());
  }
  const list& l = v.sequence();
  if (n > 0 && l.items.size() > r.use().most().items / n)
    fail("a list repeated ", n, " times is too long (limits::items)");
  std::vector<value> items;
  for (std::size_t i = 0; i < n && !l.items.empty(); ++i) items.insert(items.end(), l.items.begin(), l.items.end());
  return r.heap().make(std::move(items), l.from);
}

[[nodiscard]] inline bool repeatable(value v) {
  return v.is(kind::text) ||
         (v.is(kind::list) && (v.sequence().from == flavour::list || v.sequence().from == flavour::tuple));
}

[[nodiscard]] inline value power(value l, value r) {
  if (!l.is_integral() || !r.is_integral() || r.integer() < 0) {
    if (l.number() == 0 && r.number() < 0) fail("0 can't be raised to a negative power");
    const double result = std::pow(l.number(), r.number());
    if (std::isnan(result) && !std::isnan(l.number()) && !std::isnan(r.number())) fail("the power is no real number");
    return result;
  }
  std::int64_t result = 1, base = l.integer();
  for (std::int64_t n = r.integer(); n > 0; n >>= 1) {
    if ((n & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
    if (n > 1 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return result;
}

[[nodiscard]] inline value divide_whole(op which, std::int64_t l, std::int64_t r) {
  if (r == 0) fail("division by zero");
  if (r == -1) {
    if (which == op::modulo) return std::int64_t{0};
    if (l == std::numeric_limits<std::int64_t>::min()) overflow();
    return -l;
  }
  const std::int64_t quotient = l / r - ((l % r != 0 && (l < 0) != (r < 0)) ? 1 : 0);  // rounds down
  return which == op::modulo ? l - quotient * r : quotient;
}

[[nodiscard]] inline value divide_real(op which, double l, double r) {
  if (r == 0) fail("division by zero");
  if (which == op::divide) return l / r;
  double rest = std::fmod(l, r);
  if (rest != 0 && (rest < 0) != (r < 0)) rest += r;
  if (which == op::modulo) return rest;
  return std::floor((l - rest) / r + 0.5);
}

[[nodiscard]] inline value numbers(op which, value l, value r) {
  const bool whole = l.is_integral() && r.is_integral();
  std::int64_t result = 0;
  switch (which) {
    case op::add:
      if (!whole) return l.number() + r.number();
      if (__builtin_add_overflow(l.integer(), r.integer(), &result)) overflow();
      return result;
    case op::subtract:
      if (!whole) return l.number() - r.number();
      if (__builtin_sub_overflow(l.integer(), r.integer(), &result)) overflow();
      return result;
    case op::multiply:
      if (!whole) return l.number() * r.number();
      if (__builtin_mul_overflow(l.integer(), r.integer(), &result)) overflow();
      return result;
    case op::power: return power(l, r);
    case op::divide: return divide_real(which, l.number(), r.number());
    default: return whole ? divide_whole(which, l.integer(), r.integer()) : divide_real(which, l.number(), r.number());
  }
}

}  // namespace detail_operators

[[nodiscard]] inline value negate(value v, bool minus) {
  if (v.is(kind::floating)) return minus ? -v.number() : v.number();
  if (v.is(kind::undefined)) fail_undefined(v);
  if (!v.is_integral()) fail("a sign before a value of type ", type_name(v));
  if (minus && v.integer() == std::numeric_limits<std::int64_t>::min()) detail_operators::overflow();
  return minus ? -v.integer() : v.integer();
}

/// + - * / // % ** but for % on strings, which format.hpp does.
[[nodiscard]] inline value arithmetic(runtime& run, op which, value l, value r) {
  namespace d = detail_operators;
  static constexpr std::string_view signs[] = {"+", "-", "*", "/", "//", "%", "**"};
  if (l.is_number() && r.is_number()) return d::numbers(which, l, r);
  if (which == op::add && l.is(kind::text) && r.is(kind::text)) return d::add_texts(run, l.string(), r.string());
  if (which == op::add && d::repeatable(l) && d::repeatable(r) && l.is(kind::list) && r.is(kind::list) &&
      l.sequence().from == r.sequence().from) {
    std::vector<value> items = l.sequence().items;
    items.insert(items.end(), r.sequence().items.begin(), r.sequence().items.end());
    return run.heap().make(std::move(items), l.sequence().from);
  }
  if (which == op::multiply && d::repeatable(l) && r.is_integral()) return d::repeated(run, l, r.integer());
  if (which == op::multiply && d::repeatable(r) && l.is_integral()) return d::repeated(run, r, l.integer());
  d::refuse(signs[static_cast<std::size_t>(which)], l, r);
}

[[nodiscard]] inline bool holds(budget& b, op which, value l, value r) {
  switch (which) {
    case op::equal: return equal(b, l, r);
    case op::unequal: return !equal(b, l, r);
    case op::in: return contains(b, r, l);
    case op::not_in: return !contains(b, r, l);
    case op::less: return compare(b, l, r) < 0;
    case op::less_equal: return compare(b, l, r) <= 0;
    case op::greater: return compare(b, l, r) > 0;
    default: return compare(b, l, r) >= 0;
  }
}

}  // namespace blockattn::inline v0::jinja
