// Runs a parsed template: walks the tree.
//
// Scopes are Jinja's: a loop's body, a macro, a call block and a set block see what is around them and keep their own
// variables to themselves; an if doesn't have a scope.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/ast.hpp"
#include "blockattn/text/jinja/expression_parser.hpp"
#include "blockattn/text/jinja/filters.hpp"
#include "blockattn/text/jinja/format.hpp"
#include "blockattn/text/jinja/functions.hpp"
#include "blockattn/text/jinja/lookup.hpp"
#include "blockattn/text/jinja/operators.hpp"

namespace blockattn::inline v0::jinja {

/// Names that the interpreter itself sets; their numbers are the same in every template.
enum reserved : std::uint32_t { name_loop, name_caller, name_varargs, name_kwargs };
inline void reserve_names(symbol_table& symbols) {
  for (const char* name : {"loop", "caller", "varargs", "kwargs"}) (void)symbols.number(name);
}

class interpreter final : public runtime {
 public:
  /// `now`: what strftime_now() says.
  interpreter(jinja::heap& h, const std::tm& now) : runtime(h), now_(now), out_(&result_) {}

  /// `globals` are the template's variables. Throws template_error and template_refusal.
  [[nodiscard]] text render(const node& root, scope& globals) {
    try {
      (void)run(root, globals);
    } catch (const failure& f) {
      const position at = at_ != nullptr ? at_->at : position{};
      if (f.raised) throw template_refusal(cat("[jinja] ", at.line, ':', at.column, " the template refuses: ", f.what));
      fail_at(at, f.what);
    }
    return result_.finish();
  }

  value call(value f, const arguments& a) override {
    const deeper level(use());
    if (f.is(kind::undefined)) fail_undefined(f);
    if (f.is(kind::loop)) return call_loop(f.loop(), a);
    if (!f.is(kind::callable)) fail("a value of type ", type_name(f), " can't be called");
    const callable& c = f.function();
    return c.macro != nullptr ? call_macro(c, a) : c.native(*this, c.self, a);
  }

  value filter(std::string_view name, value v, const arguments& a) override {
    const native_function f = find_filter(name);
    if (f == nullptr) fail(unknown_filter(name));
    const deeper level(use());
    return f(*this, v, a);
  }

  bool test(std::string_view name, value v, const arguments& a) override {
    const auto t = find_test(name);
    if (t == nullptr) fail(unknown_test(name));
    const deeper level(use());
    return t(*this, v, a);
  }

  value item(value object, std::string_view part) override { return item_by_text(*this, object, part); }

  [[nodiscard]] std::string date(const std::string& format) const override {
    std::string buffer(4096, '\0');
    buffer.resize(std::strftime(buffer.data(), buffer.size(), format.c_str(), &now_));
    return buffer;
  }

 private:
  enum class flow : std::uint8_t { next, broken, continued };

  /// Where we are: for messages. Not restored when something is thrown, so the innermost place is told.
  class here {
   public:
    here(interpreter& i, const node& n)
        : interpreter_(i), outer_(i.at_), exceptions_(std::uncaught_exceptions()), level_(i.use()) {
      i.at_ = &n;
      i.use().step();
    }
    here(const here&) = delete;
    here& operator=(const here&) = delete;
    ~here() {
      if (std::uncaught_exceptions() == exceptions_) interpreter_.at_ = outer_;
    }

   private:
    interpreter& interpreter_;
    const node* outer_;
    int exceptions_;
    deeper level_;
  };

  // Statements

  flow run(const node& n, scope& s) {
    const here place(*this, n);
    switch (n.kind) {
      case node_kind::nothing: return flow::next;
      case node_kind::block: return run_block(n, s);
      case node_kind::data: emit(n.literal); return flow::next;
      case node_kind::output:
        for (const node& e : n.children) emit_value(eval(e, s));
        return flow::next;
      case node_kind::if_: return run_if(n, s);
      case node_kind::for_: run_for(n, s); return flow::next;
      case node_kind::set: assign(n.children[0], eval(n.children[1], s), s); return flow::next;
      case node_kind::set_block: run_set_block(n, s); return flow::next;
      case node_kind::macro: s.set(n.symbol, make_macro(n, s)); return flow::next;
      case node_kind::call_block: run_call_block(n, s); return flow::next;
      case node_kind::filter_block:
        emit_value(filtered(n.children[0], capture(n.children[1], s), s));
        return flow::next;
      case node_kind::with: return run_with(n, s);
      case node_kind::scoped: return run(n.children[0], heap().make_scope(&s));
      case node_kind::break_: return flow::broken;
      case node_kind::continue_: return flow::continued;
      default: emit_value(eval(n, s)); return flow::next;
    }
  }

  flow run_block(const node& n, scope& s) {
    for (const node& statement : n.children)
      if (const flow f = run(statement, s); f != flow::next) return f;
    return flow::next;
  }

  flow run_if(const node& n, scope& s) {
    std::size_t i = 0;
    for (; i + 1 < n.children.size(); i += 2)
      if (truthy(eval(n.children[i], s))) return run(n.children[i + 1], s);
    return i < n.children.size() ? run(n.children[i], s) : flow::next;
  }

  void run_for(const node& n, scope& s) { loop_over(n, eval(n.children[1], s), s, 0); }

  void loop_over(const node& n, value from, scope& s, std::size_t depth) {
    std::vector<value> items = items_of(*this, from);
    if (n.children[4].kind != node_kind::nothing) {
      std::erase_if(items, [&](value item) {
        scope& inner = heap().make_scope(&s);
        assign(n.children[0], item, inner);
        return !truthy(eval(n.children[4], inner));
      });
    }
    if (items.empty()) {
      (void)run(n.children[3], s);
      return;
    }
    loop_state& state = heap().make_loop();
    state.items = &heap().make(std::move(items)).sequence();
    state.depth = depth;
    state.outside = &s;
    if (n.flag) state.recursive = &n;
    iterate(n, state, s);
  }

  void iterate(const node& n, loop_state& state, scope& s) {
    scope* inner = &heap().make_scope(&s);
    const std::uint32_t emitter = emitter_;
    for (; state.index < state.items->items.size(); ++state.index) {
      use().step();
      const value item = state.items->items[state.index];
      if (inner->captured)
        inner = &heap().make_scope(&s);
      else
        inner->variables.clear();
      inner->set(name_loop, value(&state));
      assign(n.children[0], item, *inner);
      emitter_ = item.is(kind::dict) && item.mapping().unit != 0 ? item.mapping().unit : emitter;
      const flow f = run(n.children[2], *inner);
      emitter_ = emitter;
      if (f == flow::broken) break;
    }
  }

  value call_loop(const loop_state& l, const arguments& a) {
    if (l.recursive == nullptr) fail("loop() is for loops marked 'recursive'");
    if (a.positional.size() != 1) fail("loop() takes one argument");
    text_builder inner;
    text_builder* outer = std::exchange(out_, &inner);
    loop_over(*l.recursive, a.positional.front(), *l.outside, l.depth + 1);
    out_ = outer;
    return heap().make(inner.finish());
  }

  void assign(const node& target, value v, scope& s) {
    if (target.kind == node_kind::name) return s.set(target.symbol, v);
    if (target.kind == node_kind::name_in_space) {
      const value* found = s.find(target.symbol);
      if (found == nullptr || !found->is(kind::space) || found->space().fixed)
        fail("attributes can be assigned to namespaces only; ", target.name, " isn't one");
      return found->space().attributes.set(value(&target.literal), v);
    }
    if (v.is(kind::undefined)) fail_undefined(v);
    const std::vector<value> items = items_of(*this, v);
    if (items.size() != target.children.size())
      fail("can't unpack ", items.size(), " values into ", target.children.size(), " names");
    for (std::size_t i = 0; i < items.size(); ++i) assign(target.children[i], items[i], s);
  }

  [[nodiscard]] text capture(const node& body, scope& s) {
    text_builder inner;
    text_builder* outer = std::exchange(out_, &inner);
    (void)run(body, heap().make_scope(&s));
    out_ = outer;
    return inner.finish();
  }

  value filtered(const node& filters, text body, scope& s) {
    const value before = std::exchange(captured_, heap().make(std::move(body)));
    const value result = eval(filters, s);
    captured_ = before;
    return result;
  }

  void run_set_block(const node& n, scope& s) {
    text body = capture(n.children[2], s);
    assign(n.children[0],
           n.children[1].kind == node_kind::nothing ? heap().make(std::move(body))
                                                    : filtered(n.children[1], std::move(body), s),
           s);
  }

  flow run_with(const node& n, scope& s) {
    scope& inner = heap().make_scope(&s);
    for (std::size_t i = 0; i + 1 < n.children.size(); i += 2) assign(n.children[i], eval(n.children[i + 1], s), inner);
    return run(n.children.back(), inner);
  }

  // Macros

  value make_macro(const node& n, scope& s) {
    for (scope* outer = &s; outer != nullptr && !outer->captured; outer = outer->parent) outer->captured = true;
    return heap().make(callable{n.name, nullptr, {}, &n, &s});
  }

  void run_call_block(const node& n, scope& s) {
    const node& call_node = n.children[1];
    const value function = eval(call_node.children[0], s);
    arguments a = arguments_of(call_node, s);
    a.named.emplace_back("caller", make_macro(n.children[0], s));
    emit_value(call(function, a));
  }

  /// Whether a macro's body speaks of caller, varargs, kwargs.
  [[nodiscard]] const std::array<bool, 4>& mentions(const node& macro) {
    const auto [at, fresh] = mentions_.try_emplace(&macro);
    if (fresh) look_for_names(macro, at->second);
    return at->second;
  }
  static void look_for_names(const node& n, std::array<bool, 4>& found) {
    if (n.kind == node_kind::name && n.symbol < found.size()) found[n.symbol] = true;
    for (const node& child : n.children) look_for_names(child, found);
  }

  value call_macro(const callable& c, const arguments& a) {
    const node& macro = *c.macro;
    const std::size_t parameters = macro.children.size() - 1;
    scope& s = heap().make_scope(c.closure);
    std::vector<bool> used(a.named.size());
    const auto named = [&](std::string_view name) -> const value* {
      for (std::size_t i = 0; i < a.named.size(); ++i) {
        if (a.named[i].first != name || used[i]) continue;
        used[i] = true;
        return &a.named[i].second;
      }
      return nullptr;
    };
    for (std::size_t i = 0; i < parameters; ++i) {
      const node& p = macro.children[i];
      const value* given = i < a.positional.size() ? &a.positional[i] : named(p.name);
      if (given != nullptr)
        s.set(p.symbol, *given);
      else
        s.set(p.symbol, p.children.empty()
                            ? heap().undefined(cat("parameter '", p.name, "' of ", c.name, "() was not given"))
                            : eval(p.children[0], s));
    }
    take_rest(c, a, used, s, named("caller"));
    text_builder inner;
    text_builder* outer = std::exchange(out_, &inner);
    (void)run(macro.children.back(), s);
    out_ = outer;
    return heap().make(inner.finish());
  }

  /// What no parameter takes: caller, varargs, kwargs; an error if the macro doesn't ask for them.
  void take_rest(const callable& c, const arguments& a, const std::vector<bool>& used, scope& s, const value* caller) {
    const auto& asks = mentions(*c.macro);
    const std::size_t parameters = c.macro->children.size() - 1;
    if (caller != nullptr && !asks[name_caller]) fail("macro '", c.name, "' doesn't call caller()");
    if (asks[name_caller] && (caller != nullptr || s.variables.empty() || s.find(name_caller) == nullptr))
      s.set(name_caller, caller != nullptr ? *caller : heap().undefined("no caller defined"));
    if (a.positional.size() > parameters && !asks[name_varargs])
      fail("macro '", c.name, "' takes up to ", parameters, " arguments, got ", a.positional.size());
    if (asks[name_varargs])
      s.set(name_varargs,
            heap().make(a.positional.size() > parameters
                            ? std::vector<value>(a.positional.begin() + static_cast<std::ptrdiff_t>(parameters),
                                                 a.positional.end())
                            : std::vector<value>(),
                        flavour::tuple));
    dict rest;
    for (std::size_t i = 0; i < a.named.size(); ++i) {
      if (used[i]) continue;
      if (!asks[name_kwargs]) fail("macro '", c.name, "' has no parameter '", a.named[i].first, "'");
      rest.set(heap().make(a.named[i].first), a.named[i].second);
    }
    if (asks[name_kwargs]) s.set(name_kwargs, heap().make(std::move(rest)));
  }

  // Expressions

  value eval(const node& n, scope& s) {
    const here place(*this, n);
    switch (n.kind) {
      case node_kind::string: return &n.literal;
      case node_kind::integer: return n.integer;
      case node_kind::floating: return n.floating;
      case node_kind::boolean: return n.flag;
      case node_kind::none: return value::none();
      case node_kind::name: return variable(n, s);
      case node_kind::list: return heap().make(all(n, s));
      case node_kind::tuple: return heap().make(all(n, s), flavour::tuple);
      case node_kind::dict: return make_dict(n, s);
      case node_kind::negate: return negate(eval(n.children[0], s), true);
      case node_kind::plus: return negate(eval(n.children[0], s), false);
      case node_kind::not_: return !truthy(eval(n.children[0], s));
      case node_kind::and_: return either(n, s, false);
      case node_kind::or_: return either(n, s, true);
      case node_kind::binary: return binary(n, s);
      case node_kind::concat: return concat(n, s);
      case node_kind::compare: return chain(n, s);
      case node_kind::conditional: return conditional(n, s);
      case node_kind::attribute: return attribute_of(*this, eval(n.children[0], s), n.name);
      case node_kind::item: return item_node(n, s);
      case node_kind::call: return call_node(n, s);
      case node_kind::filter: return filter_node(n, s);
      case node_kind::test: return test_node(n, s);
      case node_kind::captured: return captured_;
      case node_kind::slice: fail("a slice among several keys");
      default: fail("this can't be evaluated");
    }
  }

  value variable(const node& n, scope& s) {
    const value* found = s.find(n.symbol);
    return found != nullptr ? *found : heap().undefined(cat("'", n.name, "' is undefined"));
  }

  [[nodiscard]] std::vector<value> all(const node& n, scope& s) {
    std::vector<value> values;
    values.reserve(n.children.size());
    for (const node& child : n.children) values.push_back(eval(child, s));
    return values;
  }

  value make_dict(const node& n, scope& s) {
    dict d;
    for (std::size_t i = 0; i + 1 < n.children.size(); i += 2) {
      const value key = eval(n.children[i], s);
      d.set(key, eval(n.children[i + 1], s));
    }
    return heap().make(std::move(d));
  }

  value either(const node& n, scope& s, bool stop) {
    const value left = eval(n.children[0], s);
    return truthy(left) == stop ? left : eval(n.children[1], s);
  }

  value binary(const node& n, scope& s) {
    const value left = eval(n.children[0], s), right = eval(n.children[1], s);
    if (n.op == op::modulo && left.is(kind::text)) return percent_formatter(*this, left.string(), right).run();
    return arithmetic(*this, n.op, left, right);
  }

  value concat(const node& n, scope& s) {
    text_builder out;
    for (const node& child : n.children) {
      out.append(str(*this, eval(child, s)));
      use().check_string(out.size());
    }
    return heap().make(out.finish());
  }

  value chain(const node& n, scope& s) {
    value left = eval(n.children[0], s);
    for (std::size_t i = 1; i < n.children.size(); ++i) {
      const value right = eval(n.children[i].children[0], s);
      if (!holds(use(), n.children[i].op, left, right)) return false;
      left = right;
    }
    return true;
  }

  value conditional(const node& n, scope& s) {
    if (truthy(eval(n.children[0], s))) return eval(n.children[1], s);
    if (n.children[2].kind == node_kind::nothing) return heap().undefined("an if without else gave no value");
    return eval(n.children[2], s);
  }

  value item_node(const node& n, scope& s) {
    const value object = eval(n.children[0], s);
    const node& key = n.children[1];
    if (key.kind != node_kind::slice) return item_of(*this, object, eval(key, s));
    std::array<value, 3> parts;
    for (std::size_t i = 0; i < 3; ++i)
      parts[i] = key.children[i].kind == node_kind::nothing ? value::none() : eval(key.children[i], s);
    return slice_of(*this, object, parts[0], parts[1], parts[2]);
  }

  /// Children from the second on.
  [[nodiscard]] arguments arguments_of(const node& n, scope& s) {
    arguments a;
    for (std::size_t i = 1; i < n.children.size(); ++i) {
      const node& child = n.children[i];
      if (child.kind == node_kind::keyword) {
        a.named.emplace_back(child.name, eval(child.children[0], s));
      } else if (child.kind == node_kind::spread) {
        for (const value& v : items_of(*this, eval(child.children[0], s))) a.positional.push_back(v);
      } else if (child.kind == node_kind::spread_map) {
        const value map = eval(child.children[0], s);
        if (!map.is(kind::dict)) fail("** needs a dictionary, got ", type_name(map));
        for (const auto& [key, v] : map.mapping().entries) {
          if (!key.is(kind::text)) fail("** needs names for keys");
          a.named.emplace_back(key.string().bytes(), v);
        }
      } else {
        a.positional.push_back(eval(child, s));
      }
    }
    return a;
  }

  value call_node(const node& n, scope& s) {
    const value function = eval(n.children[0], s);
    return call(function, arguments_of(n, s));
  }

  value filter_node(const node& n, scope& s) {
    const value v = eval(n.children[0], s);
    return filter(n.name, v, arguments_of(n, s));
  }

  value test_node(const node& n, scope& s) {
    const value v = eval(n.children[0], s);
    return test(n.name, v, arguments_of(n, s));
  }

  // Output

  void emit(const text& t) {
    out_->append(t, 0, t.size(), emitter_);
    use().bytes(t.size());
    use().check_output(out_->size());
  }
  void emit_value(value v) {
    if (v.is(kind::text))
      emit(v.string());
    else
      emit(str(*this, v));
  }

  std::tm now_;
  text_builder result_;
  text_builder* out_;
  std::uint32_t emitter_ = 0;
  value captured_;
  const node* at_ = nullptr;
  std::unordered_map<const node*, std::array<bool, 4>> mentions_;
};

}  // namespace blockattn::inline v0::jinja
