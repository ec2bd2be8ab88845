// One layer's attention of a run of query tokens over many runs of cached keys and values, in place.
#pragma once

#include <algorithm>
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

namespace detail {

/// Multiplications and additions of the scores and of the weighted values that a causal run sees.
[[nodiscard]] inline index_t attention_operations(index_t tokens, index_t position, const head_shape& shape, const attention_rule& rule,
                                                  std::span<const kv_segment> segments) {
  index_t pairs = 0;
  for (const kv_segment& s : segments)
    for (index_t t = 0; t < tokens; ++t) {
      const index_t seen = position + t - s.position + 1;
      const index_t begin = rule.window > 0 ? std::clamp<index_t>(seen - rule.window, 0, s.kv.tokens) : 0;
      pairs += std::clamp<index_t>(seen, 0, s.kv.tokens) - begin;
      if (begin == 0 && seen >= s.kv.tokens && rule.window == 0) {  // and so do all after it
        pairs += (tokens - t - 1) * s.kv.tokens;
        break;
      }
    }
  return 4 * shape.heads * shape.head_dim * pairs;
}

}  // namespace detail

/// out [T, H * Dh] = softmax(q · kᵀ * scale) · v, where query token t at `position + t` sees the keys at positions up to its own, as far as the rule's
/// window reaches, wherever they lie.
/// `queries` [T, H * Dh] are rotated at their own positions. Segments and rotations correspond. Rows are split into tasks of
/// attention_rows, whatever the number of threads.
/// With `log_sums` [T, H], the logarithm of the sum of the scores' exponentials is written there, and rows may see nothing.
inline void attend_plain(const float* queries, index_t tokens, index_t position, const head_shape& shape, const attention_rule& rule,
                         std::span<const kv_segment> segments, std::span<const segment_rotation> rotations, float* out, const compute_options& compute,
                         float* log_sums = nullptr) {
  compute.count(detail::attention_operations(tokens, position, shape, rule, segments));
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
    args.log_sums = log_sums;
    args.log_sum_stride = shape.heads;
    args.segments = seen.data();
    args.segment_count = static_cast<index_t>(seen.size());
    compute.kernels->attend(compute.kind, args, thread_scratch(attention_scratch_bytes(shape.head_dim)));
  });
}

namespace detail {

/// Segments of one kind with their rotations.
struct segment_group {
  std::vector<kv_segment> segments;
  std::vector<segment_rotation> rotations;

  void add(const kv_segment& segment, const segment_rotation& rotation) {
    segments.push_back(segment);
    rotations.push_back(rotation);
  }
};

/// Scaled segments and the others apart, then weighed against each other (see segment_scaling).
inline void attend_scaled(const float* queries, index_t tokens, index_t position, const head_shape& shape, const attention_rule& rule,
                          std::span<const kv_segment> segments, std::span<const segment_rotation> rotations, const segment_scaling& scaling, float* out,
                          const compute_options& compute) {
  segment_group scaled, others;
  for (std::size_t i = 0; i < segments.size(); ++i) (segments[i].scaling.plain() ? others : scaled).add(segments[i], rotations[i]);
  const auto sums = static_cast<std::size_t>(tokens * shape.heads);
  std::vector<float> scaled_out(sums * static_cast<std::size_t>(shape.head_dim)), scaled_sums(sums), other_sums(sums);
  attention_rule warm = rule;
  warm.scale /= scaling.temperature;
  attend_plain(queries, tokens, position, shape, warm, scaled.segments, scaled.rotations, scaled_out.data(), compute, scaled_sums.data());
  attend_plain(queries, tokens, position, shape, rule, others.segments, others.rotations, out, compute, other_sums.data());
  parallel_pieces(tokens * shape.heads, 64, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const bool sees_scaled = scaled_sums[at] > -1e29F, sees_others = other_sums[at] > -1e29F;
      const double difference = static_cast<double>(other_sums[at]) - static_cast<double>(scaling.scale * scaling.temperature) * static_cast<double>(scaled_sums[at]);
      const auto weight = static_cast<float>(!sees_scaled ? 0.0 : !sees_others ? 1.0 : 1 / (1 + std::exp(difference)));
      float* to = out + i * shape.head_dim;
      const float* from = scaled_out.data() + i * shape.head_dim;
      for (index_t d = 0; d < shape.head_dim; ++d) to[d] = weight * from[d] + (1 - weight) * to[d];
    }
  });
}

}  // namespace detail

/// attend_plain(), with scaled segments weighed against the others where there are any.
inline void attend(const float* queries, index_t tokens, index_t position, const head_shape& shape, const attention_rule& rule,
                   std::span<const kv_segment> segments, std::span<const segment_rotation> rotations, float* out, const compute_options& compute) {
  for (const kv_segment& s : segments)
    if (!s.scaling.plain()) return detail::attend_scaled(queries, tokens, position, shape, rule, segments, rotations, s.scaling, out, compute);
  attend_plain(queries, tokens, position, shape, rule, segments, rotations, out, compute);
}

}  // namespace blockattn::inline v0
