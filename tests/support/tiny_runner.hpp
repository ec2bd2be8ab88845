// Runs the tiny hashed models in every way and compares them with transformers' logits (tests/golden/families.json).
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "blockattn/io/gguf.hpp"
#include "blockattn/model/families.hpp"
#include "blockattn/ops/key_rotation.hpp"
#include "support/divergence.hpp"
#include "support/hashed_model.hpp"
#include "support/temporary_file.hpp"

namespace blockattn_test {

using namespace blockattn;

struct figures {
  double difference = 0, kl = 0;
  int rows = 0;
  void take(const std::vector<float>& expected, std::span<const float> got) {
    for (std::size_t i = 0; i < expected.size(); ++i) difference = std::max(difference, std::abs(static_cast<double>(expected[i]) - got[i]));
    kl += kl_divergence(expected, got);
    ++rows;
  }
  [[nodiscard]] double mean_kl() const { return kl / rows; }
};

class tiny_runner {
 public:
  tiny_runner(const nlohmann::json& model, const kernel_table& kernels, arithmetic kind) : tiny_runner(model, hashed_model(model), {}, kernels, kind) {}

  /// With a file that was changed, or adapters.
  tiny_runner(const nlohmann::json& model, const gguf_writer& changed, const std::vector<applied_adapter>& adapters, const kernel_table& kernels, arithmetic kind)
      : tiny_runner(model, gguf_file(temporary_file(changed.bytes()).path()), adapters, kernels, kind) {}

  /// From any checkpoint.
  tiny_runner(const nlohmann::json& model, checkpoint file, const std::vector<applied_adapter>& adapters, const kernel_table& kernels, arithmetic kind)
      : model_(model), file_(std::move(file)), decode_(make_decoder(file_, adapters, model.at("load_context").get<index_t>())) {
    compute_.kernels = &kernels;
    compute_.kind = kind;
    const model_config& c = decode_->config();
    layout_ = {c.layers, c.kv_heads, c.head_dim, kind == arithmetic::f32 ? dtype::f32 : dtype::bf16};
    ids_ = family_golden().at("ids").get<std::vector<token_id>>();
    for (const index_t n : family_golden().at("lengths").get<std::vector<index_t>>()) lengths_.push_back(n);
  }

  [[nodiscard]] figures full() const {
    kv_tail tail(layout_);
    return compare(run(std::span(ids_), 0, {}, tail), 0, "full");
  }

  /// One token at a time.
  [[nodiscard]] figures steps() const {
    kv_tail tail(layout_);
    figures sum;
    for (index_t t = 0; t < static_cast<index_t>(ids_.size()); ++t) compare(run(std::span(ids_).subspan(static_cast<std::size_t>(t), 1), t, {}, tail), t, "full", sum);
    return sum;
  }

  /// All blocks but the last on their own at local positions, then the last over them.
  [[nodiscard]] figures block(bool rotate_keys) const {
    std::vector<placed_block> placed;
    figures sum;
    index_t offset = 0;
    for (std::size_t b = 0; b + 1 < lengths_.size(); ++b) {
      const auto ids = std::span(ids_).subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(lengths_[b]));
      kv_tail alone(layout_, lengths_[b]);
      compare(run(ids, 0, {}, alone), offset, "block", sum);
      std::shared_ptr<const kv_block> encoded = alone.finish();
      if (rotate_keys) encoded = moved_layers(*encoded, [&](index_t l) { return rope(l); }, static_cast<double>(offset), *compute_.kernels);
      placed.push_back({encoded, offset, rotate_keys});
      offset += lengths_[b];
    }
    kv_tail tail(layout_);
    compare(run(std::span(ids_).subspan(static_cast<std::size_t>(offset)), offset, placed, tail), offset, "block", sum);
    return sum;
  }

  /// Logits of all tokens in full mode; `steps`: one token at a time.
  [[nodiscard]] std::vector<float> logits(bool steps) const {
    kv_tail tail(layout_);
    if (!steps) return run(ids_, 0, {}, tail);
    std::vector<float> all;
    for (index_t t = 0; t < static_cast<index_t>(ids_.size()); ++t) {
      const auto one = run(std::span(ids_).subspan(static_cast<std::size_t>(t), 1), t, {}, tail);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }

  [[nodiscard]] const model_config& config() const { return decode_->config(); }

 private:
  [[nodiscard]] const rope_spec* rope(index_t l) const {
    const index_t number = config().positions[static_cast<std::size_t>(l)].rope;
    return number < 0 ? nullptr : &config().ropes[static_cast<std::size_t>(number)];
  }

  [[nodiscard]] std::vector<float> run(std::span<const token_id> ids, index_t position, std::span<const placed_block> context, kv_tail& tail) const {
    const matrix hidden = decode_->forward({ids, position, context, hidden_rows::all}, tail, compute_, {});
    std::vector<float> logits(static_cast<std::size_t>(hidden.rows() * config().vocabulary));
    decode_->project(hidden.data(), hidden.rows(), logits.data(), compute_);
    return logits;
  }

  /// Compares those of the rows from `first` on that the oracle's data have.
  void compare(const std::vector<float>& logits, index_t first, const std::string& mode, figures& sum) const {
    const auto rows = family_golden().at(mode + "_rows").get<std::vector<index_t>>();
    const auto size = static_cast<std::size_t>(config().vocabulary);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const auto at = static_cast<std::size_t>(rows[r] - first) * size;
      if (rows[r] < first || at >= logits.size()) continue;
      sum.take(model_.at(mode).at(r).get<std::vector<float>>(), std::span(logits).subspan(at, size));
    }
  }
  [[nodiscard]] figures compare(const std::vector<float>& logits, index_t first, const std::string& mode) const {
    figures sum;
    compare(logits, first, mode, sum);
    return sum;
  }

  const nlohmann::json& model_;
  checkpoint file_;
  std::unique_ptr<const decoder> decode_;
  compute_options compute_;
  kv_layout layout_;
  std::vector<token_id> ids_;
  std::vector<index_t> lengths_;
};

}  // namespace blockattn_test
