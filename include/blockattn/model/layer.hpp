// One layer of a decoder: norm, attention over cached blocks and the tail, norm, feed-forward.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "blockattn/model/config.hpp"
#include "blockattn/model/family.hpp"
#include "blockattn/model/kv_tail.hpp"
#include "blockattn/ops/attention.hpp"
#include "blockattn/ops/feed_forward.hpp"
#include "blockattn/ops/norm.hpp"

namespace blockattn::inline v0 {

struct layer_weights {
  const float* attention_norm = nullptr;     ///< [D]
  linear_weight query;                       ///< [H * Dh, D]
  linear_weight key, value;                  ///< [Hkv * Dh, D]
  linear_weight output;                      ///< [D, H * Dh]
  const float* feed_forward_norm = nullptr;  ///< [D]
  feed_forward_weights feed_forward;
};

/// Room for the intermediate values of up to `tokens` tokens, used by all layers in turn.
struct layer_workspace {
  layer_workspace(const model_config& c, index_t tokens)
      : normed(tokens, c.width),
        query(tokens, c.heads * c.head_dim),
        key(tokens, c.kv_heads * c.head_dim),
        value(tokens, c.kv_heads * c.head_dim),
        attended(tokens, c.heads * c.head_dim),
        gate(tokens, c.feed_forward),
        up(tokens, c.feed_forward),
        added(tokens, c.width) {}

  matrix normed, query, key, value, attended, gate, up, added;
};

/// What all layers of one run share: T tokens at position, …; angles [T, Dh/2] of these positions; the first of their places in the tail;
/// and the rotation that each context segment's keys lack.
struct layer_run {
  index_t tokens = 0;
  index_t position = 0;
  index_t tail_first = 0;
  const rope_angles* angles = nullptr;
  std::span<const kv_segment> segments;  ///< of this layer: context, then tail
  std::span<const segment_rotation> rotations;
  compute_options compute;
};

template <model_family Family>
class layer {
 public:
  layer(const model_config& config, const layer_weights& weights) : config_(&config), weights_(weights) {}

  /// Writes keys and values of `x` [T, D] to layer `l` of the tail, where room for them has been counted. Leaves the queries in the workspace.
  void project(const float* x, index_t l, const layer_run& run, kv_tail& tail, layer_workspace& w) const {
    const model_config& c = *config_;
    rms_norm(x, run.tokens, c.width, weights_.attention_norm, c.norm_epsilon, w.normed.data(), run.compute);
    const std::array products = {linear_product{&weights_.query, w.query.data()}, linear_product{&weights_.key, w.key.data()},
                                 linear_product{&weights_.value, w.value.data()}};
    linear(w.normed.data(), run.tokens, products, run.compute);
    parallel_pieces(run.tokens, 16, [&](index_t first, index_t last) {
      for (index_t t = first; t < last; ++t) place_token(t, l, run, tail, w);
    });
  }

  /// x += attention, x += feed-forward; after project().
  void mix(matrix_map x, const layer_run& run, layer_workspace& w) const {
    const model_config& c = *config_;
    attend(w.query.data(), run.tokens, run.position, {c.heads, c.kv_heads, c.head_dim}, Family::pairing, run.segments, run.rotations, w.attended.data(),
           run.compute);
    linear(w.attended.data(), run.tokens, weights_.output, w.added.data(), run.compute);
    x += w.added.topRows(run.tokens);
    rms_norm(x.data(), run.tokens, c.width, weights_.feed_forward_norm, c.norm_epsilon, w.normed.data(), run.compute);
    feed_forward(w.normed.data(), run.tokens, weights_.feed_forward, w.gate.data(), w.up.data(), w.added.data(), run.compute);
    x += w.added.topRows(run.tokens);
  }

 private:
  /// Rotates query and key of one token and stores its key and value.
  void place_token(index_t t, index_t l, const layer_run& run, kv_tail& tail, layer_workspace& w) const {
    const model_config& c = *config_;
    const kernel_table& k = *run.compute.kernels;
    float* key = w.key.data() + t * c.kv_heads * c.head_dim;
    const float* value = w.value.data() + t * c.kv_heads * c.head_dim;
    k.rotate(Family::pairing, w.query.data() + t * c.heads * c.head_dim, c.heads, c.head_dim, run.angles->cosine_of(t), run.angles->sine_of(t));
    k.rotate(Family::pairing, key, c.kv_heads, c.head_dim, run.angles->cosine_of(t), run.angles->sine_of(t));
    for (index_t h = 0; h < c.kv_heads; ++h) {
      k.store_kv(tail.layout().type, key + h * c.head_dim, c.head_dim, tail.key(l, h, run.tail_first + t));
      k.store_kv(tail.layout().type, value + h * c.head_dim, c.head_dim, tail.value(l, h, run.tail_first + t));
    }
  }

  const model_config* config_;
  layer_weights weights_;
};

}  // namespace blockattn::inline v0
