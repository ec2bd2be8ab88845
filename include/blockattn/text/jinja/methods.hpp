// Methods of values, by name. What would change a list or a dictionary isn't there, as in Jinja's immutable sandbox.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/arguments.hpp"
#include "blockattn/text/jinja/operators.hpp"
#include "blockattn/text/jinja/string_methods.hpp"

namespace blockattn::inline v0::jinja {

namespace detail_methods {

inline value dict_get(runtime&, value self, const arguments& given) {
  const bound<2> a("get", given, {"key", "default"}, 1);
  const value* found = self.mapping().find(a.get(0));
  return found != nullptr ? *found : a.get(1, value::none());
}

[[nodiscard]] inline std::vector<value> dict_part(runtime& r, const dict& d, flavour part) {
  std::vector<value> items;
  for (const auto& [key, v] : d.entries)
    items.push_back(part == flavour::keys     ? key
                    : part == flavour::values ? v
                                              : r.heap().make(std::vector{key, v}, flavour::tuple));
  return items;
}

template <flavour Part>
value dict_view(runtime& r, value self, const arguments& given) {
  takes_nothing("a view of a dictionary", given);
  return r.heap().make(dict_part(r, self.mapping(), Part), Part, self);
}

inline value dict_copy(runtime&, value self, const arguments& given) {
  takes_nothing("copy", given);
  return self;  // nothing changes a dictionary
}

inline value list_count(runtime& r, value self, const arguments& given) {
  const bound<1> a("count", given, {"value"}, 1);
  std::int64_t n = 0;
  for (const value& item : self.sequence().items) n += equal(r.use(), item, a.get(0)) ? 1 : 0;
  return n;
}

inline value list_index(runtime& r, value self, const arguments& given) {
  const bound<1> a("index", given, {"value"}, 1);
  const auto& items = self.sequence().items;
  for (std::size_t i = 0; i < items.size(); ++i)
    if (equal(r.use(), items[i], a.get(0))) return static_cast<std::int64_t>(i);
  fail("the value isn't in the list");
}

inline value loop_cycle(runtime&, value self, const arguments& given) {
  if (given.positional.empty()) fail("cycle() needs at least one item");
  return given.positional[self.loop().index % given.positional.size()];
}

inline value loop_changed(runtime& r, value self, const arguments& given) {
  const loop_state& l = self.loop();
  bool same = l.has_changed && l.changed.size() == given.positional.size();
  for (std::size_t i = 0; same && i < l.changed.size(); ++i) same = equal(r.use(), l.changed[i], given.positional[i]);
  l.has_changed = true;
  l.changed = given.positional;
  return !same;
}

inline constexpr std::array<method, 5> of_dicts = {{{"get", dict_get},
                                                    {"items", dict_view<flavour::items>},
                                                    {"keys", dict_view<flavour::keys>},
                                                    {"values", dict_view<flavour::values>},
                                                    {"copy", dict_copy}}};
inline constexpr std::array<method, 3> of_lists = {{{"count", list_count}, {"index", list_index}, {"copy", dict_copy}}};
inline constexpr std::array<method, 2> of_loops = {{{"cycle", loop_cycle}, {"changed", loop_changed}}};
inline constexpr std::array<std::string_view, 6> forbidden_of_dicts = {"clear",      "pop",    "popitem",
                                                                       "setdefault", "update", "fromkeys"};

[[nodiscard]] inline std::span<const method> methods_of(value v) {
  switch (v.type()) {
    case kind::text: return string_methods();
    case kind::dict: return of_dicts;
    case kind::loop: return of_loops;
    case kind::list:
      if (v.sequence().from == flavour::list) return of_lists;
      return v.sequence().from <= flavour::range ? std::span<const method>(of_lists).first(2)
                                                 : std::span<const method>();
    default: return {};
  }
}

}  // namespace detail_methods

/// Whether object.name is a method, so that an item of that name isn't reached by it.
[[nodiscard]] inline bool name_of_method(value object, std::string_view name) {
  const auto methods = detail_methods::methods_of(object);
  const auto& forbidden = detail_methods::forbidden_of_dicts;
  return std::any_of(methods.begin(), methods.end(), [&](const method& m) { return m.name == name; }) ||
         (object.is(kind::dict) && std::find(forbidden.begin(), forbidden.end(), name) != forbidden.end());
}

/// The method, bound to the object.
[[nodiscard]] inline std::optional<value> find_method(runtime& r, value object, std::string_view name) {
  for (const method& m : detail_methods::methods_of(object))
    if (m.name == name) return r.heap().make(callable{m.name, m.call, object, nullptr, nullptr});
  return std::nullopt;
}

}  // namespace blockattn::inline v0::jinja
