// What a template computes with: Python's values, as far as templates use them.
//
// A value is two words. Strings, lists, dictionaries and what can be called live in the heap of one rendering and go
// with it, so there are no counts and no cycles to care for. Nothing but a namespace can be changed once it is made.
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/error.hpp"
#include "blockattn/text/jinja/text.hpp"

namespace blockattn::inline v0::jinja {

enum class kind : std::uint8_t { undefined, none, boolean, integer, floating, text, list, dict, space, callable, loop };

struct list;
struct dict;
struct name_space;
struct callable;
struct loop_state;
struct node;
struct scope;
class runtime;

class value {
 public:
  value() : kind_(kind::undefined), hint_(nullptr) {}
  template <std::same_as<bool> Bool>  // so that nothing becomes one by itself
  value(Bool b) : kind_(kind::boolean), int_(b ? 1 : 0) {}
  value(std::int64_t i) : kind_(kind::integer), int_(i) {}
  value(double d) : kind_(kind::floating), double_(d) {}
  value(const jinja::text* t) : kind_(kind::text), text_(t) {}
  value(const jinja::list* l) : kind_(kind::list), list_(l) {}
  value(const jinja::dict* d) : kind_(kind::dict), dict_(d) {}
  value(name_space* s) : kind_(kind::space), space_(s) {}
  value(const jinja::callable* c) : kind_(kind::callable), callable_(c) {}
  value(const loop_state* l) : kind_(kind::loop), loop_(l) {}
  [[nodiscard]] static value none() {
    value v;
    v.kind_ = kind::none;
    return v;
  }
  /// `hint` says what wasn't there; it must live as long as the value.
  [[nodiscard]] static value undefined(const std::string* hint) {
    value v;
    v.hint_ = hint;
    return v;
  }

  [[nodiscard]] kind type() const { return kind_; }
  [[nodiscard]] bool is(kind k) const { return kind_ == k; }
  [[nodiscard]] bool is_integral() const { return is(kind::integer) || is(kind::boolean); }  // as in Python
  [[nodiscard]] bool is_number() const { return is_integral() || is(kind::floating); }
  [[nodiscard]] std::int64_t integer() const { return int_; }
  [[nodiscard]] double number() const { return is(kind::floating) ? double_ : static_cast<double>(int_); }
  [[nodiscard]] const jinja::text& string() const { return *text_; }
  [[nodiscard]] const jinja::list& sequence() const { return *list_; }
  [[nodiscard]] const jinja::dict& mapping() const { return *dict_; }
  [[nodiscard]] name_space& space() const { return *space_; }
  [[nodiscard]] const jinja::callable& function() const { return *callable_; }
  [[nodiscard]] const loop_state& loop() const { return *loop_; }
  [[nodiscard]] const std::string* hint() const { return hint_; }
  /// Same object, as Python's `is`.
  [[nodiscard]] bool same(const value& other) const {
    return kind_ == other.kind_ &&
           (is(kind::floating) ? double_ == other.double_ : int_ == other.int_ || is(kind::none));
  }

 private:
  kind kind_;
  union {
    std::int64_t int_;
    double double_;
    const std::string* hint_;
    const jinja::text* text_;
    const jinja::list* list_;
    const jinja::dict* dict_;
    name_space* space_;
    const jinja::callable* callable_;
    const loop_state* loop_;
  };
};

/// How a list came about: it decides how it prints and what it can do.
enum class flavour : std::uint8_t { list, tuple, range, keys, values, items, generator };

struct list {
  std::vector<value> items;
  flavour from = flavour::list;
  value mapping{};                ///< of the views: whose
  mutable bool consumed = false;  ///< generator: was iterated over
};

/// The name of a value's type as Python's messages have it.
[[nodiscard]] inline std::string_view type_name(value v) {
  static constexpr std::string_view names[] = {"undefined", "NoneType", "bool",      "int",      "float",      "str",
                                               "list",      "dict",     "Namespace", "function", "LoopContext"};
  static constexpr std::string_view flavours[] = {"list",        "tuple",      "range",    "dict_keys",
                                                  "dict_values", "dict_items", "generator"};
  return v.is(kind::list) ? flavours[static_cast<std::size_t>(v.sequence().from)]
                          : names[static_cast<std::size_t>(v.type())];
}

/// A text that two equal keys share and different ones don't. Fails for what Python can't hash.
[[nodiscard]] inline std::string key_of(value v) {
  switch (v.type()) {
    case kind::text: return cat('s', v.string().bytes());
    case kind::none: return "n";
    case kind::boolean:
    case kind::integer: return cat('i', v.integer());
    case kind::floating: {
      const double d = v.number();
      if (d == std::floor(d) && std::abs(d) < 9e15) return cat('i', static_cast<std::int64_t>(d));
      return cat('f', std::hexfloat, d);
    }
    case kind::list: {
      if (v.sequence().from != flavour::tuple) break;
      std::string key = "t";
      for (const value& item : v.sequence().items) {
        const std::string part = key_of(item);
        key += cat(part.size(), ':', part);
      }
      return key;
    }
    case kind::dict: break;
    default: return cat('p', v.integer());
  }
  fail("a ", type_name(v), " can't be a key (unhashable type)");
}

/// A dictionary in the order of insertion.
struct dict {
  std::vector<std::pair<value, value>> entries;
  std::uint32_t unit = 0;  ///< a message or document of the caller's: a loop over such marks what it emits

  void set(value key, value v) {
    const auto [at, fresh] = index_.try_emplace(key_of(key), entries.size());
    if (fresh)
      entries.emplace_back(key, v);
    else
      entries[at->second].second = v;
  }
  /// nullptr if there is none.
  [[nodiscard]] const value* find(value key) const {
    const auto at = index_.find(key_of(key));
    return at == index_.end() ? nullptr : &entries[at->second].second;
  }
  [[nodiscard]] const value* find(std::string_view key) const {
    if (entries.size() <= 8) {  // most are: no allocation
      for (const auto& [k, v] : entries)
        if (k.is(kind::text) && k.string().bytes() == key) return &v;
      return nullptr;
    }
    const auto at = index_.find(cat('s', key));
    return at == index_.end() ? nullptr : &entries[at->second].second;
  }

 private:
  std::unordered_map<std::string, std::size_t> index_;
};

struct name_space {
  dict attributes;
  bool fixed = false;  ///< the template can't assign to it
};

/// Arguments of a call; the views' texts belong to the template or to the heap.
struct arguments {
  std::vector<value> positional;
  std::vector<std::pair<std::string_view, value>> named;
};

using native_function = value (*)(runtime&, value self, const arguments&);

/// A macro (node and the scope it was made in), or a function of ours with what it is bound to.
struct callable {
  std::string_view name;
  native_function native = nullptr;
  value self{};
  const node* macro = nullptr;
  scope* closure = nullptr;
};

/// The variable `loop`.
struct loop_state {
  const list* items = nullptr;
  std::size_t index = 0, depth = 0;
  const node* recursive = nullptr;  ///< the loop, if loop(...) may call it again
  scope* outside = nullptr;
  mutable std::vector<value> changed{};
  mutable bool has_changed = false;
};

/// Variables by the numbers of their names.
struct scope {
  scope* parent = nullptr;
  bool captured = false;  ///< a macro was defined in it, which may look here later
  std::vector<std::pair<std::uint32_t, value>> variables;

  void set(std::uint32_t name, value v) {
    for (auto& [n, old] : variables)
      if (n == name) {
        old = v;
        return;
      }
    variables.emplace_back(name, v);
  }
  [[nodiscard]] const value* find(std::uint32_t name) const {
    for (const scope* s = this; s != nullptr; s = s->parent)
      for (const auto& [n, v] : s->variables)
        if (n == name) return &v;
    return nullptr;
  }
};

/// Owns what one rendering makes.
class heap {
 public:
  explicit heap(budget& b) : budget_(b) {}
  heap(const heap&) = delete;
  heap& operator=(const heap&) = delete;

  [[nodiscard]] value make(text t) {
    budget_.check_string(t.size());
    budget_.allocate(t.size() + t.runs().size() * sizeof(run) + sizeof(text));
    return &texts_.emplace_back(std::move(t));
  }
  [[nodiscard]] value make(std::string_view bytes, mark from = {}) { return make(text(std::string(bytes), from)); }
  [[nodiscard]] value make(std::vector<value> items, flavour from = flavour::list, value mapping = {}) {
    budget_.check_items(items.size());
    budget_.allocate(items.size() * sizeof(value) + sizeof(list));
    return &lists_.emplace_back(list{std::move(items), from, mapping});
  }
  [[nodiscard]] value make(dict d) {
    budget_.check_items(d.entries.size());
    std::size_t bytes = sizeof(dict);
    for (const auto& [key, v] : d.entries) bytes += 128 + (key.is(kind::text) ? key.string().size() : 0);
    budget_.allocate(bytes);
    return &dicts_.emplace_back(std::move(d));
  }
  [[nodiscard]] name_space& make_space() {
    budget_.allocate(sizeof(name_space));
    return spaces_.emplace_back();
  }
  [[nodiscard]] value make(callable c) {
    budget_.allocate(sizeof(callable));
    return &callables_.emplace_back(c);
  }
  [[nodiscard]] loop_state& make_loop() {
    budget_.allocate(sizeof(loop_state));
    return loops_.emplace_back();
  }
  [[nodiscard]] scope& make_scope(scope* parent) {
    budget_.allocate(sizeof(scope) + 64);
    scope& s = scopes_.emplace_back();
    s.parent = parent;
    return s;
  }
  /// An undefined value with the reason of it.
  [[nodiscard]] value undefined(std::string hint) {
    budget_.allocate(hint.size() + sizeof(hint));
    return value::undefined(&hints_.emplace_back(std::move(hint)));
  }
  [[nodiscard]] budget& use() { return budget_; }

 private:
  budget& budget_;
  std::deque<text> texts_;
  std::deque<list> lists_;
  std::deque<dict> dicts_;
  std::deque<name_space> spaces_;
  std::deque<callable> callables_;
  std::deque<loop_state> loops_;
  std::deque<scope> scopes_;
  std::deque<std::string> hints_;
};

[[nodiscard]] inline bool truthy(value v) {
  switch (v.type()) {
    case kind::undefined:
    case kind::none: return false;
    case kind::boolean:
    case kind::integer: return v.integer() != 0;
    case kind::floating: return v.number() != 0;
    case kind::text: return !v.string().empty();
    case kind::list: return v.sequence().from == flavour::generator || !v.sequence().items.empty();
    case kind::dict: return !v.mapping().entries.empty();
    default: return true;
  }
}

[[noreturn]] inline void fail_undefined(value v) {
  fail(v.hint() != nullptr ? *v.hint() : std::string("a value is undefined"));
}

/// What native functions may use of the interpreter.
class runtime {
 public:
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;
  virtual ~runtime() = default;

  virtual value call(value f, const arguments& a) = 0;
  virtual value filter(std::string_view name, value v, const arguments& a) = 0;
  virtual bool test(std::string_view name, value v, const arguments& a) = 0;
  /// object[part] of a dotted name, digits being an index.
  virtual value item(value object, std::string_view part) = 0;
  /// strftime of the rendering's date.
  [[nodiscard]] virtual std::string date(const std::string& format) const = 0;

  [[nodiscard]] jinja::heap& heap() { return heap_; }
  [[nodiscard]] jinja::budget& use() { return heap_.use(); }

 protected:
  explicit runtime(jinja::heap& h) : heap_(h) {}

 private:
  jinja::heap& heap_;
};

}  // namespace blockattn::inline v0::jinja
