// A model's configuration and weights as the GPU engine takes them. Host code; needs no CUDA header.
#pragma once

#include <cstring>
#include <deque>
#include <vector>

#include "blockattn/core/dtype_decode.hpp"
#include "blockattn/cuda/engine.hpp"
#include "blockattn/model/config.hpp"
#include "blockattn/model/weights.hpp"

namespace blockattn::inline v0 {

/// What engine's constructor reads, and the matrices made for it: it keeps nothing of them.
struct cuda_network {
  cuda::network_facts facts;
  std::deque<std::vector<std::byte>> merged;
};

namespace detail {

/// W + sum of scale · B · A as bfloat16: adapters are merged on a GPU.
[[nodiscard]] inline weight_view merge_updates(const linear_weight& w, std::deque<std::vector<std::byte>>& keep) {
  if (w.updates.empty()) return w.base;
  const auto columns = static_cast<std::size_t>(w.base.columns);
  std::vector<std::byte>& bytes = keep.emplace_back(static_cast<std::size_t>(w.base.rows) * columns * 2);
  std::vector<std::vector<float>> reduced;  // A of each update, unpacked
  for (const low_rank_update& u : w.updates) {
    std::vector<float>& a = reduced.emplace_back(static_cast<std::size_t>(u.a.rows) * columns);
    for (index_t r = 0; r < u.a.rows; ++r) decode_row(u.a.type, u.a.row(r), a.data() + r * u.a.columns, u.a.columns);
  }
  std::vector<float> row(columns), b;
  for (index_t n = 0; n < w.base.rows; ++n) {
    decode_row(w.base.type, w.base.row(n), row.data(), w.base.columns);
    for (std::size_t i = 0; i < w.updates.size(); ++i) {
      const low_rank_update& u = w.updates[i];
      b.resize(static_cast<std::size_t>(u.b.columns));
      decode_row(u.b.type, u.b.row(n), b.data(), u.b.columns);
      for (std::size_t r = 0; r < b.size(); ++r)
        for (std::size_t c = 0; c < columns; ++c) row[c] += u.scale * b[r] * reduced[i][r * columns + c];
    }
    for (std::size_t c = 0; c < columns; ++c) {
      const std::uint16_t bits = f32_to_bf16(row[c]);
      std::memcpy(bytes.data() + (static_cast<std::size_t>(n) * columns + c) * 2, &bits, 2);
    }
  }
  return {dtype::bf16, bytes.data(), w.base.rows, w.base.columns};
}

[[nodiscard]] inline cuda::layer_facts layer_of(const layer_weights& w, const layer_positions& p, std::deque<std::vector<std::byte>>& keep) {
  cuda::layer_facts l;
  l.query = merge_updates(w.query, keep), l.key = merge_updates(w.key, keep), l.value = merge_updates(w.value, keep);
  l.output = merge_updates(w.output, keep);
  l.gate = merge_updates(w.feed_forward.gate, keep), l.up = merge_updates(w.feed_forward.up, keep), l.down = merge_updates(w.feed_forward.down, keep);
  l.query_bias = w.query_bias, l.key_bias = w.key_bias, l.value_bias = w.value_bias;
  l.query_norm = w.query_norm, l.key_norm = w.key_norm;
  l.attention_norm = w.attention_norm, l.attention_post_norm = w.attention_post_norm;
  l.feed_forward_norm = w.feed_forward_norm, l.feed_forward_post_norm = w.feed_forward_post_norm;
  l.rope = p.rope, l.window = p.window;
  return l;
}

}  // namespace detail

/// The network of a family's model, for a GPU.
[[nodiscard]] inline cuda_network describe_network(const model_config& c, const model_weights& w, const family_facts& facts) {
  cuda_network n;
  cuda::network_facts& f = n.facts;
  f.width = c.width, f.heads = c.heads, f.kv_heads = c.kv_heads, f.head_dim = c.head_dim, f.feed_forward = c.feed_forward, f.vocabulary = w.embedding.rows;
  f.norm_epsilon = c.norm_epsilon, f.attention_scale = c.attention_scale, f.attention_soft_cap = c.attention_soft_cap;
  f.logit_soft_cap = c.logit_soft_cap, f.embedding_scale = c.embedding_scale;
  f.norm_whole = facts.qk_norm == query_key_norm::whole;
  f.gelu = facts.gating == activation::gelu_tanh;
  for (const rope_spec& r : c.ropes) {
    cuda::rope_facts rope{r.pairing, r.channels(), r.magnitude, {}};
    for (index_t i = 0; i < r.pairs(); ++i) rope.frequency.push_back(r.frequency(i));
    f.ropes.push_back(std::move(rope));
  }
  for (std::size_t l = 0; l < w.layers.size(); ++l) f.layers.push_back(detail::layer_of(w.layers[l], c.positions[l], n.merged));
  f.embedding = w.embedding;
  f.head = detail::merge_updates(w.head, n.merged);
  f.norm = w.norm;
  return n;
}

}  // namespace blockattn::inline v0
