// A parsed template: a tree of nodes. Every node says in its kind what its children are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "blockattn/text/jinja/error.hpp"
#include "blockattn/text/jinja/text.hpp"

namespace blockattn::inline v0::jinja {

enum class node_kind : std::uint8_t {
  nothing,  ///< a part that isn't given
  // Statements
  block,         ///< statements
  data,          ///< literal
  output,        ///< expressions
  if_,           ///< test, block, test, block, ..., [else block]
  for_,          ///< target, iterable, block, else block, filter; flag: recursive
  set,           ///< target, expression
  set_block,     ///< target, filters or nothing, block
  macro,         ///< parameters, block; name; symbol
  call_block,    ///< macro, call
  filter_block,  ///< filters, block
  with,          ///< target, expression, ..., block
  scoped,        ///< block
  break_,
  continue_,
  // Expressions
  string,  ///< literal
  integer,
  floating,
  boolean,  ///< flag
  none,
  name,           ///< symbol, name
  name_in_space,  ///< target only: symbol and name of the namespace; literal: the attribute
  list,
  tuple,
  dict,  ///< key, value, ...
  negate,
  plus,
  not_,
  and_,
  or_,
  binary,  ///< op
  concat,
  compare,      ///< first, then nodes of kind operand
  operand,      ///< op, expression
  conditional,  ///< test, value, other or nothing
  attribute,    ///< object; name
  item,         ///< object, key
  slice,        ///< begin, end, step, each may be nothing
  call,         ///< function, arguments
  filter,       ///< value, arguments; name
  test,         ///< value, arguments; name
  captured,     ///< what a filter block or set block filters
  // Arguments and parameters
  keyword,     ///< value; name
  spread,      ///< list
  spread_map,  ///< dictionary
  parameter,   ///< [default]; symbol, name
};

enum class op : std::uint8_t {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  equal,
  unequal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in
};

struct node {
  node_kind kind = node_kind::nothing;
  jinja::op op = jinja::op::add;
  bool flag = false;
  std::uint32_t symbol = 0;
  std::uint32_t depth = 0;  ///< of the tree below
  position at;
  std::int64_t integer = 0;
  double floating = 0;
  std::string name;
  jinja::text literal;
  std::vector<node> children;
};

}  // namespace blockattn::inline v0::jinja
