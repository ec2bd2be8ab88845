// Source code by function and class, lossless, by a tree-sitter grammar. Part of the component blockattn::code: nothing else includes this file.
//
// A definition (function, class, namespace) on the outermost level is a block, with the comments and decorators right before it and the white space behind it;
// what lies between definitions (includes, constants) is a block, too. A definition that doesn't fit is cut into the definitions inside of it, and so on.
// Code with a syntax error, or that the grammar gives up on, is cut by blank lines, and the result says so.
#pragma once

#include <tree_sitter/api.h>

#include <array>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/text/segment_code.hpp"

extern "C" {
const TSLanguage* tree_sitter_cpp(void);
const TSLanguage* tree_sitter_python(void);
const TSLanguage* tree_sitter_javascript(void);
}

namespace blockattn::inline v0 {

enum class code_language { cpp, python, javascript };

/// The language that a file name's ending stands for. Throws argument_error for endings that aren't known, and names those that are.
[[nodiscard]] inline code_language code_language_of(std::string_view file) {
  const std::string_view ending = file.substr(std::min(file.rfind('.'), file.size()));
  for (const std::string_view known : {".cpp", ".cc", ".cxx", ".hpp", ".hh", ".h", ".c", ".ipp"})
    if (ending == known) return code_language::cpp;
  for (const std::string_view known : {".py", ".pyi"})
    if (ending == known) return code_language::python;
  for (const std::string_view known : {".js", ".mjs", ".cjs", ".jsx"})
    if (ending == known) return code_language::javascript;
  throw argument_error(cat("[segmenter] no grammar for files that end in '", ending, "'; known: .cpp .cc .cxx .hpp .hh .h .c .ipp, .py .pyi, .js .mjs .cjs .jsx"));
}

namespace detail {

/// The borders of definitions in one parsed text.
class definition_borders {
 public:
  definition_borders(std::string_view text, const stretch_limit& limit) : text_(text), limit_(limit) {}

  /// Appends the borders between the definitions in `node`, and in those of them that don't fit.
  void collect(TSNode node, int depth = 0) {
    const std::uint32_t count = ts_node_named_child_count(node);
    TSNode attached{};  // the first of the comments right before the next definition
    bool has_attached = false;
    for (std::uint32_t i = 0; i < count; ++i) {
      const TSNode child = ts_node_named_child(node, i);
      if (is_one_of(child, {"comment", "decorator"})) {
        if (follows_in_line(child)) continue;
        if (!has_attached) attached = child;
        has_attached = true;
        continue;
      }
      if (is_definition(child)) add_definition(has_attached ? ts_node_start_byte(attached) : ts_node_start_byte(child), child, depth);
      has_attached = false;
    }
  }

  /// Ascending.
  [[nodiscard]] std::vector<std::size_t> take() {
    std::sort(borders_.begin(), borders_.end());
    return std::move(borders_);
  }

 private:
  static constexpr int deepest = 64;

  [[nodiscard]] static bool is_one_of(TSNode node, std::initializer_list<std::string_view> types) {
    const std::string_view type = ts_node_type(node);
    return std::find(types.begin(), types.end(), type) != types.end();
  }

  [[nodiscard]] static bool is_definition(TSNode node) {
    return is_one_of(node, {"function_definition", "class_specifier", "struct_specifier", "enum_specifier", "namespace_definition", "template_declaration",
                            "linkage_specification", "concept_definition", "class_definition", "decorated_definition", "function_declaration",
                            "generator_function_declaration", "class_declaration", "export_statement", "method_definition"});
  }

  void add_definition(std::uint32_t begin, TSNode node, int depth) {
    const std::size_t first = line_begin(begin);
    const std::size_t last = line_end(ts_node_end_byte(node));
    borders_.push_back(first);
    borders_.push_back(last);
    if (depth < deepest && !limit_.fits(text_.substr(first, last - first))) collect_inside(node, depth + 1);
  }

  /// Definitions lie in a body, or in what a template or decorator wraps.
  void collect_inside(TSNode node, int depth) {
    if (depth > deepest) return;
    const std::uint32_t count = ts_node_named_child_count(node);
    for (std::uint32_t i = 0; i < count; ++i) {
      const TSNode child = ts_node_named_child(node, i);
      if (is_one_of(child, {"field_declaration_list", "declaration_list", "block", "class_body", "statement_block", "compound_statement"}))
        collect(child, depth);
      else if (is_definition(child))
        collect_inside(child, depth + 1);
    }
  }

  /// The indentation belongs to the line.
  [[nodiscard]] std::size_t line_begin(std::size_t at) const {
    std::size_t begin = at;
    while (begin > 0 && (text_[begin - 1] == ' ' || text_[begin - 1] == '\t')) --begin;
    return begin == 0 || text_[begin - 1] == '\n' ? begin : at;
  }

  /// A comment that goes on in the line of what ended before it.
  [[nodiscard]] bool follows_in_line(TSNode comment) const {
    std::size_t at = ts_node_start_byte(comment);
    while (at > 0 && (text_[at - 1] == ' ' || text_[at - 1] == '\t' || text_[at - 1] == ';')) --at;
    return at > 0 && text_[at - 1] != '\n';
  }

  /// The rest of the line (a semicolon, a comment) and blank lines belong to what they follow.
  [[nodiscard]] std::size_t line_end(std::size_t at) const {
    std::size_t end = at + line_at(text_, at).size();
    if (at == text_.size()) return at;
    while (end < text_.size() && is_blank(line_at(text_, end))) end += line_at(text_, end).size();
    return end;
  }

  std::string_view text_;
  const stretch_limit& limit_;
  std::vector<std::size_t> borders_;
};

[[nodiscard]] inline const TSLanguage* grammar_of(code_language language) {
  switch (language) {
    case code_language::cpp: return tree_sitter_cpp();
    case code_language::python: return tree_sitter_python();
    case code_language::javascript: return tree_sitter_javascript();
  }
  return nullptr;
}

}  // namespace detail

/// Blocks of source code by function and class. Throws argument_error for max_tokens below 4.
[[nodiscard]] inline code_segments code_blocks(std::string_view text, code_language language, const tokenizer& vocabulary, index_t max_tokens,
                                               stretch_packing packing = stretch_packing::separate) {
  const detail::stretch_limit limit(vocabulary, max_tokens);
  const auto by_lines = [&](std::string why) {
    code_segments result = code_blocks(text, vocabulary, max_tokens, packing);
    result.note = cat("[segmenter] ", why, "; cut by blank lines");
    return result;
  };
  if (text.size() > std::numeric_limits<std::uint32_t>::max() / 2) return by_lines("the code is longer than 2 GiB");
  const std::unique_ptr<TSParser, void (*)(TSParser*)> parser(ts_parser_new(), ts_parser_delete);
  if (!ts_parser_set_language(parser.get(), detail::grammar_of(language))) return by_lines("the grammar is for another version of tree-sitter");
  const std::unique_ptr<TSTree, void (*)(TSTree*)> tree(ts_parser_parse_string(parser.get(), nullptr, text.data(), static_cast<std::uint32_t>(text.size())), ts_tree_delete);
  if (tree == nullptr) return by_lines("the code can't be parsed");
  const TSNode root = ts_tree_root_node(tree.get());
  if (ts_node_has_error(root)) return by_lines("the code has a syntax error");
  detail::definition_borders borders(text, limit);
  borders.collect(root);
  return {detail::packed(detail::cut_before(text, borders.take()), limit, packing), true, {}};
}

}  // namespace blockattn::inline v0
