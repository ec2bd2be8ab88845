// One layer of a decoder of any family: attention over cached blocks and the tail, then the feed-forward, with norms where the family has them.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "blockattn/model/config.hpp"
#include "blockattn/model/family.hpp"
#include "blockattn/model/kv_tail.hpp"
#include "blockattn/model/weights.hpp"
#include "blockattn/ops/attention.hpp"
#include "blockattn/ops/feed_forward.hpp"
#include "blockattn/ops/norm.hpp"

namespace blockattn::inline v0 {

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

/// Tokens of one run: rows [row, row + tokens) of the batch, at `position`; where their keys and values go, and what they see.
struct layer_part {
  index_t row = 0;
  index_t tokens = 0;
  token_positions position;
  kv_tail* tail = nullptr;
  index_t tail_first = 0;  ///< of their places in the tail, which are consecutive if their positions are, and else the positions
  std::span<const kv_segment> segments;  ///< of this layer: context, then tail
  std::span<const segment_rotation> rotations;  ///< that each segment's keys lack
};

/// What a layer needs to know of the rows that go through it together; angles [rows, pairs] of their positions for the layer's RoPE, or nullptr if it has none.
struct layer_batch {
  index_t rows = 0;
  std::span<const layer_part> parts;
  const rope_angles* angles = nullptr;
  compute_options compute;
};

template <model_family Family>
class layer {
 public:
  /// `config` and `weights` must outlive the layer, which is number `l`.
  layer(const model_config& config, const layer_weights& weights, index_t l) : config_(&config), weights_(&weights), number_(l) {
    const layer_positions& p = config.positions[static_cast<std::size_t>(l)];
    if (p.rope >= 0) rope_ = &config.ropes[static_cast<std::size_t>(p.rope)];
    rule_ = {config.attention_scale, config.attention_soft_cap, p.window, config.ropes[0].pairing, config.ropes[0].rotated};
  }

  /// Writes keys and values of `x` [rows, D] to the tails, where room for them has been counted. Leaves the queries in the workspace.
  void project(const float* x, const layer_batch& batch, layer_workspace& w) const {
    const float* input = normed<facts.norms != norm_places::after>(x, weights_->attention_norm, batch, w);
    const std::array products = {linear_product{&weights_->query, w.query.data()}, linear_product{&weights_->key, w.key.data()},
                                 linear_product{&weights_->value, w.value.data()}};
    linear(input, batch.rows, products, batch.compute);
    parallel_pieces(batch.rows, 16, [&](index_t first, index_t last) {
      for (const layer_part& part : batch.parts)
        for (index_t row = std::max(first, part.row); row < std::min(last, part.row + part.tokens); ++row) place_row(row, part, batch, w);
    });
  }

  /// x += attention, x += feed-forward; after project().
  void mix(matrix_map x, const layer_batch& batch, layer_workspace& w) const {
    const model_config& c = *config_;
    const index_t width = c.heads * c.head_dim;
    for (const layer_part& part : batch.parts)
      if (part.tokens > 0)
        attend(w.query.data() + part.row * width, part.tokens, part.position, {c.heads, c.kv_heads, c.head_dim}, rule_, part.segments, part.rotations,
               w.attended.data() + part.row * width, batch.compute);
    linear(w.attended.data(), batch.rows, weights_->output, w.added.data(), batch.compute);
    add(x, weights_->attention_post_norm, batch, w);
    const float* input = normed<facts.norms != norm_places::after>(x.data(), weights_->feed_forward_norm, batch, w);
    feed_forward(input, batch.rows, weights_->feed_forward, facts.gating, w.gate.data(), w.up.data(), w.added.data(), batch.compute);
    add(x, weights_->feed_forward_post_norm, batch, w);
  }

 private:
  static constexpr family_facts facts = Family::facts;

  /// norm(x) in the workspace, or x itself.
  template <bool Apply>
  [[nodiscard]] const float* normed(const float* x, const float* weight, const layer_batch& batch, layer_workspace& w) const {
    if constexpr (!Apply) return x;
    rms_norm(x, batch.rows, config_->width, weight, config_->norm_epsilon, w.normed.data(), batch.compute);
    return w.normed.data();
  }

  /// x += what a half of the layer has computed, normed first if the family does that.
  void add(matrix_map& x, const float* weight, const layer_batch& batch, layer_workspace& w) const {
    if constexpr (facts.norms != norm_places::before)
      rms_norm(w.added.data(), batch.rows, config_->width, weight, config_->norm_epsilon, w.added.data(), batch.compute);
    x += w.added.topRows(batch.rows);
  }

  /// Finishes query, key and value of one row and stores key and value.
  void place_row(index_t row, const layer_part& part, const layer_batch& batch, layer_workspace& w) const {
    const model_config& c = *config_;
    const kernel_table& k = *batch.compute.kernels;
    float* query = w.query.data() + row * c.heads * c.head_dim;
    float* key = w.key.data() + row * c.kv_heads * c.head_dim;
    float* value = w.value.data() + row * c.kv_heads * c.head_dim;
    add_bias(query, weights_->query_bias, c.heads * c.head_dim);
    add_bias(key, weights_->key_bias, c.kv_heads * c.head_dim);
    add_bias(value, weights_->value_bias, c.kv_heads * c.head_dim);
    norm_heads(query, c.heads, weights_->query_norm, k);
    norm_heads(key, c.kv_heads, weights_->key_norm, k);
    if (rope_ != nullptr) {
      rotate_heads(*rope_, query, c.heads, batch.angles->cosine_of(row), batch.angles->sine_of(row), k);
      rotate_heads(*rope_, key, c.kv_heads, batch.angles->cosine_of(row), batch.angles->sine_of(row), k);
    }
    kv_tail& tail = *part.tail;
    const index_t t = part.position.each != nullptr ? part.position[row - part.row] : part.tail_first + row - part.row;
    for (index_t h = 0; h < c.kv_heads; ++h) {
      k.store_kv(tail.layout().types.keys, key + h * c.head_dim, c.head_dim, tail.key(number_, h, t));
      k.store_kv(tail.layout().types.values, value + h * c.head_dim, c.head_dim, tail.value(number_, h, t));
    }
  }

  static void add_bias(float* x, const float* bias, index_t n) {
    for (index_t i = 0; bias != nullptr && i < n; ++i) x[i] += bias[i];
  }

  void norm_heads(float* x, index_t heads, const float* weight, const kernel_table& k) const {
    const index_t size = config_->head_dim;
    if constexpr (facts.qk_norm == query_key_norm::whole) k.rms_norm(x, weight, heads * size, config_->norm_epsilon, x);
    if constexpr (facts.qk_norm == query_key_norm::head)
      for (index_t h = 0; h < heads; ++h) k.rms_norm(x + h * size, weight, size, config_->norm_epsilon, x + h * size);
  }

  const model_config* config_;
  const layer_weights* weights_;
  index_t number_;
  const rope_spec* rope_ = nullptr;
  attention_rule rule_;
};

}  // namespace blockattn::inline v0
