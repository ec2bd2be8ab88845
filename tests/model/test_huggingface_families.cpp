// Every family as a folder that transformers' save_pretrained wrote, against transformers in float32; one file or several; quantised at load; adapters over it.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/io/gguf_fingerprint.hpp"
#include "blockattn/io/gguf_write.hpp"
#include "blockattn/io/open_checkpoint.hpp"
#include "blockattn/io/quantize.hpp"
#include "support/hashed_folder.hpp"
#include "support/tiny_runner.hpp"

using namespace blockattn;
using namespace blockattn_test;
using nlohmann::json;

namespace {

checkpoint open_case(const temporary_folder& folder, const json& model, std::size_t shards = 1) {
  write_hashed_folder(folder, model, shards);
  return open_checkpoint(folder.path());
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

std::vector<float> logits_of(const json& model, checkpoint file, const std::vector<applied_adapter>& adapters = {}, bool steps = false) {
  return tiny_runner(model, std::move(file), adapters, kernels(), arithmetic::f32).logits(steps);
}

}  // namespace

TEST_CASE("every family gives transformers' logits from its own folder", "[model][families][safetensors]") {
  for (const json& model : family_golden().at("cases")) {
    const temporary_folder folder;
    const std::string name = model.at("name");
    const tiny_runner tiny(model, open_case(folder, model, name.size() % 3 + 1), {}, kernels(), arithmetic::f32);
    INFO(name);
    const figures all[] = {tiny.full(), tiny.steps(), tiny.block(false), tiny.block(true)};
    figures worst;
    for (const figures& f : all) {
      CHECK(f.rows >= 4);
      CHECK(f.difference < 2e-3);
      CHECK(f.mean_kl() < 1e-5);
      worst.difference = std::max(worst.difference, f.difference);
      worst.kl = std::max(worst.kl, f.mean_kl());
    }
    std::printf("%-20s from its folder: largest difference from transformers %.1e, largest mean KL %.1e\n", name.c_str(), worst.difference, worst.kl);
  }
}

TEST_CASE("a folder's model is described as the GGUF file's is", "[model][families][safetensors]") {
  for (const json& model : family_golden().at("cases")) {
    if (model.at("folder_only").get<bool>()) continue;
    const temporary_folder folder;
    const tiny_runner here(model, open_case(folder, model), {}, kernels(), arithmetic::f32), there(model, kernels(), arithmetic::f32);
    const model_config &a = here.config(), &b = there.config();
    INFO(model.at("name").get<std::string>());
    CHECK(a.positions == b.positions);
    CHECK(a.attention_scale == Approx(b.attention_scale));
    CHECK(a.embedding_scale == b.embedding_scale);
    CHECK(a.context_length >= b.context_length);
    REQUIRE(a.ropes.size() == b.ropes.size());
    for (std::size_t i = 0; i < a.ropes.size(); ++i) {
      CHECK(a.ropes[i].base == b.ropes[i].base);
      CHECK(a.ropes[i].rotated == b.ropes[i].rotated);
      CHECK(a.ropes[i].magnitude == Approx(b.ropes[i].magnitude));
      CHECK(a.ropes[i].divisors == b.ropes[i].divisors);
    }
  }
}

TEST_CASE("it makes no difference to a folder's fingerprint which file holds what", "[model][safetensors]") {
  const json& model = family_case("qwen2");
  const temporary_folder one, three;
  const auto fingerprint = hash_tensors(open_case(one, model));
  CHECK(hash_tensors(open_case(three, model, 3)) == fingerprint);
  safetensors_writer changed = hashed_shard(model);
  changed.entries[3].data[8] = static_cast<char>(changed.entries[3].data[8] ^ 1);
  one.write("model.safetensors", changed.bytes());
  CHECK(hash_tensors(open_checkpoint(one.path())) != fingerprint);
}

TEST_CASE("tensors at odd addresses are copied to even ones", "[model][safetensors]") {
  for (const char* name : {"qwen2", "llama-bf16"}) {
    const json& model = family_case(name);
    const temporary_folder folder;
    write_hashed_folder(folder, model);
    const auto expected = logits_of(model, open_checkpoint(folder.path()));
    safetensors_writer odd = hashed_shard(model);
    odd.padding = 1;
    std::string header = odd.header().dump();
    if (header.size() % 2 == 0) header += ' ';
    folder.write("model.safetensors", odd.bytes(header));
    const checkpoint file = open_checkpoint(folder.path());
    for (const checkpoint_tensor& t : file.tensors()) CHECK(reinterpret_cast<std::uintptr_t>(t.bytes.data()) % static_cast<std::uintptr_t>(block_bytes(t.type)) == 0);
    CHECK(logits_of(model, open_checkpoint(folder.path())) == expected);
  }
}

TEST_CASE("adapters of GGUF files fit a folder, whose rows lie in another order", "[model][families][lora][safetensors]") {
  for (const char* name : {"llama", "mistral", "smollm3", "qwen2", "gemma3", "phi3"}) {
    const json& model = family_case(name);
    const bool fused = std::string(name) == "phi3";
    gguf_writer adapter;
    adapter.string("general.architecture", model.at("architecture").get<std::string>()).string("general.type", "adapter").string("adapter.type", "lora");
    adapter.number("adapter.lora.alpha", 2.0F);
    gguf_writer plain = hashed_model(model);
    for (const std::string& weight : fused ? std::vector<std::string>{"blk.0.attn_qkv.weight"} : std::vector<std::string>{"blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight"}) {
      const auto& whole = plain.tensor(weight);
      adapter.tensor(weight + ".lora_a", {whole.shape[0], 4}, hashed_values(weight + "a", 4 * whole.shape[0], 0.25F, 0));
      adapter.tensor(weight + ".lora_b", {4, whole.shape[1]}, hashed_values(weight + "b", 4 * whole.shape[1], 0.25F, 0));
    }
    const temporary_file on_disk(adapter.bytes());
    const std::vector<applied_adapter> adapters = {{std::make_shared<const lora_adapter>(on_disk.path()), 0.75F}};
    const auto expected = tiny_runner(model, hashed_model(model), adapters, kernels(), arithmetic::f32).logits(false);
    const temporary_folder folder;
    INFO(name);
    CHECK(difference(expected, logits_of(model, open_case(folder, model), adapters)) < 2e-4);
    CHECK(difference(expected, logits_of(model, open_checkpoint(folder.path()), adapters, true)) < 2e-4);
    CHECK(difference(expected, logits_of(model, open_checkpoint(folder.path()))) > 0.02);
  }
}

TEST_CASE("a quantised folder is the quantised GGUF file, in memory and written", "[model][families][safetensors][quantize]") {
  for (const json& model : family_golden().at("cases")) {
    if (model.at("folder_only").get<bool>()) continue;
    const temporary_folder folder;
    const temporary_file same(hashed_model(model).bytes());
    INFO(model.at("name").get<std::string>());
    for (const dtype type : {dtype::q8_0, dtype::q4_0}) {
      const checkpoint quantised = quantize(open_case(folder, model), type);
      for (const checkpoint_tensor& t : quantised.tensors())
        CHECK((t.shape.size() == 1 ? t.type == dtype::f32 : t.shape[0] % 32 != 0 || t.type == type || (t.type == dtype::q8_0 && (t.name == "output.weight" || t.name == "token_embd.weight"))));
      const checkpoint expected = quantize(gguf_file(same.path()), type);
      if (!model.at("huggingface").at("minus_one").get<bool>())  // w - 1 + 1 isn't always w
        for (const checkpoint_tensor& t : expected.tensors()) {
          const checkpoint_tensor* found = quantised.find_tensor(t.name);
          REQUIRE(found != nullptr);
          if (t.name.starts_with("rope_f")) continue;
          CHECK((found->type == t.type && std::equal(t.bytes.begin(), t.bytes.end(), found->bytes.begin(), found->bytes.end())));
        }
      const auto path = folder.path() / "written.gguf";
      write_gguf(quantised, path);
      const gguf_file written(path);
      CHECK(hash_tensors(written) == hash_tensors(quantised));
      CHECK(logits_of(model, gguf_file(path)) == logits_of(model, quantize(open_checkpoint(folder.path()), type)));
      if (type == dtype::q8_0) CHECK(difference(logits_of(model, gguf_file(path)), logits_of(model, open_checkpoint(folder.path()))) < 1);  // of logits that reach 40
    }
  }
}
