// Attention plans as data: which blocks of a prompt are encoded on their own and reused, and which see everything.
//
// A prompt is blocks 0..n-1, the last being the final one (method: Block-Attention, arXiv 2409.15355). Under a plan the first `reusable`
// blocks are encoded alone at local positions and cached by content; what follows is one causal run that sees everything before it.
// Both modes are exact: each gives what the same plan gives without a cache.
#pragma once

#include <algorithm>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

enum class attention_mode {
  full,  ///< one causal sequence, nothing reused
  block  ///< blocks encoded on their own
};

/// How keys of a reused block get to its place in the prompt; the scores are the same.
enum class rotation {
  queries,  ///< keys stay where they lie, each query is rotated by the block's offset: nothing is copied
  keys      ///< the paper's re-encoding: a copy of the keys is rotated
};

struct attention_plan {
  attention_mode mode = attention_mode::block;
  index_t max_blocks = -1;    ///< at most the first so many blocks are encoded on their own; -1: no limit, 0: none, which is full attention
  index_t global_blocks = 1;  ///< the last so many blocks see everything before them; 1: the final one only
  rotation rotate = rotation::queries;

  /// How many of `blocks` blocks (the final one counted) are encoded on their own. Throws argument_error for numbers out of range.
  [[nodiscard]] index_t reusable(index_t blocks) const {
    if (max_blocks < -1) throw argument_error(cat("[plan] max_blocks is ", max_blocks, "; allowed: -1 (no limit), 0 or more"));
    if (global_blocks < 1) throw argument_error(cat("[plan] global_blocks is ", global_blocks, "; allowed: 1 or more, since the final block always sees all"));
    if (mode == attention_mode::full) return 0;
    const index_t candidates = std::max<index_t>(blocks - global_blocks, 0);
    return max_blocks < 0 ? candidates : std::min(candidates, max_blocks);
  }
};

}  // namespace blockattn::inline v0
