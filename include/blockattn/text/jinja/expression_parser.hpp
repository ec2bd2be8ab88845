// Tokens to a tree, by Jinja's grammar; expressions.
//
// Loosest first: if-else, or, and, not, comparisons, + -, ~, * / // %, **, unary + -, then calls, subscripts, filters,
// tests.
#pragma once

#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/ast.hpp"
#include "blockattn/text/jinja/lexer.hpp"

namespace blockattn::inline v0::jinja {

/// Names and their numbers.
class symbol_table {
 public:
  std::uint32_t number(std::string_view name) {
    const auto found = numbers_.find(name);
    if (found != numbers_.end()) return found->second;
    const auto n = static_cast<std::uint32_t>(numbers_.size());
    numbers_.emplace(name, n);
    return n;
  }
  [[nodiscard]] bool knows(std::string_view name) const { return numbers_.contains(name); }
  /// Number of the name, or one that no name has.
  [[nodiscard]] std::uint32_t find(std::string_view name) const {
    const auto found = numbers_.find(name);
    return found == numbers_.end() ? static_cast<std::uint32_t>(-1) : found->second;
  }

 private:
  std::map<std::string, std::uint32_t, std::less<>> numbers_;
};

class expression_parser {
 protected:
  expression_parser(std::vector<token> tokens, symbol_table& symbols) : tokens_(std::move(tokens)), symbols_(symbols) {}

  /// Refuses text that nests too deep, so that nothing which walks the tree can run out of stack.
  class nesting {
   public:
    explicit nesting(expression_parser& p) : parser_(p) {
      if (++parser_.depth_ > most_source_depth) parser_.fail_here("nested deeper than ", most_source_depth);
    }
    nesting(const nesting&) = delete;
    nesting& operator=(const nesting&) = delete;
    ~nesting() { --parser_.depth_; }

   private:
    expression_parser& parser_;
  };

  [[nodiscard]] const token& current() const { return tokens_[at_]; }
  [[nodiscard]] const token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  void advance() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  [[nodiscard]] std::uint32_t symbol(std::string_view name) { return symbols_.number(name); }

  template <class... Parts>
  [[noreturn]] void fail_here(const Parts&... parts) const {
    fail_at(current().at, parts...);
  }
  [[nodiscard]] static std::string describe(const token& t) {
    switch (t.type) {
      case token_type::end: return "the end of the template";
      case token_type::data: return "text";
      case token_type::output_begin: return "'{{'";
      case token_type::block_begin: return "'{%'";
      case token_type::string: return cat("the string '", t.text.substr(0, 40), "'");
      default: return cat("'", t.text, "'");
    }
  }

  [[nodiscard]] static bool is_op(const token& t, std::string_view text) {
    return t.type == token_type::op && t.text == text;
  }
  [[nodiscard]] bool at_op(std::string_view text) const { return is_op(current(), text); }
  [[nodiscard]] bool at_name(std::string_view text) const {
    return current().type == token_type::name && current().text == text;
  }
  bool skip_op(std::string_view text) {
    const bool there = at_op(text);
    if (there) advance();
    return there;
  }
  bool skip_name(std::string_view text) {
    const bool there = at_name(text);
    if (there) advance();
    return there;
  }
  void expect(token_type type, std::string_view what) {
    if (current().type != type) fail_here("expected '", what, "', got ", describe(current()));
    advance();
  }
  void expect_op(std::string_view text) {
    if (!skip_op(text)) fail_here("expected '", text, "', got ", describe(current()));
  }
  void expect_name(std::string_view text) {
    if (!skip_name(text)) fail_here("expected '", text, "', got ", describe(current()));
  }

  [[nodiscard]] node make(node_kind kind) const {
    node n;
    n.kind = kind;
    n.at = current().at;
    return n;
  }
  template <class... Nodes>
  [[nodiscard]] static node join(node_kind kind, position at, Nodes&&... children) {
    node n;
    n.kind = kind;
    n.at = at;
    n.children.reserve(sizeof...(children));
    (adopt(n, std::forward<Nodes>(children)), ...);
    return n;
  }
  static void adopt(node& parent, node child) {
    parent.depth = std::max(parent.depth, child.depth + 1);
    if (parent.depth > most_tree_depth) fail_at(parent.at, "nested deeper than ", most_tree_depth);
    parent.children.push_back(std::move(child));
  }
  static void place(node& parent, std::size_t number, node child) {
    parent.depth = std::max(parent.depth, child.depth + 1);
    parent.children[number] = std::move(child);
  }
  void take_name(node& n) {
    if (current().type != token_type::name) fail_here("expected a name, got ", describe(current()));
    n.name = current().text;
    n.symbol = symbol(n.name);
    advance();
  }

  // Operators that associate to the left make trees as deep as they are long: counted like nesting.
  void deepen(std::size_t& n) const {
    if (++n > most_source_depth) fail_here("more than ", most_source_depth, " operators in a row");
  }

  node parse_expression(bool conditional = true) {
    const nesting guard(*this);
    if (!conditional) return parse_or();
    node value = parse_or();
    std::size_t n = 0;
    while (at_name("if")) {
      deepen(n);
      const position at = current().at;
      advance();
      node test = parse_or();
      node other = skip_name("else") ? parse_expression() : node{};
      value = join(node_kind::conditional, at, std::move(test), std::move(value), std::move(other));
    }
    return value;
  }

  node parse_or() {
    node left = parse_and();
    for (std::size_t n = 0; at_name("or");) {
      deepen(n);
      const position at = current().at;
      advance();
      node right = parse_and();
      left = join(node_kind::or_, at, std::move(left), std::move(right));
    }
    return left;
  }

  node parse_and() {
    node left = parse_not();
    for (std::size_t n = 0; at_name("and");) {
      deepen(n);
      const position at = current().at;
      advance();
      node right = parse_not();
      left = join(node_kind::and_, at, std::move(left), std::move(right));
    }
    return left;
  }

  node parse_not() {
    if (!at_name("not")) return parse_compare();
    const nesting guard(*this);
    const position at = current().at;
    advance();
    return join(node_kind::not_, at, parse_not());
  }

  bool take_comparison(op& which) {
    static const std::map<std::string_view, op> known = {{"==", op::equal},  {"!=", op::unequal},
                                                         {"<", op::less},    {"<=", op::less_equal},
                                                         {">", op::greater}, {">=", op::greater_equal}};
    if (current().type == token_type::op) {
      const auto found = known.find(current().text);
      if (found == known.end()) return false;
      which = found->second;
    } else if (at_name("in")) {
      which = op::in;
    } else if (at_name("not") && next().type == token_type::name && next().text == "in") {
      which = op::not_in;
      advance();
    } else {
      return false;
    }
    advance();
    return true;
  }

  node parse_compare() {
    node first = parse_sum();
    node result;
    op which{};
    while (true) {
      const position at = current().at;
      if (!take_comparison(which)) break;
      if (result.kind == node_kind::nothing) result = join(node_kind::compare, at, std::move(first));
      node operand = join(node_kind::operand, at, parse_sum());
      operand.op = which;
      adopt(result, std::move(operand));
    }
    return result.kind == node_kind::nothing ? std::move(first) : std::move(result);
  }

  node binary(op which, position at, node left, node right) {
    node n = join(node_kind::binary, at, std::move(left), std::move(right));
    n.op = which;
    return n;
  }

  node parse_sum() {
    node left = parse_concat();
    for (std::size_t n = 0; at_op("+") || at_op("-");) {
      deepen(n);
      const position at = current().at;
      const op which = at_op("+") ? op::add : op::subtract;
      advance();
      left = binary(which, at, std::move(left), parse_concat());
    }
    return left;
  }

  node parse_concat() {
    node first = parse_product();
    if (!at_op("~")) return first;
    node result = join(node_kind::concat, current().at, std::move(first));
    while (skip_op("~")) adopt(result, parse_product());
    return result;
  }

  node parse_product() {
    static const std::map<std::string_view, op> known = {
        {"*", op::multiply}, {"/", op::divide}, {"//", op::floor_divide}, {"%", op::modulo}};
    node left = parse_power();
    for (std::size_t n = 0; current().type == token_type::op;) {
      const auto found = known.find(current().text);
      if (found == known.end()) break;
      deepen(n);
      const position at = current().at;
      advance();
      left = binary(found->second, at, std::move(left), parse_power());
    }
    return left;
  }

  node parse_power() {
    node left = parse_unary();
    for (std::size_t n = 0; at_op("**");) {
      deepen(n);
      const position at = current().at;
      advance();
      left = binary(op::power, at, std::move(left), parse_unary());
    }
    return left;
  }

  node parse_unary(bool filters = true) {
    const nesting guard(*this);
    node n;
    if (at_op("-") || at_op("+")) {
      const node_kind kind = at_op("-") ? node_kind::negate : node_kind::plus;
      const position at = current().at;
      advance();
      n = join(kind, at, parse_unary(false));
    } else {
      n = parse_primary();
    }
    return parse_postfix(std::move(n), filters);
  }

  node parse_primary() {
    node n = make(node_kind::name);
    switch (current().type) {
      case token_type::name: return parse_name(std::move(n));
      case token_type::string: {
        n.kind = node_kind::string;
        std::string all;
        for (; current().type == token_type::string; advance()) all += current().text;
        n.literal = text(std::move(all));
        return n;
      }
      case token_type::integer:
      case token_type::floating: return parse_number(std::move(n));
      case token_type::op: break;
      default: fail_here("expected an expression, got ", describe(current()));
    }
    if (skip_op("(")) {
      n = parse_tuple(true, {}, true);
      expect_op(")");
      return n;
    }
    if (at_op("[")) return parse_list();
    if (at_op("{")) return parse_dict();
    fail_here("expected an expression, got ", describe(current()));
  }

  node parse_name(node n) {
    const std::string& name = current().text;
    if (name == "true" || name == "True" || name == "false" || name == "False") {
      n.kind = node_kind::boolean;
      n.flag = name == "true" || name == "True";
      advance();
    } else if (name == "none" || name == "None") {
      n.kind = node_kind::none;
      advance();
    } else {
      take_name(n);
    }
    return n;
  }

  node parse_number(node n) {
    const std::string& digits = current().text;
    const char* end = digits.data() + digits.size();
    std::from_chars_result result{};
    if (current().type == token_type::floating) {
      n.kind = node_kind::floating;
      result = std::from_chars(digits.data(), end, n.floating);
    } else {
      n.kind = node_kind::integer;
      const char base = digits.size() > 2 ? digits[1] : '\0';
      const bool prefixed = base == 'x' || base == 'o' || base == 'b';
      result = std::from_chars(digits.data() + (prefixed ? 2 : 0), end, n.integer,
                               base == 'x'   ? 16
                               : base == 'o' ? 8
                               : base == 'b' ? 2
                                             : 10);
    }
    if (result.ec != std::errc() || result.ptr != end)
      fail_here("the number ", digits, " is malformed or beyond 64 bits");
    advance();
    return n;
  }

  [[nodiscard]] bool ends_tuple(std::string_view end_word) const {
    const token_type t = current().type;
    return t == token_type::output_end || t == token_type::block_end || at_op(")") ||
           (!end_word.empty() && at_name(end_word));
  }

  /// An expression, or several with commas between them: a tuple.
  node parse_tuple(bool conditional = true, std::string_view end_word = {}, bool empty_allowed = false) {
    node tuple = make(node_kind::tuple);
    bool comma = false;
    while (!ends_tuple(end_word)) {
      adopt(tuple, parse_expression(conditional));
      if (!skip_op(",")) break;
      comma = true;
    }
    if (comma || (tuple.children.empty() && empty_allowed)) return tuple;
    if (tuple.children.empty()) fail_here("expected an expression, got ", describe(current()));
    node only = std::move(tuple.children.front());
    return only;
  }

  node parse_list() {
    node n = make(node_kind::list);
    expect_op("[");
    while (!at_op("]")) {
      adopt(n, parse_expression());
      if (!skip_op(",") && !at_op("]")) fail_here("expected ',' or ']', got ", describe(current()));
    }
    expect_op("]");
    return n;
  }

  node parse_dict() {
    node n = make(node_kind::dict);
    expect_op("{");
    while (!at_op("}")) {
      adopt(n, parse_expression());
      expect_op(":");
      adopt(n, parse_expression());
      if (!skip_op(",") && !at_op("}")) fail_here("expected ',' or '}', got ", describe(current()));
    }
    expect_op("}");
    return n;
  }

  node parse_postfix(node n, bool filters) {
    std::size_t length = 0;
    while (true) {
      if (at_op("."))
        n = parse_attribute(std::move(n));
      else if (at_op("["))
        n = parse_item(std::move(n));
      else if (at_op("("))
        n = parse_call(std::move(n));
      else if (filters && at_op("|"))
        n = parse_filters(std::move(n));
      else if (filters && at_name("is"))
        n = parse_test(std::move(n));
      else
        return n;
      deepen(length);
    }
  }

  node parse_attribute(node object) {
    const position at = current().at;
    advance();
    if (current().type == token_type::integer)
      return join(node_kind::item, at, std::move(object), parse_number(make(node_kind::integer)));
    if (current().type != token_type::name)
      fail_here("expected a name or a number after '.', got ", describe(current()));
    node n = join(node_kind::attribute, at, std::move(object));
    n.name = current().text;
    n.literal = text(n.name);
    advance();
    return n;
  }

  node parse_item(node object) {
    const position at = current().at;
    expect_op("[");
    std::vector<node> keys;
    while (!at_op("]")) {
      if (!keys.empty()) expect_op(",");
      keys.push_back(parse_subscript());
    }
    expect_op("]");
    if (keys.empty()) fail_at(at, "[] without a key");
    if (keys.size() == 1) return join(node_kind::item, at, std::move(object), std::move(keys.front()));
    node tuple = join(node_kind::tuple, at);
    for (node& key : keys) adopt(tuple, std::move(key));
    return join(node_kind::item, at, std::move(object), std::move(tuple));
  }

  node parse_subscript() {
    node slice = make(node_kind::slice);
    slice.children.resize(3);
    if (!at_op(":")) {
      node key = parse_expression();
      if (!at_op(":")) return key;
      place(slice, 0, std::move(key));
    }
    const auto given = [&] { return !at_op(":") && !at_op("]") && !at_op(","); };
    expect_op(":");
    if (given()) place(slice, 1, parse_expression());
    if (skip_op(":") && given()) place(slice, 2, parse_expression());
    return slice;
  }

  node parse_call(node function) {
    node n = join(node_kind::call, current().at, std::move(function));
    parse_arguments(n);
    return n;
  }

  void parse_arguments(node& into) {
    expect_op("(");
    bool named = false, spread = false, spread_map = false;
    while (!at_op(")")) {
      node argument = make(node_kind::keyword);
      if (skip_op("*")) {
        if (spread || spread_map) fail_here("more than one *, or one after **");
        argument.kind = node_kind::spread;
        spread = true;
        adopt(argument, parse_expression());
      } else if (skip_op("**")) {
        if (spread_map) fail_here("more than one **");
        argument.kind = node_kind::spread_map;
        spread_map = true;
        adopt(argument, parse_expression());
      } else if (current().type == token_type::name && is_op(next(), "=")) {
        argument.name = current().text;
        advance();
        advance();
        named = true;
        adopt(argument, parse_expression());
      } else {
        if (named || spread || spread_map) fail_here("an argument without a name after one with a name");
        argument = parse_expression();
      }
      adopt(into, std::move(argument));
      if (!skip_op(",") && !at_op(")")) fail_here("expected ',' or ')', got ", describe(current()));
    }
    expect_op(")");
  }

  /// name, or name.name
  std::string dotted_name() {
    if (current().type != token_type::name) fail_here("expected a name, got ", describe(current()));
    std::string name = current().text;
    advance();
    while (skip_op(".")) {
      if (current().type != token_type::name) fail_here("expected a name, got ", describe(current()));
      name += '.' + current().text;
      advance();
    }
    return name;
  }

  /// | name | name(...); `inside`: the first | isn't written.
  node parse_filters(node value, bool inside = false) {
    for (std::size_t n = 0; inside || at_op("|"); inside = false) {
      deepen(n);
      if (!inside) advance();
      node filter = join(node_kind::filter, current().at, std::move(value));
      filter.name = dotted_name();
      if (at_op("(")) parse_arguments(filter);
      value = std::move(filter);
    }
    return value;
  }

  /// is [not] name [argument]
  node parse_test(node value) {
    advance();
    const bool negated = skip_name("not");
    node test = join(node_kind::test, current().at, std::move(value));
    test.name = dotted_name();
    const token_type t = current().type;
    const bool word = t == token_type::name && !at_name("else") && !at_name("or") && !at_name("and");
    if (at_op("(")) {
      parse_arguments(test);
    } else if (word || t == token_type::string || t == token_type::integer || t == token_type::floating || at_op("[") ||
               at_op("{")) {
      if (at_name("is")) fail_here("tests can't be chained with 'is'");
      node argument = parse_primary();
      adopt(test, parse_postfix(std::move(argument), false));
    }
    const position at = test.at;
    return negated ? join(node_kind::not_, at, std::move(test)) : std::move(test);
  }

  /// What may be assigned to: a name, several, or (`spaces`) an attribute of a namespace.
  node parse_target(bool spaces) {
    node tuple = make(node_kind::tuple);
    bool comma = false;
    do {
      if (comma && (at_name("in") || at_op("=") || current().type == token_type::block_end)) break;
      adopt(tuple, parse_one_target(spaces));
      comma = at_op(",") || comma;
    } while (skip_op(","));
    if (comma) return tuple;
    node only = std::move(tuple.children.front());
    return only;
  }

  node parse_one_target(bool spaces) {
    const nesting guard(*this);
    if (skip_op("(")) {
      node inner = parse_target(spaces);
      expect_op(")");
      return inner;
    }
    node n = make(node_kind::name);
    if (at_name("true") || at_name("false") || at_name("none") || at_name("True") || at_name("False") ||
        at_name("None"))
      fail_here("can't assign to ", describe(current()));
    take_name(n);
    if (spaces && skip_op(".")) {
      n.kind = node_kind::name_in_space;
      if (current().type != token_type::name) fail_here("expected a name, got ", describe(current()));
      n.literal = text(current().text);
      advance();
    }
    return n;
  }

 private:
  std::vector<token> tokens_;
  symbol_table& symbols_;
  std::size_t at_ = 0, depth_ = 0;
};

}  // namespace blockattn::inline v0::jinja
