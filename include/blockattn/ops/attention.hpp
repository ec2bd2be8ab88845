// One layer's attention of a run of query tokens over many runs of cached keys and values, in place.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "blockattn/core/kv.hpp"
#include "blockattn/ops/linear.hpp"
#include "blockattn/ops/rotary.hpp"

namespace blockattn::inline v0 {

/// Heads of a layer: H query heads, Hkv key/value heads of size Dh.
struct head_shape {
  index_t heads = 0, kv_heads = 0, head_dim = 0;
};

/// What one layer's attention does beyond the plain softmax(q · kᵀ * scale) · v.
struct attention_rule {
  float scale = 1;      ///< of the scores
  float soft_cap = 0;   ///< scores s become cap * tanh(s / cap); 0: not
  index_t window = 0;   ///< a token sees the last so many positions, its own counted; 0: all
  rope_pairing pairing = rope_pairing::adjacent;
  index_t rotated = 0;  ///< channels of a head that RoPE turns; 0: all
};

/// A segment as all layers see it, but for its data: where it starts in the prompt and what its keys' rotation lacks.
struct segment_rotation {
  const float* cosine = nullptr;  ///< [pairs], or nullptr if the keys are rotated at their positions in the prompt
  const float* sine = nullptr;
};

/// out [T, H * Dh] = softmax(q · kᵀ * scale) · v, where query token t at `position + t` sees the keys at positions up to its own, as far as the rule's
/// window reaches, wherever they lie.
/// `queries` [T, H * Dh] are rotated at their own positions. Segments and rotations correspond. Rows are split into tasks of
/// attention_rows, whatever the number of threads.
inline void attend(const float* queries, index_t tokens, index_t position, const head_shape& shape, const attention_rule& rule,
                   std::span<const kv_segment> segments, std::span<const segment_rotation> rotations, float* out, const compute_options& compute) {
  const index_t group = shape.heads / shape.kv_heads;
  const index_t rows = tokens * group;
  const index_t pieces = (rows + attention_rows - 1) / attention_rows;
  parallel_tasks(shape.kv_heads * pieces, [&](index_t task) {
    const index_t head = task % shape.kv_heads;
    thread_local std::vector<attention_segment> seen;
    seen.clear();
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const kv_view& kv = segments[i].kv;
      if (rule.window > 0 && segments[i].position + kv.tokens <= position - rule.window + 1) continue;  // before the first query's window
      const index_t before = head * kv.head_stride;
      seen.push_back({kv.keys + before * row_bytes(kv.types.keys, shape.head_dim), kv.values + before * row_bytes(kv.types.values, shape.head_dim), kv.tokens,
                      segments[i].position, rotations[i].cosine, rotations[i].sine, kv.types.keys, kv.types.values});
    }
    attention_args args;
    args.queries = queries;
    args.output = out;
    args.query_stride = shape.heads * shape.head_dim;
    args.head_dim = shape.head_dim;
    args.group = group;
    args.kv_head = head;
    args.row_begin = task / shape.kv_heads * attention_rows;
    args.row_end = std::min(args.row_begin + attention_rows, rows);
    args.position = position;
    args.scale = rule.scale;
    args.soft_cap = rule.soft_cap;
    args.window = rule.window;
    args.pairing = rule.pairing;
    args.rotated = rule.rotated;
    args.segments = seen.data();
    args.segment_count = static_cast<index_t>(seen.size());
    compute.kernels->attend(compute.kind, args, thread_scratch(attention_scratch_bytes(shape.head_dim)));
  });
}

}  // namespace blockattn::inline v0
