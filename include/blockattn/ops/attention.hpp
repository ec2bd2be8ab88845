// One layer's attention of a run of query tokens over many runs of cached keys and values, in place.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
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
[[nodiscard]] inline index_t attention_operations(index_t tokens, const token_positions& position, const head_shape& shape, const attention_rule& rule,
                                                  std::span<const kv_segment> segments) {
  index_t pairs = 0;
  for (const kv_segment& s : segments)
    for (index_t t = 0; t < tokens; ++t) {
      const index_t seen = position[t] - s.position + 1;
      const index_t begin = rule.window > 0 ? std::clamp<index_t>(seen - rule.window, 0, s.kv.tokens) : 0;
      pairs += std::clamp<index_t>(seen, 0, s.kv.tokens) - begin;
      if (begin == 0 && seen >= s.kv.tokens && rule.window == 0) {  // and so do all after it
        pairs += (tokens - t - 1) * s.kv.tokens;
        break;
      }
    }
  return 4 * shape.heads * shape.head_dim * pairs;
}

/// How one layer's attention is cut into tasks: by KV head, by rows, and where that gives too few tasks, by keys. By sizes only, so that no result depends on
/// the number of threads.
struct attention_split {
  index_t row_pieces = 1, rows_each = 0;  ///< pieces of query rows, and the most in one
  index_t key_pieces = 1, keys_each = 0;

  static constexpr index_t enough_tasks = 32, least_keys = 1024, key_grain = 64;

  attention_split(index_t kv_heads, index_t rows, index_t keys, index_t head_dim) : rows_each(attention_rows(head_dim)) {
    row_pieces = (rows + rows_each - 1) / rows_each;
    const index_t tasks = kv_heads * row_pieces;
    const index_t wanted = std::min((enough_tasks + tasks - 1) / tasks, keys / least_keys);
    keys_each = keys;
    if (wanted <= 1) return;
    keys_each = (keys / wanted + key_grain - 1) / key_grain * key_grain;
    key_pieces = (keys + keys_each - 1) / keys_each;
  }
};

/// Those of the segments that a query may see, cut at every keys_each keys: the piece begins with segment first[i].
struct segment_pieces {
  std::vector<kv_segment> segments;
  std::vector<segment_rotation> rotations;
  std::vector<std::size_t> first;

  void add(const kv_segment& s, const segment_rotation& r) {
    segments.push_back(s);
    rotations.push_back(r);
  }
};

/// Keys of segments that some query's window reaches.
inline index_t reached_keys(std::span<const kv_segment> segments, index_t position, index_t window) {
  index_t keys = 0;
  for (const kv_segment& s : segments)
    if (window == 0 || s.position + s.kv.tokens > position - window + 1) keys += s.kv.tokens;
  return keys;
}

inline segment_pieces cut_segments(std::span<const kv_segment> segments, std::span<const segment_rotation> rotations, index_t position, index_t window,
                                   const head_shape& shape, index_t keys_each) {
  segment_pieces result;
  index_t room = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    kv_segment rest = segments[i];
    if (window > 0 && rest.position + rest.kv.tokens <= position - window + 1) continue;  // before the first query's window
    while (rest.kv.tokens > 0) {
      if (room == 0) {
        result.first.push_back(result.segments.size());
        room = keys_each;
      }
      kv_segment part = rest;
      part.kv.tokens = std::min(rest.kv.tokens, room);
      result.add(part, rotations[i]);
      room -= part.kv.tokens;
      rest.kv.tokens -= part.kv.tokens;
      rest.position += part.kv.tokens;
      rest.kv.keys += part.kv.tokens * row_bytes(rest.kv.types.keys, shape.head_dim);
      rest.kv.values += part.kv.tokens * row_bytes(rest.kv.types.values, shape.head_dim);
    }
  }
  if (result.first.empty()) result.first.push_back(0);  // nothing is seen: one piece without segments
  result.first.push_back(result.segments.size());
  return result;
}

/// What one KV head sees of segments [first, last).
inline void head_segments(const segment_pieces& pieces, std::size_t first, std::size_t last, index_t head, index_t head_dim,
                          std::vector<attention_segment>& seen) {
  seen.clear();
  for (std::size_t i = first; i < last; ++i) {
    const kv_view& kv = pieces.segments[i].kv;
    const index_t before = head * kv.head_stride;
    seen.push_back({kv.keys + before * row_bytes(kv.types.keys, head_dim), kv.values + before * row_bytes(kv.types.values, head_dim), kv.tokens,
                    pieces.segments[i].position, pieces.rotations[i].cosine, pieces.rotations[i].sine, kv.types.keys, kv.types.values});
  }
}

/// out [Dh] = the joined attention of `count` pieces of keys, each [Dh + 2] as attention_args::partial says, `stride` floats apart;
/// with `log_sum`, as attention_args::log_sums.
inline void join_pieces(const float* partial, index_t count, index_t stride, index_t head_dim, float* out, float* log_sum) {
  float most = partial[head_dim];
  for (index_t i = 1; i < count; ++i) most = std::max(most, partial[i * stride + head_dim]);
  float total = 0;
  std::fill_n(out, head_dim, 0.0F);
  for (index_t i = 0; i < count; ++i) {
    const float* piece = partial + i * stride;
    const float weight = std::exp2(piece[head_dim] - most);
    total += weight * piece[head_dim + 1];
    for (index_t d = 0; d < head_dim; ++d) out[d] += weight * piece[d];
  }
  if (log_sum != nullptr) *log_sum = total > 0 ? most * std::numbers::ln2_v<float> + std::log(total) : -1e30F;
  const float scale = total > 0 || log_sum == nullptr ? 1 / total : 0;
  for (index_t d = 0; d < head_dim; ++d) out[d] *= scale;
}

}  // namespace detail

/// out [T, H * Dh] = softmax(q · kᵀ * scale) · v, where query token t at `position[t]` sees the keys at positions up to its own, as far as the rule's
/// window reaches, wherever they lie.
/// `queries` [T, H * Dh] are rotated at their own positions. Segments and rotations correspond. Tasks are rows (the last ones first, as they see most) of a
/// KV head over a run of keys, cut by sizes only.
/// With `log_sums` [T, H], the logarithm of the sum of the scores' exponentials is written there, and rows may see nothing.
inline void attend_plain(const float* queries, index_t tokens, const token_positions& position, const head_shape& shape, const attention_rule& rule,
                         std::span<const kv_segment> segments, std::span<const segment_rotation> rotations, float* out, const compute_options& compute,
                         float* log_sums = nullptr) {
  compute.count(detail::attention_operations(tokens, position, shape, rule, segments));
  attention_args args;
  args.queries = queries;
  args.output = out;
  args.query_stride = shape.heads * shape.head_dim;
  args.head_dim = shape.head_dim;
  args.group = shape.heads / shape.kv_heads;
  args.position = position;
  args.scale = rule.scale;
  args.soft_cap = rule.soft_cap;
  args.window = rule.window;
  args.pairing = rule.pairing;
  args.rotated = rule.rotated;
  args.log_sums = log_sums;
  args.log_sum_stride = shape.heads;
  const index_t rows = tokens * args.group;
  const detail::attention_split split(shape.kv_heads, rows, detail::reached_keys(segments, position.first, rule.window), shape.head_dim);
  const detail::segment_pieces pieces = detail::cut_segments(segments, rotations, position.first, rule.window, shape, split.keys_each);
  const index_t row_size = shape.head_dim + 2;
  std::vector<float> partial(split.key_pieces > 1 ? static_cast<std::size_t>(split.key_pieces * shape.kv_heads * rows * row_size) : 0);
  parallel_tasks(shape.kv_heads * split.row_pieces * split.key_pieces, [&](index_t task) {
    attention_args a = args;
    const index_t piece = task / shape.kv_heads % split.key_pieces;
    a.kv_head = task % shape.kv_heads;
    a.row_begin = (split.row_pieces - 1 - task / (shape.kv_heads * split.key_pieces)) * split.rows_each;
    a.row_end = std::min(a.row_begin + split.rows_each, rows);
    if (!partial.empty()) a.partial = partial.data() + (piece * shape.kv_heads + a.kv_head) * rows * row_size;
    thread_local std::vector<attention_segment> seen;
    const auto at = static_cast<std::size_t>(piece);
    detail::head_segments(pieces, pieces.first[at], pieces.first[at + 1], a.kv_head, shape.head_dim, seen);
    a.segments = seen.data();
    a.segment_count = static_cast<index_t>(seen.size());
    compute.kernels->attend(compute.kind, a, thread_scratch(attention_scratch_bytes(shape.head_dim)));
  });
  if (partial.empty()) return;
  parallel_pieces(shape.kv_heads * rows, 64, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      const index_t head = i / rows, r = i % rows;
      const index_t at = r / args.group * shape.heads + head * args.group + r % args.group;
      detail::join_pieces(partial.data() + i * row_size, split.key_pieces, shape.kv_heads * rows * row_size, shape.head_dim,
                          out + at * shape.head_dim, log_sums == nullptr ? nullptr : log_sums + at);
    }
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
inline void attend_scaled(const float* queries, index_t tokens, const token_positions& position, const head_shape& shape, const attention_rule& rule,
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
inline void attend(const float* queries, index_t tokens, const token_positions& position, const head_shape& shape, const attention_rule& rule,
                   std::span<const kv_segment> segments, std::span<const segment_rotation> rotations, float* out, const compute_options& compute) {
  for (const kv_segment& s : segments)
    if (!s.scaling.plain()) return detail::attend_scaled(queries, tokens, position, shape, rule, segments, rotations, s.scaling, out, compute);
  attend_plain(queries, tokens, position, shape, rule, segments, rotations, out, compute);
}

}  // namespace blockattn::inline v0
