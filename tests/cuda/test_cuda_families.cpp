// Every family, tiny and with hashed weights, on a GPU against transformers in float32: full mode, token by token, and block mode with rotated queries and keys.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "blockattn/model/families.hpp"
#include "support/divergence.hpp"
#include "support/gpu.hpp"
#include "support/hashed_model.hpp"
#include "support/temporary_file.hpp"

using namespace blockattn;
using blockattn_test::family_golden;
using nlohmann::json;

namespace {

struct figures {
  double difference = 0, kl = 0;
  int rows = 0;
  [[nodiscard]] double mean_kl() const { return kl / rows; }
};

class gpu_runner {
 public:
  gpu_runner(const json& model, arithmetic kind, kv_types kv) : model_(model), bytes_(blockattn_test::hashed_model(model).bytes()), file_(bytes_.path()) {
    decode_ = make_cuda_decoder(file_, {}, model.at("load_context").get<index_t>(), {0, kind, kv});
    const model_config& c = decode_->config();
    layout_ = {c.layers, c.kv_heads, c.head_dim, kv};
    ids_ = family_golden().at("ids").get<std::vector<token_id>>();
    lengths_ = family_golden().at("lengths").get<std::vector<index_t>>();
  }

  [[nodiscard]] figures full() const {
    kv_tail tail(layout_, 0, decode_->memory());
    figures sum;
    compare(run(ids_, 0, {}, tail), 0, "full", sum);
    return sum;
  }
  [[nodiscard]] figures steps() const {
    kv_tail tail(layout_, 0, decode_->memory());
    figures sum;
    for (index_t t = 0; t < static_cast<index_t>(ids_.size()); ++t) compare(run(std::span(ids_).subspan(static_cast<std::size_t>(t), 1), t, {}, tail), t, "full", sum);
    return sum;
  }
  [[nodiscard]] figures block() const {
    std::vector<placed_block> placed;
    figures sum;
    index_t offset = 0;
    for (std::size_t b = 0; b + 1 < lengths_.size(); ++b) {
      kv_tail alone(layout_, lengths_[b], decode_->memory());
      compare(run(std::span(ids_).subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(lengths_[b])), 0, {}, alone), offset, "block", sum);
      placed.push_back({alone.finish(), offset});
      offset += lengths_[b];
    }
    kv_tail tail(layout_, 0, decode_->memory());
    compare(run(std::span(ids_).subspan(static_cast<std::size_t>(offset)), offset, placed, tail), offset, "block", sum);
    return sum;
  }
  [[nodiscard]] index_t head_dim() const { return layout_.head_dim; }

 private:
  [[nodiscard]] std::vector<float> run(std::span<const token_id> ids, index_t position, std::span<const placed_block> context, kv_tail& tail) const {
    const matrix hidden = decode_->forward({ids, position, context, hidden_rows::all}, tail, {}, {});
    std::vector<float> logits(static_cast<std::size_t>(hidden.rows() * decode_->config().vocabulary));
    decode_->project(hidden.data(), hidden.rows(), logits.data(), {});
    return logits;
  }
  void compare(const std::vector<float>& logits, index_t first, const std::string& mode, figures& sum) const {
    const auto rows = family_golden().at(mode + "_rows").get<std::vector<index_t>>();
    const auto size = static_cast<std::size_t>(decode_->config().vocabulary);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const auto at = static_cast<std::size_t>(rows[r] - first) * size;
      if (rows[r] < first || at >= logits.size()) continue;
      const auto expected = model_.at(mode).at(r).get<std::vector<float>>();
      const auto got = std::span(logits).subspan(at, size);
      for (std::size_t i = 0; i < size; ++i) sum.difference = std::max(sum.difference, std::abs(static_cast<double>(expected[i]) - got[i]));
      sum.kl += blockattn_test::kl_divergence(expected, got);
      ++sum.rows;
    }
  }

  const json& model_;
  blockattn_test::temporary_file bytes_;
  gguf_file file_;
  std::unique_ptr<const decoder> decode_;
  kv_layout layout_;
  std::vector<token_id> ids_;
  std::vector<index_t> lengths_;
};

}  // namespace

TEST_CASE("Families on a GPU in float32: transformers' logits") {
  if (!blockattn_test::have_gpu()) return;
  for (const json& each : family_golden().at("cases")) {
    if (each.at("folder_only").get<bool>()) continue;
    INFO(each.at("name"));
    const gpu_runner gpu(each, arithmetic::f32, dtype::f32);
    for (const figures& f : {gpu.full(), gpu.steps(), gpu.block()}) {
      CHECK(f.rows > 0);
      CHECK(f.difference < 2e-3);
      CHECK(f.mean_kl() < 1e-8);
    }
  }
}

TEST_CASE("Families on a GPU in bfloat16, every KV type") {
  if (!blockattn_test::have_gpu()) return;
  for (const json& each : family_golden().at("cases")) {
    if (each.at("folder_only").get<bool>()) continue;
    for (const kv_types kv : {kv_types(dtype::bf16), kv_types(dtype::f16), kv_types(dtype::q8_0), kv_types(dtype::bf16, dtype::q8_0)}) {
      INFO(each.at("name") << ' ' << to_string(kv));
      const index_t head_dim = each.at("metadata").value("attention.key_length", index_t{16});
      if (head_dim % 32 != 0 && kv.values == dtype::q8_0) continue;
      const gpu_runner gpu(each, arithmetic::fast, kv);
      for (const figures& f : {gpu.full(), gpu.steps(), gpu.block()}) CHECK(f.mean_kl() < 1.5e-3);
    }
  }
}
