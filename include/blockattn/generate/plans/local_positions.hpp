// Block attention without re-encoding, as the Block-Attention paper (arXiv 2409.15355, table 1) ablates it, and TurboRAG's composite positions (arXiv
// 2410.07590): keys of a block stay at its local positions 0..T-1 wherever it stands; what follows starts at the prompt's length.
#pragma once

#include "blockattn/generate/plans/prompt_run.hpp"

namespace blockattn::inline v0 {

struct local_positions_plan {
  static constexpr std::string_view name = "local";

  void prefill(prompt_run& run) const {
    index_t offset = 0;
    for (const auto& block : run.encode_alone(0, run.reusable())) {
      run.place({block, offset, false, 0.0});
      offset += block->tokens();
    }
    run.finish(offset);
  }
};

}  // namespace blockattn::inline v0
