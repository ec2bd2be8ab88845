// Source code by its outermost pieces, lossless, without a parser: a blank line before a line that isn't indented begins a new one.
//
// This is what code is cut by where no grammar is at hand or the code doesn't parse; segment_tree_sitter.hpp knows functions and classes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/text/segment_stretches.hpp"

namespace blockattn::inline v0 {

/// Blocks of a source file.
struct code_segments {
  text_stretches blocks;
  bool parsed = false;  ///< whether functions and classes were told apart by a grammar
  std::string note;     ///< why not, if a grammar was asked for
};

namespace detail {

/// Offsets of lines that aren't indented and follow a blank line. A closing bracket belongs to what it closes.
[[nodiscard]] inline std::vector<std::size_t> outer_lines(std::string_view text) {
  std::vector<std::size_t> borders;
  bool after_blank = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view line = line_at(text, at);
    const bool blank = is_blank(line);
    if (after_blank && !blank && std::string_view(" \t})]").find(line.front()) == std::string_view::npos) borders.push_back(at);
    after_blank = blank;
    at += line.size();
  }
  return borders;
}

}  // namespace detail

/// Blocks of source code in any language, by blank lines. Throws argument_error for max_tokens below 4.
[[nodiscard]] inline code_segments code_blocks(std::string_view text, const tokenizer& vocabulary, index_t max_tokens,
                                               stretch_packing packing = stretch_packing::separate) {
  const detail::stretch_limit limit(vocabulary, max_tokens);
  return {detail::packed(detail::cut_before(text, detail::outer_lines(text)), limit, packing), false, {}};
}

}  // namespace blockattn::inline v0
