// A model's tensors: found by name, checked against the shapes that the metadata imply, with the changes that adapters make.
//
// Names are llama.cpp's. A fused matrix (Q, K and V of phi3, gate and up) is cut into views of its rows, and so are the adapters' matrices B.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/io/checkpoint.hpp"
#include "blockattn/io/lora.hpp"
#include "blockattn/model/config.hpp"
#include "blockattn/ops/feed_forward.hpp"
#include "blockattn/ops/linear.hpp"

namespace blockattn::inline v0 {

/// An adapter and how strongly it is applied.
struct applied_adapter {
  std::shared_ptr<const lora_adapter> adapter;
  float scale = 1;
};

struct layer_weights {
  const float* attention_norm = nullptr;                            ///< [D], or nullptr
  linear_weight query;                                              ///< [H * Dh, D]
  linear_weight key, value;                                         ///< [Hkv * Dh, D]
  const float *query_bias = nullptr, *key_bias = nullptr, *value_bias = nullptr;  ///< [H * Dh], [Hkv * Dh], or nullptr
  const float *query_norm = nullptr, *key_norm = nullptr;           ///< [Dh] or [H * Dh] and [Hkv * Dh], or nullptr
  linear_weight output;                                             ///< [D, H * Dh]
  const float* attention_post_norm = nullptr;                       ///< [D], or nullptr
  const float* feed_forward_norm = nullptr;                         ///< [D], or nullptr
  feed_forward_weights feed_forward;
  const float* feed_forward_post_norm = nullptr;                    ///< [D], or nullptr
};

struct model_weights {
  weight_view embedding;  ///< [V, D]
  linear_weight head;     ///< [V, D]; the embedding if the file has no other
  const float* norm = nullptr;
  std::vector<layer_weights> layers;
  std::vector<std::vector<float>> vectors;      ///< what couldn't be used as it lies in the file
  std::vector<std::vector<std::byte>> matrices; ///< of adapters, with their rows in the model's order
  std::vector<applied_adapter> adapters;        ///< keeps their maps alive
};

namespace detail {

class weight_reader {
 public:
  weight_reader(const checkpoint& file, const model_config& config, const family_facts& facts, std::vector<applied_adapter> adapters)
      : file_(file), config_(config), facts_(facts) {
    result_.adapters = std::move(adapters);
  }

  /// Throws format_error for missing, misshapen or unknown tensors, and for adapters of another base model.
  [[nodiscard]] model_weights read() {
    result_.embedding = embedding();
    const index_t vocabulary = result_.embedding.rows;
    result_.norm = vector("output_norm.weight", config_.width, true);
    result_.head = file_.find_tensor("output.weight") != nullptr ? matrix("output.weight", vocabulary, config_.width) : linear_weight{result_.embedding, {}, false};
    for (index_t l = 0; l < config_.layers; ++l) result_.layers.push_back(layer(cat("blk.", l, ".")));
    check_all_used();
    check_adapters();
    return std::move(result_);
  }

 private:
  layer_weights layer(const std::string& prefix) {
    const model_config& c = config_;
    layer_weights w;
    const bool before = facts_.norms != norm_places::after;
    const bool after = facts_.norms != norm_places::before;
    if (before) w.attention_norm = vector(prefix + "attn_norm.weight", c.width, true);
    read_projections(prefix, w);
    w.output = matrix(prefix + "attn_output.weight", c.width, c.heads * c.head_dim);
    if (after) w.attention_post_norm = vector(prefix + "post_attention_norm.weight", c.width, true);
    if (before) w.feed_forward_norm = vector(prefix + "ffn_norm.weight", c.width, true);
    read_feed_forward(prefix, w.feed_forward);
    if (after) w.feed_forward_post_norm = vector(prefix + "post_ffw_norm.weight", c.width, true);
    return w;
  }

  void read_projections(const std::string& prefix, layer_weights& w) {
    const index_t query = config_.heads * config_.head_dim;
    const index_t key = config_.kv_heads * config_.head_dim;
    if (facts_.fused) {
      const linear_weight all = matrix(prefix + "attn_qkv.weight", query + 2 * key, config_.width);
      w.query = rows_of(all, 0, query);
      w.key = rows_of(all, query, key);
      w.value = rows_of(all, query + key, key);
    } else {
      w.query = matrix(prefix + "attn_q.weight", query, config_.width);
      w.key = matrix(prefix + "attn_k.weight", key, config_.width);
      w.value = matrix(prefix + "attn_v.weight", key, config_.width);
    }
    const auto bias = [&](const char* name, index_t size) {
      const std::string whole = prefix + name;
      return facts_.qkv_bias || file_.find_tensor(whole) != nullptr ? vector(whole, size, false) : nullptr;
    };
    w.query_bias = bias("attn_q.bias", query);
    w.key_bias = bias("attn_k.bias", key);
    w.value_bias = bias("attn_v.bias", key);
    if (facts_.qk_norm == query_key_norm::none) return;
    const bool whole = facts_.qk_norm == query_key_norm::whole;
    w.query_norm = vector(prefix + "attn_q_norm.weight", whole ? query : config_.head_dim, true);
    w.key_norm = vector(prefix + "attn_k_norm.weight", whole ? key : config_.head_dim, true);
  }

  void read_feed_forward(const std::string& prefix, feed_forward_weights& w) {
    const index_t inner = config_.feed_forward;
    if (facts_.fused) {
      const linear_weight both = matrix(prefix + "ffn_up.weight", 2 * inner, config_.width);
      w.gate = rows_of(both, 0, inner);
      w.up = rows_of(both, inner, inner);
    } else {
      w.gate = matrix(prefix + "ffn_gate.weight", inner, config_.width);
      w.up = matrix(prefix + "ffn_up.weight", inner, config_.width);
    }
    w.down = matrix(prefix + "ffn_down.weight", config_.width, inner);
  }

  /// Rows [first, first + count) of a matrix and of what lies on it.
  [[nodiscard]] static linear_weight rows_of(const linear_weight& whole, index_t first, index_t count) {
    const auto cut = [&](const weight_view& w) { return weight_view{w.type, w.row(first), count, w.columns}; };
    linear_weight part{cut(whole.base), {}, whole.wide};
    for (const low_rank_update& u : whole.updates) part.updates.push_back({u.a, cut(u.b), u.scale});
    return part;
  }

  /// Attention's matrices: a quarter of the products, which with inputs of 8 bits make more than half of all rounding's distance to float32 (measured on SmolLM2-135M, 5,000
  /// tokens: mean KL 2.7e-3 with 8 bits everywhere, 1.9e-3 with 16 for the values' and the output's matrix, 1.6e-3 with 16 for all four; on Gemma 3 270M 5.9e-3 with 16 for values alone, 1.2e-3 for all).
  /// With norms around (Gemma) the last matrix of the feed-forward too: its gated inputs have outliers, and the norm behind it lifts what is lost beside them (measured on
  /// Gemma 3 270M: mean KL 1.0e-2 becomes 1.2e-3).
  [[nodiscard]] bool needs_wide_input(std::string_view name) const {
    return name.find(".attn_") != std::string_view::npos || (facts_.norms == norm_places::around && name.find(".ffn_down.") != std::string_view::npos);
  }

  /// A weight matrix with the updates that the adapters have for it.
  linear_weight matrix(const std::string& name, index_t rows, index_t columns) {
    linear_weight result{matrix_of(name, rows, columns), {}, needs_wide_input(name)};
    adaptable_.insert(name);
    for (const applied_adapter& applied : result_.adapters) {
      const auto found = applied.adapter->changes().find(name);
      if (found == applied.adapter->changes().end()) continue;
      const auto& [a, b] = found->second;
      if (a.columns != columns || b.rows != rows)
        throw format_error(cat("[lora] ", applied.adapter->file().path(), ": '", name, "' changes a matrix [", b.rows, ", ", a.columns, "], the model's is [", rows,
                               ", ", columns, "]. The adapter belongs to another base model."));
      result.updates.push_back({a, in_order_of_model(name, b), applied.scale * applied.adapter->scale_of(found->second)});
    }
    return result;
  }

  /// A matrix B with its rows in the order of the model's: adapters are laid out as GGUF files are, a folder of safetensors files isn't.
  weight_view in_order_of_model(const std::string& name, const weight_view& b) {
    const bool query = name.find(".attn_q.") != std::string::npos, key = name.find(".attn_k.") != std::string::npos;
    if (facts_.pairing != rope_pairing::adjacent || config_.ropes[0].pairing == facts_.pairing || (!query && !key)) return b;
    const index_t row = row_bytes(b.type, b.columns), size = config_.head_dim;
    std::vector<std::byte>& moved = result_.matrices.emplace_back(static_cast<std::size_t>(b.rows * row));
    for (index_t r = 0; r < b.rows; ++r)
      std::memcpy(moved.data() + (r / size * size + huggingface_channel(r % size, config_.ropes[0].channels())) * row, b.row(r), static_cast<std::size_t>(row));
    return {b.type, moved.data(), b.rows, b.columns};
  }

  weight_view embedding() {
    const checkpoint_tensor& t = tensor("token_embd.weight");
    return matrix_of("token_embd.weight", t.shape.size() == 2 ? t.shape[1] : 0, config_.width);
  }

  const checkpoint_tensor& tensor(const std::string& name) {
    used_.insert(name);
    if (const checkpoint_tensor* found = file_.find_tensor(name)) return *found;
    throw format_error(cat("[model] ", file_.path(), ": tensor '", name, "' is missing. The file is incomplete or of another architecture."));
  }

  weight_view matrix_of(const std::string& name, index_t rows, index_t columns) {
    const checkpoint_tensor& t = tensor(name);
    if (t.shape.size() != 2 || t.shape[0] != columns || t.shape[1] != rows) throw_shape(t, cat("[", rows, ", ", columns, "]"));
    return t.matrix();
  }

  /// A vector of floats: where it lies in the file, or a copy if it isn't float32 or `norm` weights need their offset.
  const float* vector(const std::string& name, index_t size, bool norm) {
    const checkpoint_tensor& t = tensor(name);
    if (t.shape.size() != 1 || t.shape[0] != size) throw_shape(t, cat("[", size, "]"));
    if (block_values(t.type) != 1)
      throw format_error(cat("[model] ", file_.path(), ": tensor '", name, "' is ", blockattn::name(t.type), "; supported for norms and biases: f32, f16, bf16"));
    const float offset = norm ? config_.norm_offset : 0;
    const float* values = reinterpret_cast<const float*>(t.bytes.data());
    if (t.type != dtype::f32 || offset != 0) {
      std::vector<float>& copy = result_.vectors.emplace_back(static_cast<std::size_t>(size));
      kernels().unpack_row(t.matrix(), 0, copy.data());
      for (float& value : copy) value += offset;
      values = copy.data();
    }
    for (index_t i = 0; i < size; ++i)
      if (!std::isfinite(values[i]))
        throw format_error(cat("[model] ", file_.path(), ": tensor '", name, "' has the value ", values[i], " at ", i, "; allowed: finite numbers. The weights are damaged; fetch them again."));
    return values;
  }

  /// A part of a layer that isn't computed would silently give wrong answers.
  void check_all_used() const {
    for (const checkpoint_tensor& t : file_.tensors())
      if (t.name.starts_with("blk.") && !used_.contains(t.name))
        throw format_error(cat("[model] ", file_.path(), ": tensor '", t.name, "' isn't part of a model '", config_.architecture, "' with ", config_.layers,
                               " layers as this library knows it. A variant that isn't supported?"));
  }

  /// Every change of every adapter must have found its weight.
  void check_adapters() const {
    for (const applied_adapter& applied : result_.adapters) {
      const std::string& path = applied.adapter->file().path();
      if (applied.adapter->architecture() != config_.architecture)
        throw format_error(cat("[lora] ", path, ": made for architecture '", applied.adapter->architecture(), "', the model is '", config_.architecture, "'"));
      for (const auto& [name, matrices] : applied.adapter->changes())
        if (!adaptable_.contains(name))
          throw format_error(cat("[lora] ", path, ": changes '", name, "', which this model doesn't have or which can't be adapted. Another base model?"));
    }
  }

  [[noreturn]] void throw_shape(const checkpoint_tensor& t, const std::string& expected) const {
    throw format_error(cat("[model] ", file_.path(), ": tensor '", t.name, "' has shape ", shape_text(t), ", expected ", expected, ". Metadata and tensors disagree."));
  }

  const checkpoint& file_;
  const model_config& config_;
  const family_facts& facts_;
  model_weights result_;
  std::set<std::string, std::less<>> used_, adaptable_;
};

}  // namespace detail

/// Reads shapes and weights from the file, which must outlive the result. Throws format_error, see weight_reader.
[[nodiscard]] inline model_weights read_weights(const checkpoint& file, const model_config& config, const family_facts& facts, std::vector<applied_adapter> adapters = {}) {
  return detail::weight_reader(file, config, facts, std::move(adapters)).read();
}

}  // namespace blockattn::inline v0
