// Attention plans as data: where the tokens of a prompt stand, what they see, and what of it is reused.
//
// A prompt is blocks 0..n-1, the last being the final one. Under `block` (Block-Attention, arXiv 2409.15355) the first `reusable` blocks are encoded alone at local
// positions and cached by content; what follows is one causal run that sees everything before it. The rivals of the field are methods: each a small value in a file of
// its own under plans/, over the same engine (plans/prompt_run.hpp). docs/plans.md says what each is.
#pragma once

#include <algorithm>
#include <string_view>
#include <variant>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/generate/plans/adaptive_parallel.hpp"
#include "blockattn/generate/plans/cache_blend.hpp"
#include "blockattn/generate/plans/epic.hpp"
#include "blockattn/generate/plans/kv_link.hpp"
#include "blockattn/generate/plans/local_positions.hpp"
#include "blockattn/generate/plans/parallel_windows.hpp"
#include "blockattn/generate/plans/prefixed.hpp"
#include "blockattn/generate/plans/prompt_cache.hpp"
#include "blockattn/generate/plans/superposition.hpp"

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

/// How what is encoded on its own is put together; by default as Block-Attention does.
using plan_method = std::variant<std::monostate, local_positions_plan, prefixed_plan, adaptive_parallel_plan, parallel_windows_plan, prompt_cache_plan, epic_plan,
                                 cache_blend_plan, kv_link_plan, superposition_plan>;

struct attention_plan {
  attention_mode mode = attention_mode::block;
  index_t max_blocks = -1;    ///< at most the first so many blocks are encoded on their own; -1: no limit, 0: none, which is full attention
  index_t global_blocks = 1;  ///< the last so many blocks see everything before them; 1: the final one only
  rotation rotate = rotation::queries;
  plan_method method = {};

  /// How many of `blocks` blocks (the final one counted) are encoded on their own. Throws argument_error for numbers out of range.
  [[nodiscard]] index_t reusable(index_t blocks) const {
    if (max_blocks < -1) throw argument_error(cat("[plan] max_blocks is ", max_blocks, "; allowed: -1 (no limit), 0 or more"));
    if (global_blocks < 1) throw argument_error(cat("[plan] global_blocks is ", global_blocks, "; allowed: 1 or more, since the final block always sees all"));
    if (mode == attention_mode::full) return 0;
    const index_t candidates = std::max<index_t>(blocks - global_blocks, 0);
    return max_blocks < 0 ? candidates : std::min(candidates, max_blocks);
  }

  /// Whether `method` and not the mode alone says what is done.
  [[nodiscard]] bool is_method() const { return mode == attention_mode::block && method.index() != 0; }

  /// The name that parse_plan() knows it by.
  [[nodiscard]] std::string_view name() const {
    if (mode == attention_mode::full) return "full";
    return std::visit(
        []<class Method>(const Method&) -> std::string_view {
          if constexpr (std::is_same_v<Method, std::monostate>) return "block";
          else return Method::name;
        },
        method);
  }

  /// Whether the result is, cached or not, that of one pass of the model with the plan's mask and positions. EPIC and CacheBlend mix states of several passes:
  /// they approximate full attention.
  [[nodiscard]] bool exact() const { return !is_method() || !(std::holds_alternative<epic_plan>(method) || std::holds_alternative<cache_blend_plan>(method)); }
};

}  // namespace blockattn::inline v0
