// One prompt up to its first token, in a new session.
#pragma once

#include <memory>
#include <vector>

#include "blockattn/generate/session.hpp"

namespace blockattn_bench {

[[nodiscard]] inline blockattn::generation_result first_token(const blockattn::model& model, const std::shared_ptr<blockattn::block_cache>& cache,
                                                              const std::vector<blockattn::text_block>& blocks, const blockattn::attention_plan& plan) {
  blockattn::generation_options options;
  options.max_tokens = 1;
  options.plan = plan;
  return blockattn::session(model, cache).generate(blocks, options);
}

}  // namespace blockattn_bench
