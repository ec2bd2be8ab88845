// Folders with safetensors files: what is taken from them, and what is refused and named.
#include <catch2/catch.hpp>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "blockattn/io/open_checkpoint.hpp"
#include "support/hashed_folder.hpp"

using namespace blockattn;
using namespace blockattn_test;
using nlohmann::json;

namespace {

std::string refused(const temporary_folder& folder) {
  try {
    (void)open_checkpoint(folder.path());
  } catch (const error& e) {
    CHECK_THAT(e.what(), Catch::StartsWith("[safetensors] ") || Catch::StartsWith("[file] "));
    return e.what();
  }
  FAIL("the folder was accepted");
  return {};
}

/// What a folder with another config.json gives.
std::string refused_config(const std::string& name, const std::function<void(json&)>& change) {
  const json& model = family_case(name);
  const temporary_folder folder;
  write_hashed_folder(folder, model);
  json config = model.at("huggingface").at("config");
  change(config);
  folder.write("config.json", config.dump());
  return refused(folder);
}

std::string refused_config(const std::string& name, const std::string& key, const json& value) {
  return refused_config(name, [&](json& config) { config[key] = value; });
}

/// What a folder with another model.safetensors gives.
std::string refused_weights(const std::string& name, const std::function<void(safetensors_writer&)>& change) {
  const temporary_folder folder;
  write_hashed_folder(folder, family_case(name));
  safetensors_writer weights = hashed_shard(family_case(name));
  change(weights);
  folder.write("model.safetensors", weights.bytes());
  return refused(folder);
}

}  // namespace

TEST_CASE("huggingface: a folder is read as the GGUF file of the same model would be", "[safetensors]") {
  const temporary_folder folder;
  write_hashed_folder(folder, family_case("gemma3"), 2);
  folder.write("tokenizer.json", R"({"version": "1.0"})");
  folder.write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": {"content": "<bos>"}, "eos_token": "<eos>", "chat_template": "{{ messages }}"})");
  folder.write("generation_config.json", R"({"bos_token_id": 2, "eos_token_id": [1, 106]})");
  const checkpoint file = open_checkpoint(folder.path());
  CHECK(file.format() == "safetensors");
  CHECK(file.string("general.architecture") == "gemma3");
  CHECK(file.string("general.name") == folder.path().filename().string());
  CHECK(file.number<index_t>("gemma3.block_count") == 7);
  CHECK(file.number<index_t>("gemma3.vocab_size") == 64);
  CHECK(file.numbers<int>("gemma3.attention.sliding_window_pattern") == std::vector<int>{1, 1, 1, 1, 1, 0, 1});
  CHECK(file.number<double>("gemma3.attention.scale") == 1.0 / 16);
  CHECK(file.number<float>("gemma3.rope.freq_base") == 1e6F);
  CHECK(file.number<float>("gemma3.rope.freq_base_swa") == 1e4F);
  CHECK(file.string("tokenizer.huggingface.json") == R"({"version": "1.0"})");
  CHECK(file.string("tokenizer.chat_template") == "{{ messages }}");
  CHECK(file.number<bool>("tokenizer.ggml.add_bos_token") == true);
  CHECK(file.number<int>("tokenizer.ggml.bos_token_id") == 2);
  CHECK(file.number<int>("tokenizer.ggml.eos_token_id") == 1);
  CHECK(file.numbers<int>("tokenizer.ggml.eos_token_ids") == std::vector<int>{1, 106});
  CHECK(file.string("tokenizer.huggingface.bos_token") == "<bos>");
  CHECK(file.tensors().size() == family_case("gemma3").at("tensors").size());
  CHECK(file.find_tensor("blk.6.ffn_norm.weight") != nullptr);
  CHECK(file.find_tensor("blk.0.attn_k_norm.weight")->shape == std::vector<index_t>{256});
  CHECK(file.find_tensor("blk.0.attn_k.weight")->shape == std::vector<index_t>{64, 256});
  folder.write("chat_template.jinja", "from the file");
  CHECK(open_checkpoint(folder.path()).string("tokenizer.chat_template") == "from the file");
}

TEST_CASE("huggingface: version 5's rope_parameters mean what rope_scaling and rope_theta do", "[safetensors]") {
  const temporary_folder folder;
  json config = family_case("gemma3-linear").at("huggingface").at("config");
  write_hashed_folder(folder, family_case("gemma3-linear"));
  const checkpoint before = open_checkpoint(folder.path());
  for (const char* key : {"rope_scaling", "rope_theta", "rope_local_base_freq"}) config.erase(key);
  config["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1000000.0}}},
                               {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 10000.0}}}};
  folder.write("config.json", config.dump());
  const checkpoint after = open_checkpoint(folder.path());
  for (const auto& [key, value] : before.metadata()) {
    INFO(key);
    REQUIRE(after.has(key));
    const auto there = after.metadata().find(key)->second.bytes;
    CHECK(std::equal(value.bytes.begin(), value.bytes.end(), there.begin(), there.end()));
  }
}

TEST_CASE("huggingface: the text part of a model of images and text", "[safetensors]") {
  const json& model = family_case("gemma3");
  const temporary_folder folder;
  json text = model.at("huggingface").at("config");
  folder.write("config.json", json{{"model_type", "gemma3"}, {"text_config", text}, {"vision_config", {{"hidden_size", 8}}}}.dump());
  safetensors_writer weights = hashed_shard(model);
  for (auto& e : weights.entries) e.name = "language_model." + e.name;
  weights.tensor("vision_tower.layers.0.weight", {2, 2}, {1, 2, 3, 4}).tensor("multi_modal_projector.weight", {1}, {1});
  folder.write("model.safetensors", weights.bytes());
  CHECK(open_checkpoint(folder.path()).tensors().size() == model.at("tensors").size());
}

TEST_CASE("huggingface: a folder of an unknown kind can be looked at", "[safetensors]") {
  const temporary_folder folder;
  folder.write("config.json", R"({"model_type": "mamba", "hidden_size": 8})");
  folder.write("model.safetensors", safetensors_writer().tensor("backbone.A_log", {2, 3}, {1, 2, 3, 4, 5, 6}).bytes());
  const checkpoint file = open_checkpoint(folder.path());
  CHECK(file.string("general.architecture") == "mamba");
  CHECK(file.find_tensor("backbone.A_log")->shape == std::vector<index_t>{3, 2});
}

TEST_CASE("huggingface hostile: missing and broken files are named", "[safetensors][hostile]") {
  const temporary_folder folder;
  CHECK_THAT(refused(folder), Catch::Contains("no config.json"));
  folder.write("config.json", family_case("llama").at("huggingface").at("config").dump());
  CHECK_THAT(refused(folder), Catch::Contains("neither model.safetensors nor model.safetensors.index.json"));
  folder.write("model.safetensors", hashed_shard(family_case("llama")).bytes().substr(0, 5000));
  CHECK_THAT(refused(folder), Catch::Contains("Truncated download?") && Catch::Contains("model.safetensors"));
  folder.write("model.safetensors", "");
  CHECK_THAT(refused(folder), Catch::Contains("empty"));
  folder.write("model.safetensors", hashed_shard(family_case("llama")).bytes());
  CHECK(open_checkpoint(folder.path()).tensors().size() > 10);
  folder.write("config.json", "{\"model_type\": ");
  CHECK_THAT(refused(folder), Catch::Contains("config.json") && Catch::Contains("byte 15"));
  folder.write("config.json", "{}");
  CHECK_THAT(refused(folder), Catch::Contains("model_type"));
  folder.write("config.json", "[]");
  CHECK_THAT(refused(folder), Catch::Contains("expected an object"));
}

TEST_CASE("huggingface hostile: an index that lies", "[safetensors][hostile]") {
  const temporary_folder folder;
  const json& model = family_case("llama");
  const auto with_index = [&](const std::function<void(json&)>& change) {
    write_hashed_folder(folder, model, 2);
    json index = json::parse(std::ifstream(folder.path() / "model.safetensors.index.json"));
    change(index["weight_map"]);
    folder.write("model.safetensors.index.json", index.dump());
    return refused(folder);
  };
  for (const char* path : {"../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "pytorch_model.bin", "..\\x.safetensors"})
    CHECK_THAT(with_index([&](json& map) { map["model.norm.weight"] = path; }), Catch::Contains("model.norm.weight") && Catch::Contains("allowed: a file of this folder"));
  CHECK_THAT(with_index([](json& map) { map["model.norm.weight"] = std::string("a\0.safetensors", 14); }), Catch::Contains("a\\x00.safetensors"));
  CHECK_THAT(with_index([](json& map) { map["model.norm.weight"] = "other.safetensors"; }), Catch::Contains("is missing") || Catch::Contains("doesn't say"));
  CHECK_THAT(with_index([](json& map) { map["model.more.weight"] = map["model.norm.weight"]; }), Catch::Contains("lacks the tensor 'model.more.weight'"));
  CHECK_THAT(with_index([](json& map) { map.erase("model.norm.weight"); }), Catch::Contains("has the tensor 'model.norm.weight'") && Catch::Contains("doesn't say"));
  CHECK_THAT(with_index([](json& map) { map["model.norm.weight"] = 7; }), Catch::Contains("expected a string"));
  CHECK_THAT(with_index([](json& map) { map = "x"; }), Catch::Contains("'weight_map' is a string"));
  write_hashed_folder(folder, model, 2);
  std::filesystem::remove(folder.path() / "model-00002-of-00002.safetensors");
  CHECK_THAT(refused(folder), Catch::Contains("'model-00002-of-00002.safetensors'") && Catch::Contains("is missing"));
}

TEST_CASE("huggingface hostile: configurations that can't be", "[safetensors][hostile]") {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    CHECK_THAT(refused_config("llama", [&](json& c) { c.erase(key); }), Catch::Contains(cat("lacks '", key, "'")));
    CHECK_THAT(refused_config("llama", key, "many"), Catch::Contains(cat("'", key, "' is a string; expected a number")));
    CHECK_THAT(refused_config("llama", key, -1), Catch::Contains(" -1"));
    CHECK_THAT(refused_config("llama", key, 1e30), Catch::Contains("1e+30"));
  }
  CHECK_THAT(refused_config("llama", "num_attention_heads", 0), Catch::Contains("'num_attention_heads' is 0"));
  CHECK_THAT(refused_config("llama", "hidden_act", "gelu"), Catch::Contains("'gelu'; supported for llama: silu"));
  CHECK_THAT(refused_config("gemma2", "hidden_activation", "relu"), Catch::Contains("supported for gemma2: gelu_pytorch_tanh"));
  CHECK_THAT(refused_config("llama", "quantization_config", {{"bits", 4}}), Catch::Contains("quantised in a way that isn't supported"));
  CHECK_THAT(refused_config("llama", "rope_scaling", {{"rope_type", "warp"}, {"factor", 2.0}}), Catch::Contains("'warp'; supported: default, linear, llama3, yarn, longrope, dynamic"));
  CHECK_THAT(refused_config("llama", "rope_scaling", {{"rope_type", "llama3"}, {"factor", 2.0}}), Catch::Contains("lacks 'low_freq_factor'"));
  CHECK_THAT(refused_config("llama", "rope_scaling", {{"rope_type", "llama3"}, {"factor", 0.0}, {"low_freq_factor", 1}, {"high_freq_factor", 1}, {"original_max_position_embeddings", 8}}),
             Catch::Contains("0 < low < high"));
  CHECK_THAT(refused_config("llama", "rope_scaling", {{"rope_type", "linear"}}), Catch::Contains("lacks 'factor'"));
  CHECK_THAT(refused_config("llama", "rope_scaling", "linear"), Catch::Contains("expected an object"));
  CHECK_THAT(refused_config("qwen2-yarn", "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"truncate", false}}), Catch::Contains("'truncate' is false"));
  CHECK_THAT(refused_config("phi3-longrope-short", "rope_scaling", {{"type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}}),
             Catch::Contains("'short_factor' has 1 numbers; expected one for each of 4"));
  CHECK_THAT(refused_config("phi3", "partial_rotary_factor", 1.5), Catch::Contains("'partial_rotary_factor' is 1.5"));
  CHECK_THAT(refused_config("gemma3", "layer_types", {"sliding_attention"}), Catch::Contains("has 1 values; expected one for each of 7 layers"));
  CHECK_THAT(refused_config("gemma3", "layer_types", json::array_t(7, "linear_attention")), Catch::Contains("'linear_attention'; supported"));
  CHECK_THAT(refused_config("gemma2", "query_pre_attn_scalar", 0), Catch::Contains("query_pre_attn_scalar"));
  CHECK_THAT(refused_config("smollm3", "no_rope_layers", {1, 0}), Catch::Contains("expected one for each of 4 layers"));
  CHECK_THAT(refused_config("llama", "tie_word_embeddings", "yes"), Catch::Contains("expected true or false"));
}

TEST_CASE("huggingface hostile: tensors that don't belong, are missing, doubled or of another type", "[safetensors][hostile]") {
  CHECK_THAT(refused_weights("llama", [](auto& w) { w.tensor("model.layers.0.self_attn.sinks", {4}, {1, 2, 3, 4}); }), Catch::Contains("'model.layers.0.self_attn.sinks' isn't part of a model 'llama'"));
  CHECK_THAT(refused_weights("llama", [](auto& w) { std::erase_if(w.entries, [](const auto& e) { return e.name == "lm_head.weight"; }); }),
             Catch::Contains("'lm_head.weight' is missing") && Catch::Contains("tie_word_embeddings"));
  CHECK_THAT(refused_weights("llama", [](auto& w) { w.tensor("norm.weight", {64}, std::vector<float>(64)); }), Catch::Contains("'model.norm.weight'") && Catch::Contains("are the same one"));
  CHECK_THAT(refused_weights("llama", [](auto& w) { w.entries[0].type = "I32"; }), Catch::Contains("has dtype I32; supported: F32, F16, BF16"));
  CHECK_THAT(refused_weights("llama", [](auto& w) { w.entries[0].shape = {}, w.entries[0].data.resize(4); }), Catch::Contains("has shape []"));
  const temporary_folder folder;  // what a tied model's file says of its head isn't read, as in transformers; nor is what follows from the configuration
  write_hashed_folder(folder, family_case("qwen2"));
  folder.write("model.safetensors", hashed_shard(family_case("qwen2")).tensor("lm_head.weight", {1}, {0}).tensor("model.layers.0.self_attn.rotary_emb.inv_freq", {2}, {1, 2}).bytes());
  CHECK(open_checkpoint(folder.path()).find_tensor("output.weight") == nullptr);
}

TEST_CASE("huggingface hostile: 3,000 mutated configurations give an error or a checkpoint", "[safetensors][hostile]") {
  const std::vector<std::string> names = {"llama-llama3", "gemma3", "phi3-longrope-long", "smollm3-layers", "qwen2-window"};
  std::mt19937 random(3);
  const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % end); };
  const temporary_folder folder;
  int refusals = 0;
  for (const std::string& name : names) {
    write_hashed_folder(folder, family_case(name));
    const std::string whole = family_case(name).at("huggingface").at("config").dump();
    for (int round = 0; round < 600; ++round) {
      std::string text = whole;
      for (std::size_t change = 1 + below(3); change > 0; --change) {
        const std::size_t at = text.find_first_of("0123456789", below(text.size()));
        if (at == std::string::npos) continue;
        const std::string values[] = {"-1", "0", "1e18", "4294967296", "null", "\"x\"", "[]", "0.5", "99999999999999999999"};
        text.replace(at, 1, below(3) == 0 ? std::to_string(below(10)) : values[below(9)]);
      }
      folder.write("config.json", text);
      try {
        (void)open_checkpoint(folder.path());
      } catch (const error&) {
        ++refusals;
      }
    }
  }
  CHECK(refusals > 500);
  CHECK(refusals < 3000);
}
