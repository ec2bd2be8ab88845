// EPIC, LegoLink-k (arXiv 2410.15332): block attention, then the first k tokens of every block but the first are computed again with full visibility, and so is
// what follows. The recomputed tokens take the place of the cached ones; the others were encoded beside those.
#pragma once

#include "blockattn/generate/plans/prompt_run.hpp"

namespace blockattn::inline v0 {

struct epic_plan {
  static constexpr std::string_view name = "epic";
  index_t k = 16;

  void prefill(prompt_run& run) const {
    index_t offset = 0;
    std::vector<token_run> links;
    const auto blocks = run.encode_alone(0, run.reusable());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const index_t tokens = blocks[i]->tokens();
      const index_t again = i == 0 ? 0 : std::min(k, tokens);
      run.place({blocks[i], offset + again, false, static_cast<double>(offset), again});
      const auto ids = run.ids(static_cast<index_t>(i)).first(static_cast<std::size_t>(again));
      if (again > 0) links.push_back({{ids.begin(), ids.end()}, offset});
      offset += tokens;
    }
    run.finish(links, run.rest(), offset, static_cast<double>(offset));
  }
};

}  // namespace blockattn::inline v0
