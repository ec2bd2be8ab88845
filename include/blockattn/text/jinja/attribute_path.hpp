// "a.b.0": the attribute that filters such as map, sort and selectattr take from each item.
#pragma once

#include <string_view>
#include <vector>

#include "blockattn/text/jinja/letter_case.hpp"
#include "blockattn/text/jinja/value.hpp"

namespace blockattn::inline v0::jinja {

/// The item's attribute; the item itself for none. `standard`, if given, stands for what is undefined on the way.
[[nodiscard]] inline value path_of(runtime& r, value item, value path, value standard = value::none()) {
  if (path.is(kind::none)) return item;
  if (path.is_integral()) return r.item(item, std::to_string(path.integer()));
  if (!path.is(kind::text)) fail("an attribute's name must be a string, got ", type_name(path));
  for (std::string_view rest = path.string().bytes();;) {
    const std::size_t dot = rest.find('.');
    item = r.item(item, rest.substr(0, dot));
    if (item.is(kind::undefined) && !standard.is(kind::none)) item = standard;
    if (dot == std::string_view::npos) return item;
    rest = rest.substr(dot + 1);
  }
}

/// Lower case of a string, any other value itself: what sorting goes by unless it is case sensitive.
[[nodiscard]] inline value without_case(runtime& r, value v) {
  return v.is(kind::text) ? r.heap().make(lowered(v.string())) : v;
}

}  // namespace blockattn::inline v0::jinja
