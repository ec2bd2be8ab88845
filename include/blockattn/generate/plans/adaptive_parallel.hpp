// APE, adaptive parallel encoding (arXiv 2502.05431): a shared prefix (block 0), contexts that see it and themselves, all starting right behind it, and the rest
// behind the longest. In the softmax of what follows, contexts are scaled apart from everything else: see segment_scaling. T = S = 1 is plain parallel
// encoding.
#pragma once

#include "blockattn/generate/plans/prefixed.hpp"

namespace blockattn::inline v0 {

struct adaptive_parallel_plan {
  static constexpr std::string_view name = "ape";
  float temperature = 0.9F;
  float scale = 0.9F;

  void prefill(prompt_run& run) const {
    if (run.reusable() == 0) return run.finish_blocks();
    const auto first = run.encode_alone(0, 1);
    run.place({first[0], 0});
    placed_block context{nullptr, run.tokens(0), true};
    context.scaling = {temperature, scale};
    for (const auto& block : encode_behind_first(run, first[0])) {
      context.block = block;
      run.place(context);
    }
    run.finish(run.tokens(0) + run.longest(1, run.reusable()));
  }
};

}  // namespace blockattn::inline v0
