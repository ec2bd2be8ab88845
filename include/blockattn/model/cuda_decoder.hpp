// A decoder whose weights, keys and values lie on a GPU. Included where BLOCKATTN_CUDA is defined; links to blockattn::cuda.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "blockattn/cuda/engine.hpp"
#include "blockattn/model/cuda_network.hpp"
#include "blockattn/model/transformer.hpp"
#include "blockattn/ops/attention.hpp"

namespace blockattn::inline v0 {

class cuda_decoder final : public decoder {
 public:
  /// As transformer's constructor, and uploads the weights; throws cuda_error too. The file isn't needed afterwards.
  template <model_family Family>
  cuda_decoder(Family, const checkpoint& file, std::vector<applied_adapter> adapters, index_t context, const cuda::engine_options& options)
      : config_(read_config(file, Family::facts, context)) {
    const model_weights weights = read_weights(file, config_, Family::facts, std::move(adapters));
    config_.vocabulary = weights.embedding.rows;
    for (const layer_weights& w : weights.layers)
      for (const linear_weight* m : {&w.query, &w.key, &w.value, &w.output, &w.feed_forward.gate, &w.feed_forward.up, &w.feed_forward.down})
        token_operations_ += 2 * m->base.rows * m->base.columns;
    if (!weights.layers.empty()) {
      const layer_weights& w = weights.layers.back();
      for (const linear_weight* m : {&w.output, &w.feed_forward.gate, &w.feed_forward.up, &w.feed_forward.down}) last_operations_ += 2 * m->base.rows * m->base.columns;
    }
    engine_ = std::make_shared<cuda::engine>(describe_network(config_, weights, Family::facts).facts, options);
  }

  [[nodiscard]] const model_config& config() const override { return config_; }
  [[nodiscard]] kv_memory* memory() const override { return engine_.get(); }
  [[nodiscard]] cuda::engine& engine() const { return *engine_; }

  using decoder::forward;
  /// One run after the other: on a GPU, a block of a passage's size fills the device. compute's kernels play no role; operations are counted by it as on the CPU,
  /// but for those of adapters, which are merged.
  std::vector<matrix> forward(std::span<const forward_run> runs, const compute_options& compute, const forward_control& control) const override {
    std::vector<matrix> hidden;
    index_t total = 0, done = 0;
    for (const forward_run& run : runs) {
      check_ids(run.request.ids);
      total += static_cast<index_t>(run.request.ids.size());
    }
    for (std::size_t r = 0; r < runs.size(); ++r) {
      const index_t kept = runs[r].tail->tokens();
      try {
        hidden.push_back(forward_one(runs[r], compute, control, done, total));
      } catch (...) {
        runs[r].tail->truncate(kept);
        throw;
      }
      if (control.finished) control.finished(r);
    }
    return hidden;
  }

  void project(const float* hidden, index_t rows, float* logits, const compute_options& compute) const override {
    compute.count(2 * rows * config_.vocabulary * config_.width);
    engine_->project(hidden, rows, logits);
  }

  [[nodiscard]] std::optional<std::vector<token_candidate>> highest(const float* hidden, const candidate_request& request) const override {
    if (request.count < 1 || request.count > cuda::engine::most_candidates) return std::nullopt;
    return engine_->highest(hidden, request);
  }

 private:
  static constexpr index_t chunk = 4096;  ///< tokens between two looks at the caller's cancellation

  matrix forward_one(const forward_run& run, const compute_options& compute, const forward_control& control, index_t& done, index_t total) const {
    const forward_request& request = run.request;
    const auto tokens = static_cast<index_t>(request.ids.size());
    if (run.tail->memory() == nullptr) throw argument_error("[cuda] a tail in host memory; make it with model::make_tail()");
    matrix hidden(request.rows == hidden_rows::all ? tokens : (request.rows == hidden_rows::last && tokens > 0 ? 1 : 0), config_.width);
    const bool replaces = !request.places.empty();
    if (!replaces) run.tail->reserve(tokens);
    for (index_t first = 0, count = 0; first < tokens; first += count) {
      check(control, done, total);
      count = std::min(chunk, tokens - first);
      if (replaces) count = neighbours(request.places.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
      const index_t rows = request.rows == hidden_rows::all ? count : (first + count == tokens ? hidden.rows() : 0);
      const index_t tail_first = replaces ? request.position_of(first) : run.tail->tokens();
      if (!replaces) run.tail->append(count, request.position + first);
      const std::vector<cuda::segment> segments = segments_of(run);
      cuda::forward_run part;
      part.ids = request.ids.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
      part.position = request.position_of(first);
      part.segments = segments;
      part.tail = run.tail->data(), part.tail_stride = run.tail->capacity(), part.tail_first = tail_first;
      part.rows = rows;
      if (!request.rotations.empty()) part.rotations = request.rotations.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
      if (compute.operations != nullptr) compute.count(count * token_operations_ - (count - rows) * last_operations_ + attention_operations(part));
      engine_->forward(part, hidden.data() + (request.rows == hidden_rows::all ? first * config_.width : 0));
      done += count;
    }
    check(control, done, total);
    return hidden;
  }

  /// How many of the first places follow each other.
  [[nodiscard]] static index_t neighbours(std::span<const index_t> places) {
    std::size_t count = 1;
    while (count < places.size() && places[count] == places[count - 1] + 1) ++count;
    return static_cast<index_t>(count);
  }

  /// Those of all layers: one count a window.
  [[nodiscard]] index_t attention_operations(const cuda::forward_run& run) const {
    std::vector<kv_segment> segments;
    for (const cuda::segment& s : run.segments) segments.push_back({{nullptr, nullptr, s.tokens, s.stride, {}}, s.rotation, s.position});
    std::map<index_t, index_t> of_window;
    const auto of_last = [&](index_t tokens, index_t window) {
      attention_rule rule;
      rule.window = window;
      const auto all = static_cast<index_t>(run.ids.size());
      return detail::attention_operations(tokens, run.position + all - tokens, {config_.heads, config_.kv_heads, config_.head_dim}, rule, segments);
    };
    index_t sum = 0;
    for (std::size_t l = 0; l + 1 < config_.positions.size(); ++l) {
      const auto [at, is_new] = of_window.try_emplace(config_.positions[l].window, 0);
      if (is_new) at->second = of_last(static_cast<index_t>(run.ids.size()), config_.positions[l].window);
      sum += at->second;
    }
    return sum + of_last(run.rows, config_.positions.back().window);  // the last layer goes on with the rows that are wanted
  }

  /// The placed blocks, then the tail's pieces.
  static std::vector<cuda::segment> segments_of(const forward_run& run) {
    std::vector<cuda::segment> segments;
    for (const placed_block& b : run.request.context) {
      if (b.block->memory() == nullptr) throw argument_error("[cuda] a block in host memory can't be attended to on a GPU; encode it with this model");
      segments.push_back({b.block->data(), b.block->tokens(), b.first, b.seen(), b.lacks(), b.offset, b.scaling});
    }
    run.tail->for_each_piece([&](index_t first, index_t count, index_t position) {
      segments.push_back({run.tail->data(), run.tail->capacity(), first, count, 0, position});
    });
    return segments;
  }

  static void check(const forward_control& control, index_t done, index_t total) {
    if (control.cancelled && control.cancelled()) throw cancelled_error("[model] cancelled by the caller");
    if (control.progress && !control.progress(done, total)) throw cancelled_error("[model] cancelled by the progress callback");
  }

  void check_ids(std::span<const token_id> ids) const {
    for (std::size_t t = 0; t < ids.size(); ++t)
      if (ids[t] < 0 || ids[t] >= config_.vocabulary)
        throw argument_error(cat("[model] token ", ids[t], " at ", t, "; allowed: 0 to ", config_.vocabulary - 1));
  }

  model_config config_;
  index_t token_operations_ = 0;  ///< of the layers' matrices
  index_t last_operations_ = 0;   ///< of those of the last layer that only wanted rows go through
  std::shared_ptr<cuda::engine> engine_;
};

}  // namespace blockattn::inline v0
