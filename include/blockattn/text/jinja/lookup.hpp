// object.name, object[key] and slices, as Jinja's sandbox allows them: methods first for object.name, items first for
// object[key]; what isn't there is undefined; what would change a value or begins with "_" isn't there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/iterate.hpp"
#include "blockattn/text/jinja/methods.hpp"
#include "blockattn/text/jinja/value.hpp"

namespace blockattn::inline v0::jinja {

/// An attribute of the variable `loop`.
[[nodiscard]] inline std::optional<value> loop_attribute(runtime& r, const loop_state& l, std::string_view name) {
  const auto n = static_cast<std::int64_t>(l.items->items.size()), i = static_cast<std::int64_t>(l.index);
  if (name == "index") return value(i + 1);
  if (name == "index0") return value(i);
  if (name == "revindex") return value(n - i);
  if (name == "revindex0") return value(n - i - 1);
  if (name == "first") return value(i == 0);
  if (name == "last") return value(i + 1 == n);
  if (name == "length") return value(n);
  if (name == "depth") return value(static_cast<std::int64_t>(l.depth) + 1);
  if (name == "depth0") return value(static_cast<std::int64_t>(l.depth));
  if (name == "previtem") return i > 0 ? l.items->items[l.index - 1] : r.heap().undefined("there is no previous item");
  if (name == "nextitem") return i + 1 < n ? l.items->items[l.index + 1] : r.heap().undefined("there is no next item");
  return std::nullopt;
}

[[nodiscard]] inline value missing(runtime& r, value object, std::string_view name) {
  if (object.is(kind::undefined)) fail_undefined(object);
  return r.heap().undefined(cat("'", type_name(object), "' has no attribute '", name.substr(0, 100), "'"));
}

/// A method or another attribute that isn't an item.
[[nodiscard]] inline std::optional<value> attribute_proper(runtime& r, value object, std::string_view name) {
  if (object.is(kind::loop))
    if (const auto found = loop_attribute(r, object.loop(), name)) return found;
  if (object.is(kind::space)) {
    if (const value* found = object.space().attributes.find(name)) return *found;
    return std::nullopt;
  }
  if (object.is(kind::callable) && object.function().macro != nullptr && name == "name")
    return r.heap().make(object.function().name);
  return find_method(r, object, name);
}

/// object.name
[[nodiscard]] inline value attribute_of(runtime& r, value object, std::string_view name) {
  if (object.is(kind::undefined)) fail_undefined(object);
  if (object.is(kind::dict) && !name_of_method(object, name)) {  // the way of most look-ups
    const value* found = object.mapping().find(name);
    return found != nullptr ? *found : missing(r, object, name);
  }
  if (const auto found = attribute_proper(r, object, name)) return *found;
  return missing(r, object, name);
}

/// Index of a list or string; negative ones count from the end. Nothing if there is no such item.
[[nodiscard]] inline std::optional<std::size_t> index_in(std::int64_t index, std::size_t size) {
  const std::int64_t at = index < 0 ? index + static_cast<std::int64_t>(size) : index;
  if (at < 0 || at >= static_cast<std::int64_t>(size)) return std::nullopt;
  return static_cast<std::size_t>(at);
}

[[nodiscard]] inline std::optional<value> item_proper(runtime& r, value object, value key) {
  if (object.is(kind::dict)) {
    if (key.is(kind::undefined) || key.is(kind::dict) || (key.is(kind::list) && key.sequence().from != flavour::tuple))
      return std::nullopt;
    const value* found = object.mapping().find(key);
    return found != nullptr ? std::optional(*found) : std::nullopt;
  }
  if (!key.is_integral()) return std::nullopt;
  if (object.is(kind::text)) {
    const text& t = object.string();
    r.use().bytes(t.size());
    const auto at = index_in(key.integer(), t.length());
    if (!at) return std::nullopt;
    const std::size_t byte = t.byte_of(*at);
    return r.heap().make(t.slice(byte, t.next(byte)));
  }
  if (object.is(kind::list) && object.sequence().from <= flavour::range)
    if (const auto at = index_in(key.integer(), object.sequence().items.size())) return object.sequence().items[*at];
  return std::nullopt;
}

/// object[key]
[[nodiscard]] inline value item_of(runtime& r, value object, value key) {
  if (object.is(kind::undefined)) fail_undefined(object);
  if (const auto found = item_proper(r, object, key)) return *found;
  if (key.is(kind::text))
    if (const auto found = attribute_proper(r, object, key.string().bytes())) return *found;
  return missing(r, object, printer(r.use()).str(key).bytes());
}

/// A part of a dotted name: digits are an index.
[[nodiscard]] inline value item_by_text(runtime& r, value object, std::string_view part) {
  const bool digits =
      !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string_view::npos;
  if (!digits) return item_of(r, object, r.heap().make(part));
  std::int64_t index = 0;
  for (const char c : part) index = index * 10 + (c - '0');
  return item_of(r, object, value(index));
}

/// The indices that begin:end:step takes of `size` items.
[[nodiscard]] inline std::vector<std::size_t> slice_indices(std::size_t size, value begin, value end, value step) {
  const auto given = [](value v, std::int64_t standard) {
    if (v.is(kind::none) || v.is(kind::undefined)) return standard;
    if (!v.is_integral()) fail("a slice needs whole numbers, got ", type_name(v));
    return v.integer();
  };
  const std::int64_t by = given(step, 1), n = static_cast<std::int64_t>(size);
  if (by == 0) fail("the step of a slice is 0");
  const auto clamp = [&](std::int64_t i) {
    if (i < 0) i = std::max<std::int64_t>(i, -n - 1) + n;
    return std::clamp<std::int64_t>(i, by < 0 ? -1 : 0, by < 0 ? n - 1 : n);
  };
  const auto is_given = [](value v) { return !v.is(kind::none) && !v.is(kind::undefined); };
  const std::int64_t from = is_given(begin) ? clamp(given(begin, 0)) : by < 0 ? n - 1 : 0;
  const std::int64_t to = is_given(end) ? clamp(given(end, 0)) : by < 0 ? -1 : n;
  std::vector<std::size_t> result;
  for (std::int64_t i = from; by > 0 ? i < to : i > to;) {
    result.push_back(static_cast<std::size_t>(i));
    if (by > n || by < -n) break;
    i += by;
  }
  return result;
}

/// object[begin:end:step]
[[nodiscard]] inline value slice_of(runtime& r, value object, value begin, value end, value step) {
  if (object.is(kind::text)) {
    const text& t = object.string();
    r.use().bytes(t.size());
    const std::vector<std::size_t> indices = slice_indices(t.length(), begin, end, step);
    if (indices.empty()) return r.heap().make(text());
    if (indices.back() - indices.front() + 1 == indices.size())  // one piece
      return r.heap().make(t.slice(t.byte_of(indices.front()), t.byte_of(indices.back() + 1)));
    r.use().step(indices.size());
    std::vector<std::size_t> bytes;
    for (std::size_t at = 0; at < t.size(); at = t.next(at)) bytes.push_back(at);
    text_builder out;
    for (const std::size_t i : indices) out.append(t, bytes[i], t.next(bytes[i]));
    return r.heap().make(out.finish());
  }
  if (object.is(kind::list) && object.sequence().from <= flavour::range) {
    std::vector<value> items;
    for (const std::size_t i : slice_indices(object.sequence().items.size(), begin, end, step))
      items.push_back(object.sequence().items[i]);
    return r.heap().make(std::move(items), object.sequence().from);
  }
  if (object.is(kind::undefined)) fail_undefined(object);
  fail("a slice of a value of type ", type_name(object));
}

}  // namespace blockattn::inline v0::jinja
