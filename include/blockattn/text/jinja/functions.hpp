// Functions that every template has: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/arguments.hpp"
#include "blockattn/text/jinja/iterate.hpp"
#include "blockattn/text/jinja/lookup.hpp"

namespace blockattn::inline v0::jinja {

namespace detail_functions {

inline constexpr std::int64_t most_range = 100'000;  // Jinja's sandbox has the same

inline value range(runtime& r, value, const arguments& given) {
  const bound<3> a("range", given, {"", "", ""}, 1);
  const std::int64_t begin = a.has(1) ? a.integer(0, 0) : 0, end = a.has(1) ? a.integer(1, 0) : a.integer(0, 0),
                     step = a.integer(2, 1);
  if (step == 0) fail("range() with a step of 0");
  std::vector<value> items;
  for (std::int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (static_cast<std::int64_t>(items.size()) == most_range) fail("range() of more than ", most_range, " items");
    items.push_back(value(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return r.heap().make(std::move(items), flavour::range);
}

/// A mapping, or a list of pairs, then names.
inline void fill(runtime& r, dict& into, const arguments& given, std::string_view function) {
  if (given.positional.size() > 1) fail(function, "() takes one value and names");
  if (given.positional.size() == 1) {
    const value from = given.positional.front();
    if (from.is(kind::dict)) {
      for (const auto& [key, v] : from.mapping().entries) into.set(key, v);
    } else {
      for (const value& pair : items_of(r, from)) {
        const std::vector<value> both = items_of(r, pair);
        if (both.size() != 2) fail(function, "() needs pairs");
        into.set(both[0], both[1]);
      }
    }
  }
  for (const auto& [name, v] : given.named) into.set(r.heap().make(name), v);
}

inline value make_dict(runtime& r, value, const arguments& given) {
  dict d;
  fill(r, d, given, "dict");
  return r.heap().make(std::move(d));
}

inline value make_namespace(runtime& r, value, const arguments& given) {
  name_space& space = r.heap().make_space();
  fill(r, space.attributes, given, "namespace");
  return &space;
}

inline value raise(runtime& r, value, const arguments& given) {
  const bound<1> a("raise_exception", given, {"message"}, 1);
  throw failure{std::string(str(r, a.get(0)).bytes()), true};
}

inline value strftime_now(runtime& r, value, const arguments& given) {
  const bound<1> a("strftime_now", given, {"format"}, 1);
  const text& format = a.string(0);
  if (format.size() > 1000) fail("strftime_now() with a format of ", format.size(), " bytes; allowed: 1000");
  return r.heap().make(text(r.date(std::string(format.bytes())), format.empty() ? mark{} : format.at(0)));
}

/// joiner(sep): "" at its first call, then sep. Its state is a namespace.
inline value call_joiner(runtime& r, value self, const arguments& given) {
  takes_nothing("a joiner", given);
  dict& state = self.space().attributes;
  const bool used = truthy(*state.find("used"));
  state.set(r.heap().make("used"), true);
  return used ? *state.find("sep") : r.heap().make("");
}

inline value make_joiner(runtime& r, value, const arguments& given) {
  const bound<1> a("joiner", given, {"sep"});
  name_space& state = r.heap().make_space();
  state.attributes.set(r.heap().make("used"), false);
  state.attributes.set(r.heap().make("sep"), a.get(0, r.heap().make(", ")));
  return r.heap().make(callable{"joiner", call_joiner, &state, nullptr, nullptr});
}

/// cycler(a, b, ...): a namespace with next(), reset() and current.
inline value cycler_step(runtime& r, value self, bool reset) {
  dict& state = self.space().attributes;
  const std::vector<value>& items = state.find("items")->sequence().items;
  const std::int64_t at = state.find("at")->integer(),
                     next = reset ? 0 : (at + 1) % static_cast<std::int64_t>(items.size());
  state.set(r.heap().make("at"), next);
  state.set(r.heap().make("current"), items[static_cast<std::size_t>(next)]);
  return reset ? value::none() : items[static_cast<std::size_t>(at)];
}

inline value make_cycler(runtime& r, value, const arguments& given) {
  if (given.positional.empty() || !given.named.empty()) fail("cycler() needs items");
  name_space& state = r.heap().make_space();
  state.fixed = true;
  auto& h = r.heap();
  state.attributes.set(h.make("items"), h.make(given.positional));
  state.attributes.set(h.make("at"), std::int64_t{0});
  state.attributes.set(h.make("current"), given.positional.front());
  const native_function next = [](runtime& run, value self, const arguments&) { return cycler_step(run, self, false); };
  const native_function reset = [](runtime& run, value self, const arguments&) { return cycler_step(run, self, true); };
  state.attributes.set(h.make("next"), h.make(callable{"next", next, &state, nullptr, nullptr}));
  state.attributes.set(h.make("reset"), h.make(callable{"reset", reset, &state, nullptr, nullptr}));
  return &state;
}

}  // namespace detail_functions

[[nodiscard]] inline std::span<const method> functions() {
  namespace f = detail_functions;
  static constexpr std::array<method, 7> table = {{{"range", f::range},
                                                   {"dict", f::make_dict},
                                                   {"namespace", f::make_namespace},
                                                   {"cycler", f::make_cycler},
                                                   {"joiner", f::make_joiner},
                                                   {"raise_exception", f::raise},
                                                   {"strftime_now", f::strftime_now}}};
  return table;
}

}  // namespace blockattn::inline v0::jinja
