// A Jinja template: read once, rendered any number of times by any number of threads.
//
// The language is Jinja 3's as chat templates use it, with the settings of transformers: trim_blocks, lstrip_blocks,
// break and continue, {% generation %}, tojson as json.dumps without escaping of HTML, raise_exception, strftime_now,
// immutable lists and dictionaries. Not there: inheritance, imports, autoescape, \N{...}, whole numbers beyond 64 bits.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/parts.hpp"
#include "blockattn/text/jinja/interpreter.hpp"
#include "blockattn/text/jinja/parser.hpp"

namespace blockattn::inline v0::jinja {

/// Values for a template's variables; they live in the heap that the rendering is given.
using variables = std::vector<std::pair<std::string_view, value>>;

class template_source {
 public:
  /// Throws template_error: syntax, a filter or test that isn't there.
  explicit template_source(std::string_view source);

  /// Whether the text speaks of a variable of this name.
  [[nodiscard]] bool mentions(std::string_view name) const { return state_->symbols.knows(name); }

  /// Throws template_error (where it happened; limits exceeded) and template_refusal (raise_exception).
  [[nodiscard]] text render(heap& h, const variables& given, const std::tm& now) const;

 private:
  struct state {
    node root;
    symbol_table symbols;
  };

  /// Filters and tests that aren't there are an error at once, but inside of an if only where they are reached: as in
  /// Jinja, so that a template may ask whether a filter is there.
  static void check_names(const node& n, bool guarded);
  [[nodiscard]] static bool guards(const node& n, std::size_t child, bool guarded) {
    switch (n.kind) {
      case node_kind::if_:
      case node_kind::conditional: return true;
      case node_kind::for_: return guarded && child == 1;
      case node_kind::macro:
      case node_kind::with:
      case node_kind::scoped: return false;
      case node_kind::set_block:
      case node_kind::filter_block: return false;
      default: return guarded;
    }
  }

  std::shared_ptr<const state> state_;
};

#if BLOCKATTN_HAS_TEXT
BLOCKATTN_PART template_source::template_source(std::string_view source) {
  symbol_table symbols;
  reserve_names(symbols);
  node root = parser::parse(source, symbols);
  check_names(root, false);
  state_ = std::make_shared<const state>(state{std::move(root), std::move(symbols)});
}

BLOCKATTN_PART text template_source::render(heap& h, const variables& given, const std::tm& now) const {
  interpreter run(h, now);
  scope& globals = h.make_scope(nullptr);
  for (const method& f : functions())
    if (mentions(f.name))
      globals.set(state_->symbols.find(f.name), h.make(callable{f.name, f.call, {}, nullptr, nullptr}));
  for (const auto& [name, v] : given)
    if (mentions(name)) globals.set(state_->symbols.find(name), v);
  return run.render(state_->root, h.make_scope(&globals));
}

BLOCKATTN_PART void template_source::check_names(const node& n, bool guarded) {
  if (!guarded && n.kind == node_kind::filter && find_filter(n.name) == nullptr)
    fail_at(n.at, unknown_filter(n.name));
  if (!guarded && n.kind == node_kind::test && find_test(n.name) == nullptr) fail_at(n.at, unknown_test(n.name));
  for (std::size_t i = 0; i < n.children.size(); ++i) check_names(n.children[i], guards(n, i, guarded));
}
#endif

}  // namespace blockattn::inline v0::jinja
