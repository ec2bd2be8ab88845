// Block attention whose passages also see the system block: each is encoded right behind it, once, and moved to its place afterwards.
#pragma once

#include "blockattn/generate/plans/prompt_run.hpp"

namespace blockattn::inline v0 {

/// Blocks 1, 2, … encoded behind block 0, which they see; used by plans with a shared prefix. The keys lie at positions tokens(0), ….
[[nodiscard]] inline std::vector<std::shared_ptr<const kv_block>> encode_behind_first(prompt_run& run, const std::shared_ptr<const kv_block>& first) {
  const std::array context = {placed_block{first, 0, false}};
  const fingerprint128 salt = prompt_run::salt_of("behind", {}, run.ids(0));
  std::vector<block_encoding> encodings;
  for (index_t i = 1; i < run.reusable(); ++i) encodings.push_back({run.ids(i), run.tokens(0), {}, context, salt});
  return run.encode(encodings);
}

struct prefixed_plan {
  static constexpr std::string_view name = "prefixed";

  void prefill(prompt_run& run) const {
    if (run.reusable() == 0) return run.finish_blocks();
    const auto first = run.encode_alone(0, 1);
    run.place({first[0], 0});
    index_t offset = run.tokens(0);
    for (const auto& block : encode_behind_first(run, first[0])) {
      run.place({block, offset, false, static_cast<double>(offset - run.tokens(0))});
      offset += block->tokens();
    }
    run.finish(offset);
  }
};

}  // namespace blockattn::inline v0
