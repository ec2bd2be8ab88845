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

#include "support/hashed_model.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_runner.hpp"

using namespace blockattn;
using blockattn_test::family_case;
using blockattn_test::family_golden;
using blockattn_test::gguf_writer;
using blockattn_test::hashed_values;
using blockattn_test::hashed_model;
using blockattn_test::figures;
using blockattn_test::temporary_file;
using blockattn_test::tiny_runner;
using nlohmann::json;

namespace {

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
      if (!supports(level) || model.at("folder_only").get<bool>()) continue;
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
