// Lossless segmenters of plain text, Markdown, few-shot examples and chat turns (see segment_stretches.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "blockattn/text/segment_stretches.hpp"

namespace blockattn::inline v0 {

namespace detail {

/// What a line of Markdown is, as far as cutting goes.
class markdown_lines {
 public:
  /// Whether a block starts at this line, given the lines before it.
  [[nodiscard]] bool starts_block(std::string_view line) {
    const bool was_blank = after_blank_;
    const bool was_heading = after_heading_;
    const std::string_view text = line.substr(std::min(line.find_first_not_of(" \t"), line.size()));
    const bool fence = text.starts_with("```") || text.starts_with("~~~");
    if (in_fence_) {
      if (fence && text.front() == fence_) in_fence_ = false;
      return false;
    }
    if (fence) {
      in_fence_ = true;
      fence_ = text.front();
    }
    const bool heading = is_heading(line);
    after_blank_ = is_blank(line);
    if (!after_blank_) after_heading_ = heading;
    const bool list_goes_on = was_blank && !line.empty() && (line.front() == ' ' || line.front() == '\t');  // an item's further paragraph
    return heading ? !was_heading : was_blank && !after_blank_ && !was_heading && !list_goes_on;
  }

 private:
  [[nodiscard]] static bool is_heading(std::string_view line) {
    const std::size_t marks = std::min(line.find_first_not_of('#'), line.size());
    return marks >= 1 && marks <= 6 && (marks == line.size() || line[marks] == ' ' || line[marks] == '\t' || line[marks] == '\n' || line[marks] == '\r');
  }

  bool in_fence_ = false, after_blank_ = false, after_heading_ = false;
  char fence_ = '`';
};

}  // namespace detail

/// Markdown by its blocks: a heading stays with what follows it, fenced code and a list item's paragraphs stay whole while they fit. Plain text with blank
/// lines between its paragraphs is a case of it. Throws argument_error for max_tokens below 4, as all of these do.
[[nodiscard]] inline text_stretches markdown_blocks(std::string_view text, const tokenizer& vocabulary, index_t max_tokens,
                                                    stretch_packing packing = stretch_packing::fill) {
  const detail::stretch_limit limit(vocabulary, max_tokens);
  std::vector<std::size_t> borders;
  detail::markdown_lines lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view line = detail::line_at(text, at);
    if (lines.starts_block(line)) borders.push_back(at);
    at += line.size();
  }
  return detail::packed(detail::cut_before(text, borders), limit, packing);
}

/// Text by the lines that start with `start`: each such line begins a block, what stands before the first is a block of its own.
[[nodiscard]] inline text_stretches blocks_starting_with(std::string_view text, std::string_view start, const tokenizer& vocabulary, index_t max_tokens) {
  if (start.empty()) throw argument_error("[segmenter] the text that a block starts with is empty; give one, such as \"Q:\"");
  const detail::stretch_limit limit(vocabulary, max_tokens);
  std::vector<std::size_t> borders;
  for (std::size_t at = 0; at < text.size(); at += detail::line_at(text, at).size())
    if (text.substr(at).starts_with(start)) borders.push_back(at);
  return detail::packed(detail::cut_before(text, borders), limit, stretch_packing::separate);
}

/// Few-shot examples. Without a `start`, the label that begins the most lines is taken, of those that are usual ("Q:", "Input:", "Example", ...); where
/// none is found, paragraphs are the examples.
[[nodiscard]] inline text_stretches example_blocks(std::string_view text, const tokenizer& vocabulary, index_t max_tokens, std::string_view start = {}) {
  static constexpr std::array<std::string_view, 10> usual = {"Q:", "Question:", "Input:", "Example", "### Example", "### Instruction", "Text:", "Sentence:", "User:", "Review:"};
  std::size_t most = 1;
  for (const std::string_view label : start.empty() ? std::span<const std::string_view>(usual) : std::span<const std::string_view>()) {
    std::size_t count = 0;
    for (std::size_t at = 0; at < text.size(); at += detail::line_at(text, at).size()) count += text.substr(at).starts_with(label) ? 1U : 0U;
    if (count > most) {
      most = count;
      start = label;
    }
  }
  if (start.empty()) return markdown_blocks(text, vocabulary, max_tokens, stretch_packing::separate);
  return blocks_starting_with(text, start, vocabulary, max_tokens);
}

/// Turns of a conversation that is text already. Without a `start`, the opening of a turn of the usual templates (ChatML, Gemma, Llama 3, Phi, Zephyr,
/// Mistral) that the text has is taken; where none is found, lines that begin "User:", "Assistant:" or "System:" open turns.
[[nodiscard]] inline text_stretches turn_blocks(std::string_view text, const tokenizer& vocabulary, index_t max_tokens, std::string_view start = {}) {
  static constexpr std::array<std::string_view, 6> openings = {"<|im_start|>", "<start_of_turn>", "<|start_header_id|>", "<|user|>", "<|assistant|>", "[INST]"};
  static constexpr std::array<std::string_view, 4> names = {"User:", "Assistant:", "System:", "Human:"};
  std::vector<std::string_view> wanted;
  if (!start.empty()) wanted = {start};
  for (const std::string_view opening : openings)
    if (start.empty() && text.find(opening) != std::string_view::npos) wanted.push_back(opening);
  const bool by_lines = wanted.empty();
  if (by_lines) wanted.assign(names.begin(), names.end());
  const detail::stretch_limit limit(vocabulary, max_tokens);
  std::vector<std::size_t> borders;
  for (const std::string_view mark : wanted)
    for (std::size_t at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + mark.size()))
      if (!by_lines || at == 0 || text[at - 1] == '\n') borders.push_back(at);
  std::sort(borders.begin(), borders.end());
  return detail::packed(detail::cut_before(text, borders), limit, stretch_packing::separate);
}

}  // namespace blockattn::inline v0
