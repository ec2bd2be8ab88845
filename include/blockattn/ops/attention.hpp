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

/// A segment as all layers see it, but for its data: where it starts in the prompt and what its keys' rotation lacks.
struct segment_rotation {
  const float* cosine = nullptr;  ///< [Dh/2], or nullptr if the keys are rotated at their positions in the prompt
  const float* sine = nullptr;
};

/// out [T, H * Dh] = softmax(q · kᵀ / sqrt(Dh)) · v, where query token t at `position + t` sees the keys at positions up to its own.
/// `queries` [T, H * Dh] are rotated at their own positions. Segments and rotations correspond. Rows are split into tasks of
/// attention_rows, whatever the number of threads.
inline void attend(const float* queries, index_t tokens, index_t position, const head_shape& shape, rope_pairing pairing,
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
      const index_t begin = head * kv.head_stride * row_bytes(kv.type, shape.head_dim);
      seen.push_back({kv.keys + begin, kv.values + begin, kv.tokens, segments[i].position, rotations[i].cosine, rotations[i].sine, kv.type});
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
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    args.pairing = pairing;
    args.segments = seen.data();
    args.segment_count = static_cast<index_t>(seen.size());
    compute.kernels->attend(compute.kind, args, thread_scratch(attention_scratch_bytes(shape.head_dim)));
  });
}

}  // namespace blockattn::inline v0
