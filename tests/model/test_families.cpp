// Every family, tiny and with hashed weights, against transformers in float32: full mode, block mode with rotated queries and with rotated keys, and token by
// token; at every level of kernels. Data: scripts/golden/make_family_golden.py.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "blockattn/model/families.hpp"
#include "blockattn/ops/key_rotation.hpp"
#include "support/divergence.hpp"
#include "support/hashed_model.hpp"
#include "support/temporary_file.hpp"

using namespace blockattn;
using blockattn_test::family_case;
using blockattn_test::family_golden;
using blockattn_test::gguf_writer;
using blockattn_test::hashed_values;
using blockattn_test::hashed_model;
using blockattn_test::temporary_file;
using nlohmann::json;

namespace {

struct figures {
  double difference = 0, kl = 0;
  int rows = 0;
  void take(const std::vector<float>& expected, std::span<const float> got) {
    for (std::size_t i = 0; i < expected.size(); ++i) difference = std::max(difference, std::abs(static_cast<double>(expected[i]) - got[i]));
    kl += blockattn_test::kl_divergence(expected, got);
    ++rows;
  }
  [[nodiscard]] double mean_kl() const { return kl / rows; }
};

class tiny_runner {
 public:
  tiny_runner(const json& model, const kernel_table& kernels, arithmetic kind) : tiny_runner(model, hashed_model(model), {}, kernels, kind) {}

  /// With a file that was changed, or adapters.
  tiny_runner(const json& model, const gguf_writer& changed, const std::vector<applied_adapter>& adapters, const kernel_table& kernels, arithmetic kind)
      : model_(model), bytes_(changed.bytes()), file_(bytes_.path()), decode_(make_decoder(file_, adapters, model.at("load_context").get<index_t>())) {
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

  const json& model_;
  temporary_file bytes_;
  gguf_file file_;
  std::unique_ptr<const decoder> decode_;
  compute_options compute_;
  kv_layout layout_;
  std::vector<token_id> ids_;
  std::vector<index_t> lengths_;
};

void check(const std::string& what, const figures& f, int rows, bool exact) {
  INFO(what << ": largest difference " << f.difference << ", mean KL " << f.mean_kl());
  CHECK(f.rows == rows);
  CHECK(f.difference < (exact ? 2e-3 : 0.5));
  CHECK(f.mean_kl() < (exact ? 1e-5 : 5e-3));
}

/// An adapter of rank 4 with hashed values over the named weights of a case, and W += scale * alpha / r * B * A into `merged`.
gguf_writer adapter_of(const json& model, const std::vector<std::string>& names, const std::string& salt, float scale, gguf_writer& merged) {
  constexpr std::size_t rank = 4;
  constexpr float alpha = 2;
  gguf_writer out;
  out.string("general.architecture", model.at("architecture").get<std::string>()).string("general.type", "adapter").string("adapter.type", "lora");
  out.number("adapter.lora.alpha", alpha);
  for (const std::string& name : names) {
    auto& whole = merged.tensor(name);
    const std::size_t columns = whole.shape[0], rows = whole.shape[1];
    const auto a = hashed_values(salt + name + "a", rank * columns, 0.25F, 0), b = hashed_values(salt + name + "b", rows * rank, 0.25F, 0);
    out.tensor(name + ".lora_a", {columns, rank}, a).tensor(name + ".lora_b", {rank, rows}, b);
    std::vector<float> values(rows * columns);
    std::memcpy(values.data(), whole.data.data(), whole.data.size());
    for (std::size_t n = 0; n < rows; ++n)
      for (std::size_t k = 0; k < columns; ++k) {
        double change = 0;
        for (std::size_t r = 0; r < rank; ++r) change += static_cast<double>(b[n * rank + r]) * a[r * columns + k];
        values[n * columns + k] += static_cast<float>(change * scale * alpha / static_cast<double>(rank));
      }
    std::memcpy(whole.data.data(), values.data(), whole.data.size());
  }
  return out;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

}  // namespace

TEST_CASE("adapters are merged weights in every family, fused matrices and biases included", "[model][families][lora]") {
  const std::map<std::string, std::vector<std::string>> changes = {
      {"phi3", {"blk.0.attn_qkv.weight", "blk.0.ffn_up.weight", "blk.1.ffn_down.weight"}},
      {"qwen2", {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.1.attn_v.weight"}},
      {"qwen3", {"blk.0.attn_q.weight", "blk.1.attn_output.weight"}},
      {"gemma3", {"blk.0.attn_k.weight", "blk.5.attn_q.weight", "blk.6.ffn_gate.weight"}},
      {"olmo2", {"blk.0.attn_q.weight", "blk.1.attn_output.weight", "output.weight"}}};
  for (const auto& [name, weights] : changes) {
    const json& model = family_case(name);
    gguf_writer merged = hashed_model(model);
    const temporary_file first(adapter_of(model, weights, "first", 0.75F, merged).bytes());
    const temporary_file second(adapter_of(model, {weights[0]}, "second", -1.5F, merged).bytes());
    const std::vector<applied_adapter> adapters = {{std::make_shared<const lora_adapter>(first.path()), 0.75F}, {std::make_shared<const lora_adapter>(second.path()), -1.5F}};
    const tiny_runner adapted(model, hashed_model(model), adapters, kernels(), arithmetic::f32);
    const auto expected = tiny_runner(model, merged, {}, kernels(), arithmetic::f32).logits(false);
    INFO(name);
    CHECK(difference(expected, adapted.logits(false)) < 2e-4);
    CHECK(difference(expected, adapted.logits(true)) < 2e-4);
    CHECK(difference(expected, tiny_runner(model, kernels(), arithmetic::f32).logits(false)) > 0.05);
  }
}

TEST_CASE("every family gives transformers' logits", "[model][families]") {
  figures worst;
  for (const json& model : family_golden().at("cases"))
    for (const isa level : all_isas) {
      if (!supports(level)) continue;
      for (const arithmetic kind : {arithmetic::f32, arithmetic::fast}) {
        const tiny_runner tiny(model, kernels_of(level), kind);
        const bool exact = kind == arithmetic::f32;
        INFO(model.at("name").get<std::string>() << " at " << name(level) << (exact ? " exact" : " fast"));
        const figures all[] = {tiny.full(), tiny.steps(), tiny.block(false), tiny.block(true)};
        check("full", all[0], 4, exact);
        check("steps", all[1], 4, exact);
        check("block, queries rotated", all[2], 5, exact);
        check("block, keys rotated", all[3], 5, exact);
        if (exact && level == best_isa())
          for (const figures& f : all) {
            worst.difference = std::max(worst.difference, f.difference);
            worst.kl = std::max(worst.kl, f.mean_kl());
          }
      }
    }
  std::printf("families, exact: largest difference from transformers %.2e, largest mean KL %.2e\n", worst.difference, worst.kl);
}

TEST_CASE("what tells the families apart is noticed by the comparison", "[model][families]") {
  const auto differs = [](const std::string& name, const std::string& key, const json& value) {
    json model = family_case(name);
    model["metadata"][key] = value;
    INFO(name << " with " << key << " = " << value);
    CHECK(tiny_runner(model, kernels(), arithmetic::f32).full().difference > 5e-3);
  };
  differs("mistral", "attention.sliding_window", 13);
  differs("gemma2", "attn_logit_softcapping", 50.0);
  differs("gemma2", "final_logit_softcapping", 0.0);
  differs("gemma2", "attention.sliding_window_pattern", 0);
  differs("gemma3", "rope.freq_base_swa", 1000000.0);
  differs("gemma3", "attention.sliding_window", 0);
  differs("phi3", "rope.dimension_count", 16);
  differs("qwen2-yarn", "rope.scaling.type", "none");
  differs("llama-linear", "rope.scaling.factor", 2.0);
}

TEST_CASE("keys and values of models that compute differently have different descriptions", "[model][families]") {
  const auto described = [](const json& model) { return describe(tiny_runner(model, kernels(), arithmetic::f32).config()); };
  for (const auto& [key, value] : std::vector<std::pair<std::string, json>>{{"attention.sliding_window", 8}, {"rope.freq_base_swa", 20000.0}, {"rope.freq_base", 20000.0},
                                                                            {"attention.scale", 0.5}, {"attn_logit_softcapping", 9.0}, {"rope.dimension_count", 128}}) {
    json changed = family_case("gemma3");
    changed["metadata"][key] = value;
    INFO(key);
    CHECK(described(changed) != described(family_case("gemma3")));
  }
}

TEST_CASE("a RoPE that changes with length is kept to one form, and says so", "[model][families]") {
  json model = family_case("phi3-longrope-long");
  CHECK(tiny_runner(model, kernels(), arithmetic::f32).config().context_length == 256);
  model["load_context"] = 0;
  const model_config short_form = tiny_runner(model, kernels(), arithmetic::f32).config();
  CHECK(short_form.context_length == 32);
  CHECK_THAT(short_form.rope_limit, Catch::Contains("longrope") && Catch::Contains("32") && Catch::Contains("context"));
  json dynamic = family_case("llama");
  dynamic["metadata"]["rope.scaling.type"] = "dynamic";
  const tiny_runner plain(dynamic, kernels(), arithmetic::f32);
  CHECK_THAT(plain.config().rope_limit, Catch::Contains("dynamic") && Catch::Contains("256"));
  check("dynamic within its context", plain.full(), 4, true);
}
