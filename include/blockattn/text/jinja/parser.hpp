// Tokens to a tree, by Jinja's grammar; statements. Expressions are in expression_parser.hpp.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/text/jinja/expression_parser.hpp"

namespace blockattn::inline v0::jinja {

class parser : private expression_parser {
 public:
  /// A tree of kind block. Names get numbers in `symbols`. Throws template_error.
  [[nodiscard]] static node parse(std::string_view source, symbol_table& symbols) {
    parser p(lexer::scan(source), symbols);
    node result = p.statements({});
    return result;
  }

 private:
  using words = std::initializer_list<std::string_view>;

  parser(std::vector<token> tokens, symbol_table& symbols) : expression_parser(std::move(tokens), symbols) {}

  [[nodiscard]] bool at_word(words any) const {
    for (const auto w : any)
      if (at_name(w)) return true;
    return false;
  }

  /// Statements up to a tag that begins with one of the words (which is the current token then), or to the end.
  node statements(words until) {
    const nesting guard(*this);
    node block = make(node_kind::block);
    while (current().type != token_type::end) {
      if (current().type == token_type::data) {
        node data = make(node_kind::data);
        data.literal = text(current().text);
        adopt(block, std::move(data));
        advance();
      } else if (current().type == token_type::output_begin) {
        node output = make(node_kind::output);
        advance();
        adopt(output, parse_tuple());
        expect(token_type::output_end, "}}");
        adopt(block, std::move(output));
      } else {
        advance();
        if (at_word(until)) return block;
        adopt(block, statement());
        expect(token_type::block_end, "%}");
      }
    }
    if (until.size() > 0) fail_here("the template ends, expected {% ", *(until.end() - 1), " %}");
    return block;
  }

  /// A block and its end tag's word.
  node body(std::string_view end) {
    node block = open_body({end});
    advance();
    return block;
  }
  node open_body(words until) {
    expect(token_type::block_end, "%}");
    return statements(until);
  }

  node statement() {
    if (current().type != token_type::name) fail_here("expected the name of a tag, got ", describe(current()));
    const std::string word = current().text;
    if (word == "if") return parse_if();
    if (word == "for") return parse_for();
    if (word == "set") return parse_set();
    if (word == "macro") return parse_macro();
    if (word == "call") return parse_call_block();
    if (word == "filter") return parse_filter_block();
    if (word == "with") return parse_with();
    if (word == "print") return parse_print();
    if (word == "generation") {
      node n = make(node_kind::scoped);
      advance();
      adopt(n, body("endgeneration"));
      return n;
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) fail_here("'", word, "' outside of a loop");
      node n = make(word == "break" ? node_kind::break_ : node_kind::continue_);
      advance();
      return n;
    }
    fail_here("unknown tag '", word,
              "'; supported: if, for, break, continue, set, macro, call, filter, with, print, raw, generation");
  }

  node parse_if() {
    node n = make(node_kind::if_);
    do {
      advance();
      adopt(n, parse_tuple(false));
      adopt(n, open_body({"elif", "else", "endif"}));
    } while (at_name("elif"));
    if (at_name("else")) {
      advance();
      adopt(n, body("endif"));
    } else {
      advance();
    }
    return n;
  }

  node parse_for() {
    node n = make(node_kind::for_);
    advance();
    n.children.resize(5);
    place(n, 0, parse_target(false));
    expect_name("in");
    place(n, 1, parse_tuple(false, "recursive"));
    if (skip_name("if")) place(n, 4, parse_expression());
    n.flag = skip_name("recursive");
    ++loops_;
    place(n, 2, open_body({"else", "endfor"}));
    --loops_;
    if (at_name("else")) {
      advance();
      place(n, 3, body("endfor"));
    } else {
      advance();
    }
    return n;
  }

  node parse_set() {
    node n = make(node_kind::set);
    advance();
    adopt(n, parse_target(true));
    if (skip_op("=")) {
      adopt(n, parse_tuple());
      return n;
    }
    n.kind = node_kind::set_block;
    node captured = make(node_kind::captured);
    adopt(n, at_op("|") ? parse_filters(std::move(captured)) : node{});
    adopt(n, body("endset"));
    return n;
  }

  /// (a, b=1): parameters, into the macro's children.
  void parse_signature(node& macro) {
    expect_op("(");
    bool defaults = false;
    while (!at_op(")")) {
      if (!macro.children.empty()) expect_op(",");
      node parameter = make(node_kind::parameter);
      take_name(parameter);
      if (parameter.name == "caller" && !at_op("=")) fail_here("a parameter 'caller' needs a default");
      if (skip_op("=")) {
        adopt(parameter, parse_expression());
        defaults = true;
      } else if (defaults) {
        fail_here("a parameter without a default after one that has one");
      }
      adopt(macro, std::move(parameter));
    }
    expect_op(")");
  }

  node macro_body(node macro, std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    adopt(macro, body(end));
    loops_ = loops;
    return macro;
  }

  node parse_macro() {
    node n = make(node_kind::macro);
    advance();
    take_name(n);
    parse_signature(n);
    return macro_body(std::move(n), "endmacro");
  }

  node parse_call_block() {
    node n = make(node_kind::call_block);
    node macro = make(node_kind::macro);
    macro.name = "caller";
    macro.symbol = symbol("caller");
    advance();
    if (at_op("(")) parse_signature(macro);
    node call = parse_expression();
    if (call.kind != node_kind::call) fail_at(n.at, "a call block needs a call");
    adopt(n, macro_body(std::move(macro), "endcall"));
    adopt(n, std::move(call));
    return n;
  }

  node parse_filter_block() {
    node n = make(node_kind::filter_block);
    advance();
    adopt(n, parse_filters(make(node_kind::captured), true));
    adopt(n, body("endfilter"));
    return n;
  }

  node parse_with() {
    node n = make(node_kind::with);
    advance();
    while (current().type != token_type::block_end) {
      if (!n.children.empty()) expect_op(",");
      adopt(n, parse_target(false));
      expect_op("=");
      adopt(n, parse_expression());
    }
    adopt(n, body("endwith"));
    return n;
  }

  node parse_print() {
    node n = make(node_kind::output);
    advance();
    while (current().type != token_type::block_end) {
      if (!n.children.empty()) expect_op(",");
      adopt(n, parse_expression());
    }
    return n;
  }

  int loops_ = 0;
};

}  // namespace blockattn::inline v0::jinja
