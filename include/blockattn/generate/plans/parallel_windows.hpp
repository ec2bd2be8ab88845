// PCW, Parallel Context Windows (arXiv 2212.10947): every reusable block is a window with a BOS of its own at position 0; the BOS of all but the first are
// dropped; what follows starts behind the longest window. Right-aligned windows end there instead of starting at 0. A model without BOS has none here either.
#pragma once

#include "blockattn/generate/plans/prompt_run.hpp"

namespace blockattn::inline v0 {

enum class window_alignment { left, right };

struct parallel_windows_plan {
  static constexpr std::string_view name = "pcw";
  window_alignment align = window_alignment::left;
  token_id bos = -1;  ///< -1: the model's own, if it adds one to prompts

  void prefill(prompt_run& run) const {
    const tokenizer& vocabulary = run.get_model().vocabulary();
    const bool own = bos < 0 && vocabulary.adds_bos() && vocabulary.bos();  // the prompt's first block has it already
    const token_id mark = own ? *vocabulary.bos() : bos;
    std::vector<std::vector<token_id>> windows;
    index_t longest = 0;
    for (index_t i = 0; i < run.reusable(); ++i) {
      std::vector<token_id> window(run.ids(i).begin(), run.ids(i).end());
      if (mark >= 0 && !(own && i == 0)) window.insert(window.begin(), mark);
      longest = std::max(longest, static_cast<index_t>(window.size()));
      windows.push_back(std::move(window));
    }
    std::vector<block_encoding> encodings;
    for (const auto& window : windows) encodings.push_back({window});
    const auto blocks = run.encode(encodings);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const index_t start = align == window_alignment::right ? longest - blocks[i]->tokens() : 0;
      const index_t dropped = mark >= 0 && i > 0 ? 1 : 0;
      run.place({blocks[i], start + dropped, false, static_cast<double>(start), dropped});
    }
    run.finish(longest);
  }
};

}  // namespace blockattn::inline v0
