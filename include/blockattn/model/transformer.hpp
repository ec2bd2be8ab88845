// A decoder of one family: embedding, layers, norm, output head. Knows blocks of keys and values, and nothing of caches or text.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/candidates.hpp"
#include "blockattn/io/checkpoint.hpp"
#include "blockattn/model/config.hpp"
#include "blockattn/model/forward.hpp"
#include "blockattn/model/layer.hpp"
#include "blockattn/model/run_batch.hpp"

namespace blockattn::inline v0 {

/// What the run-time model needs of any transformer. Immutable; used by any number of threads, each with tails of its own.
class decoder {
 public:
  virtual ~decoder() = default;
  [[nodiscard]] virtual const model_config& config() const = 0;
  /// Runs each request's ids and appends their keys and values to its tail. Returns the hidden states after the last norm, [rows, D] of each run.
  /// With compute.batched, a run's bits don't depend on the other runs. If it throws (argument_error: unknown token; cancelled_error, std::bad_alloc), the
  /// tails of runs that aren't finished are as they were.
  virtual std::vector<matrix> forward(std::span<const forward_run> runs, const compute_options& compute, const forward_control& control) const = 0;
  /// Logits [rows, V] of hidden states [rows, D].
  virtual void project(const float* hidden, index_t rows, float* logits, const compute_options& compute) const = 0;

  /// The highest logits of one hidden state [D], in order, or nullopt where project() and a look at all of them is the way.
  [[nodiscard]] virtual std::optional<std::vector<token_candidate>> highest(const float* /*hidden*/, const candidate_request& /*request*/) const { return std::nullopt; }

  /// Where keys and values of this decoder lie: nullptr is the host's memory.
  [[nodiscard]] virtual kv_memory* memory() const { return nullptr; }

  /// The same for one run.
  [[nodiscard]] matrix forward(const forward_request& request, kv_tail& tail, const compute_options& compute, const forward_control& control) const {
    const std::array runs = {forward_run{request, &tail}};
    return std::move(forward(runs, compute, control)[0]);
  }
};

template <model_family Family>
class transformer final : public decoder {
 public:
  /// Reads shapes and weights from the file, which must outlive this object; `context` as for read_config(). Throws format_error for missing or misshapen tensors,
  /// and for adapters of another base model.
  explicit transformer(const checkpoint& file, std::vector<applied_adapter> adapters = {}, index_t context = 0)
      : config_(read_config(file, Family::facts, context)), weights_(read_weights(file, config_, Family::facts, std::move(adapters))) {
    config_.vocabulary = weights_.embedding.rows;
    for (index_t l = 0; l < config_.layers; ++l) layers_.emplace_back(config_, weights_.layers[static_cast<std::size_t>(l)], l);
  }
  transformer(const transformer&) = delete;
  transformer& operator=(const transformer&) = delete;

  [[nodiscard]] const model_config& config() const override { return config_; }

  using decoder::forward;
  std::vector<matrix> forward(std::span<const forward_run> runs, const compute_options& compute, const forward_control& control) const override {
    std::vector<matrix> hidden;
    std::vector<index_t> kept;
    index_t total = 0;
    for (const forward_run& run : runs) {
      check_ids(run.request.ids);
      const auto tokens = static_cast<index_t>(run.request.ids.size());
      const hidden_rows rows = run.request.rows;
      hidden.emplace_back(rows == hidden_rows::all ? tokens : (rows == hidden_rows::last && tokens > 0 ? 1 : 0), config_.width);
      kept.push_back(run.tail->tokens());
      total += tokens;
    }
    try {
      with_team([&] { forward_batches(runs, total, compute, control, hidden); });
    } catch (...) {
      for (std::size_t r = 0; r < runs.size(); ++r) runs[r].tail->truncate(kept[r]);
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
  void forward_batches(std::span<const forward_run> runs, index_t total, const compute_options& compute, const forward_control& control,
                       std::vector<matrix>& hidden) const {
    const auto batches = detail::batches_of(runs);
    index_t most = 0;
    for (const auto& pieces : batches) most = std::max(most, detail::rows_of(pieces));
    layer_workspace workspace(config_, most);
    matrix x(most, config_.width);
    for (const forward_run& run : runs)
      if (run.request.places.empty()) run.tail->reserve(static_cast<index_t>(run.request.ids.size()));
    index_t done = 0;
    for (const auto& pieces : batches) {
      detail::run_batch batch(runs, pieces, config_.ropes);
      const index_t tokens = batch.rows();
      embed(runs, batch, x, compute);
      forward_layers(runs, batch, x, workspace, compute, control.layers > 0 ? control.layers : config_.layers, [&](index_t l) { check(control, done * config_.layers + l * tokens, total); });
      done += tokens;
      check(control, done * config_.layers, total);
      finish(runs, batch, x, hidden, compute);
      for (const detail::run_piece& p : pieces)
        if (p.last && control.finished) control.finished(p.run);
    }
  }

  /// The first `layers` layers; in the last one, what no one asked for is left out.
  template <class Check>
  void forward_layers(std::span<const forward_run> runs, detail::run_batch& batch, matrix& x, layer_workspace& workspace, const compute_options& compute,
                      index_t layers, const Check& check_layer) const {
    for (index_t l = 0; l < layers; ++l) {
      check_layer(l);
      const layer<Family>& layer = layers_[static_cast<std::size_t>(l)];
      const index_t rope = config_.positions[static_cast<std::size_t>(l)].rope;
      layer.project(x.data(), batch.of_layer(l, rope, compute), workspace);
      if (l + 1 == layers) batch.keep_wanted(runs, x, workspace.query);
      if (batch.rows() > 0) layer.mix(matrix_map(x.data(), batch.rows(), config_.width), batch.of_layer(l, rope, compute), workspace);
    }
  }

  /// The norm of the last layer's rows, to where they belong in `hidden`.
  void finish(std::span<const forward_run> runs, const detail::run_batch& batch, const matrix& x, std::vector<matrix>& hidden, const compute_options& compute) const {
    for (std::size_t i = 0; i < batch.pieces().size(); ++i) {
      const detail::run_piece& piece = batch.pieces()[i];
      const layer_part& part = batch.part(i);
      const index_t to = runs[piece.run].request.rows == hidden_rows::all ? piece.first : 0;
      if (part.tokens > 0)
        rms_norm(x.data() + part.row * config_.width, part.tokens, config_.width, weights_.norm, config_.norm_epsilon,
                 hidden[piece.run].data() + to * config_.width, compute);
    }
  }

  /// Progress is counted in tokens: token-layers done by the number of layers.
  void check(const forward_control& control, index_t token_layers, index_t total) const {
    if (control.cancelled && control.cancelled()) throw cancelled_error("[model] cancelled by the caller");
    if (control.progress && !control.progress(token_layers / config_.layers, total)) throw cancelled_error("[model] cancelled by the progress callback");
  }

  void check_ids(std::span<const token_id> ids) const {
    for (std::size_t t = 0; t < ids.size(); ++t)
      if (ids[t] < 0 || ids[t] >= weights_.embedding.rows)
        throw argument_error(cat("[model] token ", ids[t], " at ", t, "; allowed: 0 to ", weights_.embedding.rows - 1));
  }

  void embed(std::span<const forward_run> runs, const detail::run_batch& batch, matrix& x, const compute_options& compute) const {
    float* to = x.data();
    for (const detail::run_piece& p : batch.pieces())
      for (index_t t = p.first; t < p.first + p.tokens; ++t, to += config_.width)
        compute.kernels->unpack_row(weights_.embedding, runs[p.run].request.ids[static_cast<std::size_t>(t)], to);
    if (config_.embedding_scale != 1) x.topRows(batch.rows()) *= config_.embedding_scale;
  }

  model_config config_;
  model_weights weights_;
  std::vector<layer<Family>> layers_;  ///< point into both
};

}  // namespace blockattn::inline v0
