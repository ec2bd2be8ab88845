// A decoder of one family: embedding, layers, norm, output head. Knows blocks of keys and values, and nothing of caches or text.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/io/gguf.hpp"
#include "blockattn/io/lora.hpp"
#include "blockattn/model/config.hpp"
#include "blockattn/model/forward.hpp"
#include "blockattn/model/layer.hpp"

namespace blockattn::inline v0 {

/// What the run-time model needs of any transformer. Immutable; used by any number of threads, each with a tail of its own.
class decoder {
 public:
  virtual ~decoder() = default;
  [[nodiscard]] virtual const model_config& config() const = 0;
  [[nodiscard]] virtual const rope_spec& rope() const = 0;
  /// Runs request.ids and appends their keys and values to `tail`. Returns the hidden states after the last norm, [rows, D].
  /// If it throws (cancelled_error, std::bad_alloc), the tail is as it was.
  virtual matrix forward(const forward_request& request, kv_tail& tail, const compute_options& compute, const forward_control& control) const = 0;
  /// Logits [rows, V] of hidden states [rows, D].
  virtual void project(const float* hidden, index_t rows, float* logits, const compute_options& compute) const = 0;
};

/// An adapter and how strongly it is applied.
struct applied_adapter {
  std::shared_ptr<const lora_adapter> adapter;
  float scale = 1;
};

/// Tokens that go through all layers together; longer prompts go in pieces, which bounds the memory of intermediate values.
inline constexpr index_t forward_chunk = 512;

template <model_family Family>
class transformer final : public decoder {
 public:
  /// Reads shapes and weights from the file, which must outlive this object. Throws format_error for missing or misshapen tensors, and for adapters
  /// of another base model.
  explicit transformer(const gguf_file& file, std::vector<applied_adapter> adapters = {})
      : config_(read_config(file)), adapters_(std::move(adapters)) {
    rope_ = {config_.head_dim, config_.rope_base, Family::pairing};
    const std::string rotated = config_.architecture + ".rope.dimension_count";
    const auto dimensions = file.number<index_t>(rotated).value_or(config_.head_dim);
    if (dimensions != config_.head_dim)
      throw format_error(cat("[model] ", file.path(), ": '", rotated, "' is ", dimensions, "; supported: all ", config_.head_dim, " channels of a head"));
    const auto scaling = file.string(config_.architecture + ".rope.scaling.type").value_or("none");
    if (scaling != "none" || file.find_tensor("rope_freqs.weight") != nullptr)
      throw format_error(cat("[model] ", file.path(), ": RoPE scaling '", scaling, "' isn't supported; supported: none"));
    load_weights(file);
    check_adapters();
  }

  [[nodiscard]] const model_config& config() const override { return config_; }
  [[nodiscard]] const rope_spec& rope() const override { return rope_; }

  matrix forward(const forward_request& request, kv_tail& tail, const compute_options& compute, const forward_control& control) const override {
    const auto total = static_cast<index_t>(request.ids.size());
    const index_t kept = tail.tokens();
    const index_t rows = request.rows == hidden_rows::all ? total : (request.rows == hidden_rows::last && total > 0 ? 1 : 0);
    matrix hidden(rows, config_.width);
    layer_workspace workspace(config_, std::min(total, forward_chunk));
    tail.reserve(total);
    try {
      for (index_t first = 0; first < total; first += forward_chunk) {
        const index_t tokens = std::min(forward_chunk, total - first);
        const bool last = first + tokens == total;
        const hidden_rows wanted = request.rows == hidden_rows::last && !last ? hidden_rows::none : request.rows;
        forward_piece(request, first, tokens, total, wanted, tail, compute, control, workspace, hidden);
      }
    } catch (...) {
      tail.truncate(kept);
      throw;
    }
    return hidden;
  }

  void project(const float* hidden, index_t rows, float* logits, const compute_options& compute) const override {
    linear(hidden, rows, head_, logits, compute);
  }

 private:
  void forward_piece(const forward_request& request, index_t first, index_t tokens, index_t total, hidden_rows wanted, kv_tail& tail,
                     const compute_options& compute, const forward_control& control, layer_workspace& workspace, matrix& hidden) const {
    layer_run run;
    run.tokens = tokens;
    run.position = request.position + first;
    run.tail_first = tail.tokens();
    run.compute = compute;
    const rope_angles angles = angles_of(rope_, static_cast<double>(run.position), tokens);
    run.angles = &angles;
    tail.append(tokens, run.position);
    context_segments context(request.context, rope_);
    matrix x(tokens, config_.width);
    embed(request.ids.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(tokens)), x, compute);
    matrix_map state(x.data(), tokens, config_.width);
    for (index_t l = 0; l < config_.layers; ++l) {
      check(control, first * config_.layers + l * tokens, total);
      layers_[static_cast<std::size_t>(l)].project(x.data(), l, run, tail, workspace);
      if (wanted == hidden_rows::none && l + 1 == config_.layers) break;  // the last layer's keys and values are all that is left to do
      context.of_layer(l, tail, run);
      layers_[static_cast<std::size_t>(l)].mix(state, run, workspace);
    }
    check(control, (first + tokens) * config_.layers, total);
    if (wanted == hidden_rows::all)
      rms_norm(x.data(), tokens, config_.width, norm_, config_.norm_epsilon, hidden.data() + first * config_.width, compute);
    else if (wanted == hidden_rows::last)
      rms_norm(x.data() + (tokens - 1) * config_.width, 1, config_.width, norm_, config_.norm_epsilon, hidden.data(), compute);
  }

  /// The segments of a run, layer by layer: placed blocks, then the tail's pieces.
  class context_segments {
   public:
    context_segments(std::span<const placed_block> context, const rope_spec& rope) : context_(context) {
      angles_.reserve(context.size());
      for (const placed_block& placed : context) {
        const bool lacks = !placed.rotated && placed.offset != 0;
        angles_.push_back(lacks ? angles_of(rope, static_cast<double>(placed.offset), 1) : rope_angles{});
        rotations_.push_back(lacks ? segment_rotation{angles_.back().cosine.data(), angles_.back().sine.data()} : segment_rotation{});
      }
    }

    void of_layer(index_t l, const kv_tail& tail, layer_run& run) {
      segments_.clear();
      for (const placed_block& placed : context_)
        segments_.push_back({placed.block->layer(l), placed.rotated ? 0.0 : static_cast<double>(placed.offset), placed.offset});
      tail.append_segments(l, segments_);
      rotations_.resize(segments_.size());
      run.segments = segments_;
      run.rotations = rotations_;
    }

   private:
    std::span<const placed_block> context_;
    std::vector<rope_angles> angles_;
    std::vector<segment_rotation> rotations_;
    std::vector<kv_segment> segments_;
  };

  /// Progress is counted in tokens: token-layers done by the number of layers.
  void check(const forward_control& control, index_t token_layers, index_t total) const {
    if (control.cancelled && control.cancelled()) throw cancelled_error("[model] cancelled by the caller");
    if (control.progress && !control.progress(token_layers / config_.layers, total)) throw cancelled_error("[model] cancelled by the progress callback");
  }

  void embed(std::span<const token_id> ids, matrix& x, const compute_options& compute) const {
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] < 0 || ids[t] >= embedding_.rows) throw argument_error(cat("[model] token ", ids[t], " at ", t, "; allowed: 0 to ", embedding_.rows - 1));
      compute.kernels->unpack_row(embedding_, ids[t], x.data() + static_cast<index_t>(t) * config_.width);
    }
  }

  void load_weights(const gguf_file& file) {
    const model_config& c = config_;
    embedding_ = first_matrix(file, "token_embd.weight", c.width);
    config_.vocabulary = embedding_.rows;
    norm_ = vector(file, "output_norm.weight", c.width);
    const bool untied = file.find_tensor("output.weight") != nullptr;
    head_ = untied ? adapted(file, "output.weight", embedding_.rows, c.width) : linear_weight{embedding_, {}};
    const index_t query = c.heads * c.head_dim;
    const index_t key = c.kv_heads * c.head_dim;
    for (index_t l = 0; l < c.layers; ++l) {
      const std::string prefix = cat("blk.", l, ".");
      layer_weights w;
      w.attention_norm = vector(file, prefix + "attn_norm.weight", c.width);
      w.query = adapted(file, prefix + "attn_q.weight", query, c.width);
      w.key = adapted(file, prefix + "attn_k.weight", key, c.width);
      w.value = adapted(file, prefix + "attn_v.weight", key, c.width);
      w.output = adapted(file, prefix + "attn_output.weight", c.width, query);
      w.feed_forward_norm = vector(file, prefix + "ffn_norm.weight", c.width);
      w.feed_forward.gate = adapted(file, prefix + "ffn_gate.weight", c.feed_forward, c.width);
      w.feed_forward.up = adapted(file, prefix + "ffn_up.weight", c.feed_forward, c.width);
      w.feed_forward.down = adapted(file, prefix + "ffn_down.weight", c.width, c.feed_forward);
      layers_.emplace_back(config_, w);
    }
  }

  /// A weight matrix with the updates that the adapters have for it.
  linear_weight adapted(const gguf_file& file, const std::string& name, index_t rows, index_t columns) {
    linear_weight result{matrix_of(file, name, rows, columns), {}};
    adaptable_.insert(name);
    for (const applied_adapter& applied : adapters_) {
      const auto found = applied.adapter->changes().find(name);
      if (found == applied.adapter->changes().end()) continue;
      const auto& [a, b] = found->second;
      if (a.columns != columns || b.rows != rows)
        throw format_error(cat("[lora] ", applied.adapter->file().path(), ": '", name, "' changes a matrix [", b.rows, ", ", a.columns, "], the model's is [", rows,
                               ", ", columns, "]. The adapter belongs to another base model."));
      result.updates.push_back({a, b, applied.scale * applied.adapter->scale_of(found->second)});
    }
    return result;
  }

  /// Every change of every adapter must have found its weight.
  void check_adapters() const {
    for (const applied_adapter& applied : adapters_) {
      const std::string& path = applied.adapter->file().path();
      if (applied.adapter->architecture() != config_.architecture)
        throw format_error(cat("[lora] ", path, ": made for architecture '", applied.adapter->architecture(), "', the model is '", config_.architecture, "'"));
      for (const auto& [name, matrices] : applied.adapter->changes())
        if (!adaptable_.contains(name))
          throw format_error(cat("[lora] ", path, ": changes '", name, "', which this model doesn't have or which can't be adapted. Another base model?"));
    }
  }

  static const gguf_tensor& tensor(const gguf_file& file, const std::string& name) {
    if (const gguf_tensor* found = file.find_tensor(name)) return *found;
    throw format_error(cat("[model] ", file.path(), ": tensor '", name, "' is missing. The file is incomplete or of another architecture."));
  }

  static weight_view first_matrix(const gguf_file& file, const std::string& name, index_t columns) {
    const gguf_tensor& t = tensor(file, name);
    return matrix_of(file, name, t.shape.size() == 2 ? t.shape[1] : 0, columns);
  }

  static weight_view matrix_of(const gguf_file& file, const std::string& name, index_t rows, index_t columns) {
    const gguf_tensor& t = tensor(file, name);
    if (t.shape.size() != 2 || t.shape[0] != columns || t.shape[1] != rows) throw_shape(file, t, cat("[", rows, ", ", columns, "]"));
    return t.matrix();
  }

  static const float* vector(const gguf_file& file, const std::string& name, index_t size) {
    const gguf_tensor& t = tensor(file, name);
    if (t.shape.size() != 1 || t.shape[0] != size) throw_shape(file, t, cat("[", size, "]"));
    if (t.type != dtype::f32)
      throw format_error(cat("[model] ", file.path(), ": tensor '", name, "' is ", blockattn::name(t.type), "; supported for norms: f32"));
    return reinterpret_cast<const float*>(t.bytes.data());
  }

  [[noreturn]] static void throw_shape(const gguf_file& file, const gguf_tensor& t, const std::string& expected) {
    std::string got = "[";
    for (std::size_t i = t.shape.size(); i-- > 0;) got += cat(t.shape[i], i == 0 ? "]" : ", ");
    throw format_error(cat("[model] ", file.path(), ": tensor '", t.name, "' has shape ", got, ", expected ", expected, ". Metadata and tensors disagree."));
  }

  model_config config_;
  rope_spec rope_;
  std::vector<applied_adapter> adapters_;  ///< keeps the adapters' maps alive
  std::set<std::string, std::less<>> adaptable_;
  weight_view embedding_;
  linear_weight head_;
  const float* norm_ = nullptr;
  std::vector<layer<Family>> layers_;
};

}  // namespace blockattn::inline v0
