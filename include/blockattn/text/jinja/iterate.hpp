// What a loop or a filter goes over: the items of any value that has some.
#pragma once

#include <vector>

#include "blockattn/text/jinja/value.hpp"

namespace blockattn::inline v0::jinja {

[[nodiscard]] inline bool iterable(value v) {
  return v.is(kind::list) || v.is(kind::dict) || v.is(kind::text) || v.is(kind::undefined);
}

/// Items of a list, keys of a dictionary, characters of a string, nothing of an undefined value. Fails for the others.
[[nodiscard]] inline std::vector<value> items_of(runtime& r, value v) {
  std::vector<value> items;
  switch (v.type()) {
    case kind::list:
      if (v.sequence().consumed) return items;
      v.sequence().consumed = v.sequence().from == flavour::generator;
      r.use().step(v.sequence().items.size() / 16);
      return v.sequence().items;
    case kind::dict:
      for (const auto& entry : v.mapping().entries) items.push_back(entry.first);
      break;
    case kind::text: {
      const text& t = v.string();
      r.use().check_items(t.size());
      for (std::size_t at = 0; at < t.size();) {
        const std::size_t end = t.next(at);
        items.push_back(r.heap().make(t.slice(at, end)));
        at = end;
      }
      break;
    }
    case kind::undefined: break;
    default: fail("a value of type ", type_name(v), " has no items to go over");
  }
  return items;
}

/// len(v)
[[nodiscard]] inline std::int64_t length_of(value v) {
  switch (v.type()) {
    case kind::undefined: return 0;
    case kind::text: return static_cast<std::int64_t>(v.string().length());
    case kind::list:
      if (v.sequence().from != flavour::generator) return static_cast<std::int64_t>(v.sequence().items.size());
      break;
    case kind::dict: return static_cast<std::int64_t>(v.mapping().entries.size());
    default: break;
  }
  fail("a value of type ", type_name(v), " has no length");
}

}  // namespace blockattn::inline v0::jinja
