// A decoder of one family: embedding, layers, norm, output head. Knows blocks of keys and values, and nothing of caches or text.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/io/gguf.hpp"
#include "blockattn/model/config.hpp"
#include "blockattn/model/forward.hpp"
#include "blockattn/model/layer.hpp"

namespace blockattn::inline v0 {

/// What the run-time model needs of any transformer. Immutable; used by any number of threads, each with a tail of its own.
class decoder {
 public:
  virtual ~decoder() = default;
  [[nodiscard]] virtual const model_config& config() const = 0;
  /// Runs request.ids and appends their keys and values to `tail`. Returns the hidden states after the last norm, [rows, D].
  /// If it throws (cancelled_error, std::bad_alloc), the tail is as it was.
  virtual matrix forward(const forward_request& request, kv_tail& tail, const compute_options& compute, const forward_control& control) const = 0;
  /// Logits [rows, V] of hidden states [rows, D].
  virtual void project(const float* hidden, index_t rows, float* logits, const compute_options& compute) const = 0;
};

/// Tokens that go through all layers together; longer prompts go in pieces, which bounds the memory of intermediate values.
inline constexpr index_t forward_chunk = 512;

template <model_family Family>
class transformer final : public decoder {
 public:
  /// Reads shapes and weights from the file, which must outlive this object; `context` as for read_config(). Throws format_error for missing or misshapen tensors,
  /// and for adapters of another base model.
  explicit transformer(const gguf_file& file, std::vector<applied_adapter> adapters = {}, index_t context = 0)
      : config_(read_config(file, Family::facts, context)), weights_(read_weights(file, config_, Family::facts, std::move(adapters))) {
    config_.vocabulary = weights_.embedding.rows;
    for (index_t l = 0; l < config_.layers; ++l) layers_.emplace_back(config_, weights_.layers[static_cast<std::size_t>(l)], l);
  }
  transformer(const transformer&) = delete;
  transformer& operator=(const transformer&) = delete;

  [[nodiscard]] const model_config& config() const override { return config_; }

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
    linear(hidden, rows, weights_.head, logits, compute);
    if (config_.logit_soft_cap > 0)
      parallel_pieces(rows * config_.vocabulary, 16384, [&](index_t first, index_t last) { compute.kernels->soft_cap(logits + first, last - first, config_.logit_soft_cap); });
  }

 private:
  void forward_piece(const forward_request& request, index_t first, index_t tokens, index_t total, hidden_rows wanted, kv_tail& tail,
                     const compute_options& compute, const forward_control& control, layer_workspace& workspace, matrix& hidden) const {
    layer_run run;
    run.tokens = tokens;
    run.position = request.position + first;
    run.tail_first = tail.tokens();
    run.compute = compute;
    std::vector<rope_angles> angles;
    for (const rope_spec& rope : config_.ropes) angles.push_back(angles_of(rope, static_cast<double>(run.position), tokens, rope.magnitude));
    tail.append(tokens, run.position);
    context_segments context(request.context, config_.ropes);
    matrix x(tokens, config_.width);
    embed(request.ids.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(tokens)), x, compute);
    matrix_map state(x.data(), tokens, config_.width);
    for (index_t l = 0; l < config_.layers; ++l) {
      check(control, first * config_.layers + l * tokens, total);
      const index_t rope = config_.positions[static_cast<std::size_t>(l)].rope;
      run.angles = rope < 0 ? nullptr : &angles[static_cast<std::size_t>(rope)];
      layers_[static_cast<std::size_t>(l)].project(x.data(), run, tail, workspace);
      if (wanted == hidden_rows::none && l + 1 == config_.layers) break;  // the last layer's keys and values are all that is left to do
      context.of_layer(l, rope, tail, run);
      layers_[static_cast<std::size_t>(l)].mix(state, run, workspace);
    }
    check(control, (first + tokens) * config_.layers, total);
    if (wanted == hidden_rows::all)
      rms_norm(x.data(), tokens, config_.width, weights_.norm, config_.norm_epsilon, hidden.data() + first * config_.width, compute);
    else if (wanted == hidden_rows::last)
      rms_norm(x.data() + (tokens - 1) * config_.width, 1, config_.width, weights_.norm, config_.norm_epsilon, hidden.data(), compute);
  }

  /// The segments of a run, layer by layer: placed blocks, then the tail's pieces.
  class context_segments {
   public:
    context_segments(std::span<const placed_block> context, std::span<const rope_spec> ropes) : context_(context), rotations_(ropes.size() + 1) {
      angles_.reserve(context.size() * ropes.size());
      for (std::size_t r = 0; r < ropes.size(); ++r)
        for (const placed_block& placed : context) {
          const bool lacks = !placed.rotated && placed.offset != 0;
          angles_.push_back(lacks ? angles_of(ropes[r], static_cast<double>(placed.offset), 1) : rope_angles{});
          rotations_[r].push_back(lacks ? segment_rotation{angles_.back().cosine.data(), angles_.back().sine.data()} : segment_rotation{});
        }
    }

    /// Segments of layer `l`, which has RoPE number `rope`, or none (-1).
    void of_layer(index_t l, index_t rope, const kv_tail& tail, layer_run& run) {
      segments_.clear();
      for (const placed_block& placed : context_)
        segments_.push_back({placed.block->layer(l), placed.rotated || rope < 0 ? 0.0 : static_cast<double>(placed.offset), placed.offset});
      tail.append_segments(l, segments_);
      auto& rotations = rope < 0 ? rotations_.back() : rotations_[static_cast<std::size_t>(rope)];
      rotations.resize(segments_.size());
      run.segments = segments_;
      run.rotations = rotations;
    }

   private:
    std::span<const placed_block> context_;
    std::vector<rope_angles> angles_;
    std::vector<std::vector<segment_rotation>> rotations_;  ///< of each RoPE; the last one is of layers without
    std::vector<kv_segment> segments_;
  };

  /// Progress is counted in tokens: token-layers done by the number of layers.
  void check(const forward_control& control, index_t token_layers, index_t total) const {
    if (control.cancelled && control.cancelled()) throw cancelled_error("[model] cancelled by the caller");
    if (control.progress && !control.progress(token_layers / config_.layers, total)) throw cancelled_error("[model] cancelled by the progress callback");
  }

  void embed(std::span<const token_id> ids, matrix& x, const compute_options& compute) const {
    for (std::size_t t = 0; t < ids.size(); ++t) {
      const weight_view& rows = weights_.embedding;
      if (ids[t] < 0 || ids[t] >= rows.rows) throw argument_error(cat("[model] token ", ids[t], " at ", t, "; allowed: 0 to ", rows.rows - 1));
      compute.kernels->unpack_row(rows, ids[t], x.data() + static_cast<index_t>(t) * config_.width);
    }
    if (config_.embedding_scale != 1) x *= config_.embedding_scale;
  }

  model_config config_;
  model_weights weights_;
  std::vector<layer<Family>> layers_;  ///< point into both
};

}  // namespace blockattn::inline v0
