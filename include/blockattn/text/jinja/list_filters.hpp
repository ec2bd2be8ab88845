// Filters over lists and dictionaries.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/arguments.hpp"
#include "blockattn/text/jinja/attribute_path.hpp"
#include "blockattn/text/jinja/iterate.hpp"
#include "blockattn/text/jinja/methods.hpp"
#include "blockattn/text/jinja/operators.hpp"

namespace blockattn::inline v0::jinja {

namespace detail_filters {

inline value length(runtime& r, value v, const arguments& given) {
  takes_nothing("length", given);
  if (v.is(kind::text)) r.use().bytes(v.string().size());
  return length_of(v);
}

inline value to_list(runtime& r, value v, const arguments& given) {
  takes_nothing("list", given);
  return r.heap().make(items_of(r, v));
}

inline value join(runtime& r, value v, const arguments& given) {
  const bound<2> a("join", given, {"d", "attribute"});
  const text between = str(r, a.get(0, r.heap().make(text())));
  text_builder out;
  bool first = true;
  for (const value& item : items_of(r, v)) {
    if (!std::exchange(first, false)) out.append(between);
    out.append(str(r, path_of(r, item, a.get(1, value::none()))));
    r.use().check_string(out.size());
  }
  return r.heap().make(out.finish());
}

inline value first(runtime& r, value v, const arguments& given) {
  takes_nothing("first", given);
  const std::vector<value> items = items_of(r, v);
  return items.empty() ? r.heap().undefined("no first item, the sequence is empty") : items.front();
}

inline value last(runtime& r, value v, const arguments& given) {
  takes_nothing("last", given);
  if (v.is(kind::list) && v.sequence().from == flavour::generator)
    fail("a generator has no last item; make a list of it first");
  const std::vector<value> items = items_of(r, v);
  return items.empty() ? r.heap().undefined("no last item, the sequence is empty") : items.back();
}

inline value defaulted(runtime& r, value v, const arguments& given) {
  const bound<2> a("default", given, {"default_value", "boolean"});
  return v.is(kind::undefined) || (a.flag(1) && !truthy(v)) ? a.get(0, r.heap().make(text())) : v;
}

inline value reverse(runtime& r, value v, const arguments& given) {
  takes_nothing("reverse", given);
  if (v.is(kind::text)) {
    text_builder out;
    std::vector<std::size_t> places;
    const text& t = v.string();
    r.use().bytes(t.size() * 16);
    for (std::size_t at = 0; at < t.size(); at = t.next(at)) places.push_back(at);
    for (auto at = places.rbegin(); at != places.rend(); ++at) out.append(t, *at, t.next(*at));
    return r.heap().make(out.finish());
  }
  std::vector<value> items = items_of(r, v);
  std::reverse(items.begin(), items.end());
  return r.heap().make(std::move(items), flavour::generator);
}

inline value items(runtime& r, value v, const arguments& given) {
  takes_nothing("items", given);
  if (v.is(kind::undefined)) return r.heap().make(std::vector<value>(), flavour::generator);
  if (!v.is(kind::dict)) fail("items needs a dictionary, got ", type_name(v));
  return r.heap().make(detail_methods::dict_part(r, v.mapping(), flavour::items), flavour::generator);
}

struct keyed {
  value key, item;
};

/// By key, stable, equal ones in their order even if reversed.
[[nodiscard]] inline std::vector<value> sorted(runtime& r, std::vector<keyed> all, bool reversed) {
  budget& b = r.use();
  // A merge sort of our own: the comparison may throw, and NaN isn't in order with anything.
  const auto before = [&](const keyed& x, const keyed& y) {
    return reversed ? compare(b, y.key, x.key) < 0 : compare(b, x.key, y.key) < 0;
  };
  std::vector<keyed> other(all.size());
  for (std::size_t width = 1; width < all.size(); width *= 2) {
    for (std::size_t low = 0; low < all.size(); low += 2 * width) {
      const std::size_t middle = std::min(low + width, all.size()), high = std::min(low + 2 * width, all.size());
      for (std::size_t i = low, j = middle, out = low; out < high; ++out) {
        const bool right = i == middle || (j < high && before(all[j], all[i]));
        other[out] = right ? all[j++] : all[i++];
      }
    }
    all.swap(other);
  }
  std::vector<value> result;
  for (const keyed& k : all) result.push_back(k.item);
  return result;
}

inline value dict_sort(runtime& r, value v, const arguments& given) {
  const bound<3> a("dictsort", given, {"case_sensitive", "by", "reverse"});
  const std::string_view by = a.has(1) ? a.string(1).bytes() : "key";
  if (by != "key" && by != "value") fail("dictsort: by is 'key' or 'value', got '", by, "'");
  if (v.is(kind::undefined)) fail_undefined(v);
  if (!v.is(kind::dict)) fail("dictsort needs a dictionary, got ", type_name(v));
  std::vector<keyed> all;
  for (const auto& [key, item] : v.mapping().entries) {
    const value k = by == "key" ? key : item;
    all.push_back({a.flag(0) ? k : without_case(r, k), r.heap().make(std::vector{key, item}, flavour::tuple)});
  }
  return r.heap().make(sorted(r, std::move(all), a.flag(2)));
}

/// The keys of "a,b", as a tuple where there are several.
[[nodiscard]] inline value sort_key(runtime& r, value item, value attribute, bool exact) {
  const auto one = [&](value path) {
    const value k = path_of(r, item, path);
    return exact ? k : without_case(r, k);
  };
  if (!attribute.is(kind::text) || attribute.string().bytes().find(',') == std::string_view::npos)
    return one(attribute);
  std::vector<value> keys;
  for (const auto& [begin, end] : detail_methods::split_at(attribute.string(), ",", -1, false))
    keys.push_back(one(r.heap().make(attribute.string().slice(begin, end))));
  return r.heap().make(std::move(keys), flavour::tuple);
}

inline value sort(runtime& r, value v, const arguments& given) {
  const bound<3> a("sort", given, {"reverse", "case_sensitive", "attribute"});
  std::vector<keyed> all;
  for (const value& item : items_of(r, v)) all.push_back({sort_key(r, item, a.get(2, value::none()), a.flag(1)), item});
  return r.heap().make(sorted(r, std::move(all), a.flag(0)));
}

inline value unique(runtime& r, value v, const arguments& given) {
  const bound<2> a("unique", given, {"case_sensitive", "attribute"});
  std::unordered_set<std::string> seen;
  std::vector<value> kept;
  for (const value& item : items_of(r, v)) {
    const value key = path_of(r, item, a.get(1, value::none()));
    if (seen.insert(key_of(a.flag(0) ? key : without_case(r, key))).second) kept.push_back(item);
  }
  return r.heap().make(std::move(kept), flavour::generator);
}

template <bool Most>
value extreme(runtime& r, value v, const arguments& given) {
  const bound<2> a(Most ? "max" : "min", given, {"case_sensitive", "attribute"});
  const auto key = [&](value item) {
    const value k = path_of(r, item, a.get(1, value::none()));
    return a.flag(0) ? k : without_case(r, k);
  };
  const std::vector<value> all = items_of(r, v);
  if (all.empty()) return r.heap().undefined("no aggregated item, the sequence is empty");
  value best = all.front(), best_key = key(best);
  for (std::size_t i = 1; i < all.size(); ++i) {
    const value k = key(all[i]);
    if (Most ? compare(r.use(), k, best_key) > 0 : compare(r.use(), k, best_key) < 0) best = all[i], best_key = k;
  }
  return best;
}

inline value sum(runtime& r, value v, const arguments& given) {
  const bound<2> a("sum", given, {"attribute", "start"});
  value total = a.get(1, std::int64_t{0});
  for (const value& item : items_of(r, v))
    total = arithmetic(r, op::add, total, path_of(r, item, a.get(0, value::none())));
  return total;
}

inline value batch(runtime& r, value v, const arguments& given) {
  const bound<2> a("batch", given, {"linecount", "fill_with"}, 1);
  const std::int64_t size = a.integer(0, 1);
  if (size < 1) fail("batch: linecount is ", size, "; allowed: 1 or more");
  r.use().check_items(a.given(1) ? static_cast<std::size_t>(size) : 0);
  std::vector<value> rows, row;
  const auto finish = [&] {
    if (a.given(1)) row.resize(static_cast<std::size_t>(size), a.get(1));
    rows.push_back(r.heap().make(std::exchange(row, {})));
  };
  for (const value& item : items_of(r, v)) {
    row.push_back(item);
    if (static_cast<std::int64_t>(row.size()) == size) finish();
  }
  if (!row.empty()) finish();
  return r.heap().make(std::move(rows), flavour::generator);
}

inline value slice(runtime& r, value v, const arguments& given) {
  const bound<2> a("slice", given, {"slices", "fill_with"}, 1);
  const std::vector<value> all = items_of(r, v);
  const std::int64_t n = a.integer(0, 1);
  if (n < 1) fail("slice: slices is ", n, "; allowed: 1 or more");
  r.use().check_items(static_cast<std::size_t>(n));
  const std::size_t slices = static_cast<std::size_t>(n), each = all.size() / slices, longer = all.size() % slices;
  std::vector<value> rows;
  for (std::size_t i = 0, at = 0; i < slices; ++i) {
    const std::size_t size = each + (i < longer ? 1 : 0);
    std::vector<value> row(all.begin() + static_cast<std::ptrdiff_t>(at),
                           all.begin() + static_cast<std::ptrdiff_t>(at + size));
    if (a.given(1) && i >= longer) row.push_back(a.get(1));
    at += size;
    rows.push_back(r.heap().make(std::move(row)));
  }
  return r.heap().make(std::move(rows), flavour::generator);
}

inline value group_by(runtime& r, value v, const arguments& given) {
  const bound<3> a("groupby", given, {"attribute", "default", "case_sensitive"}, 1);
  std::vector<keyed> all;
  const auto key = [&](value item) { return path_of(r, item, a.get(0), a.get(1, value::none())); };
  for (const value& item : items_of(r, v)) all.push_back({a.flag(2) ? key(item) : without_case(r, key(item)), item});
  std::vector<value> groups, group;
  value group_key;
  const auto finish = [&] {
    if (!group.empty())
      groups.push_back(r.heap().make(std::vector{key(group.front()), r.heap().make(std::move(group))}, flavour::tuple));
    group.clear();
  };
  for (const value& item : sorted(r, std::move(all), false)) {
    const value k = a.flag(2) ? key(item) : without_case(r, key(item));
    if (!group.empty() && !equal(r.use(), k, group_key)) finish();
    group_key = k;
    group.push_back(item);
  }
  finish();
  return r.heap().make(std::move(groups));
}

inline value attribute(runtime& r, value v, const arguments& given) {
  const bound<1> a("attr", given, {"name"}, 1);
  const text& name = a.string(0);
  if (v.is(kind::undefined)) fail_undefined(v);
  if (const auto found = find_method(r, v, name.bytes())) return *found;
  if (v.is(kind::space))
    if (const value* found = v.space().attributes.find(name.bytes())) return *found;
  return r.heap().undefined(cat("'", type_name(v), "' has no attribute '", name.bytes().substr(0, 100), "'"));
}

[[nodiscard]] inline arguments without_first(const arguments& given, std::size_t n) {
  return {{given.positional.begin() + static_cast<std::ptrdiff_t>(n), given.positional.end()}, given.named};
}

inline value map(runtime& r, value v, const arguments& given) {
  std::vector<value> result;
  const std::vector<value> all = items_of(r, v);
  if (given.positional.empty()) {
    const bound<2> a("map", given, {"attribute", "default"}, 1);
    for (const value& item : all) result.push_back(path_of(r, item, a.get(0), a.get(1, value::none())));
  } else {
    if (!given.positional[0].is(kind::text)) fail("map needs the name of a filter");
    const arguments rest = without_first(given, 1);
    for (const value& item : all) result.push_back(r.filter(given.positional[0].string().bytes(), item, rest));
  }
  return r.heap().make(std::move(result), flavour::generator);
}

template <bool Keep, bool Attribute>
value select(runtime& r, value v, const arguments& given) {
  static constexpr std::size_t off = Attribute ? 1 : 0;
  if (given.positional.size() < off) fail("selectattr and rejectattr need the name of an attribute");
  const bool named = given.positional.size() > off;
  if (named && !given.positional[off].is(kind::text)) fail("select and reject need the name of a test");
  const arguments rest = named ? without_first(given, off + 1) : arguments{};
  std::vector<value> kept;
  if (!truthy(v)) return r.heap().make(std::move(kept), flavour::generator);  // none, too
  for (const value& item : items_of(r, v)) {
    value subject = item;
    if constexpr (Attribute) subject = path_of(r, item, given.positional[0]);
    const bool holds = named ? r.test(given.positional[off].string().bytes(), subject, rest) : truthy(subject);
    if (holds == Keep) kept.push_back(item);
  }
  return r.heap().make(std::move(kept), flavour::generator);
}

}  // namespace detail_filters
}  // namespace blockattn::inline v0::jinja
