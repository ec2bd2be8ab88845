// The command on Hugging Face folders: the same model as a GGUF file gives the same ids and the same logits.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command_runner.hpp"
#include "support/hashed_folder.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_vocabulary.hpp"

using namespace blockattn_test;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

/// The tiny vocabulary as the tokenizer.json of a folder.
json tokenizer_json(const tiny_vocabulary& vocabulary) {
  json added = json::array(), vocab = json::object(), merges = json::array();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    vocab[vocabulary.tokens[id]] = id;
    if (vocabulary.types[id] == 3)
      added.push_back({{"id", id}, {"content", vocabulary.tokens[id]}, {"special", true}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}});
  }
  for (const std::string& m : vocabulary.merges) merges.push_back(m);
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {digits, bytes}}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

/// One tiny model, as a file and as a folder, and a prompt.
struct both_ways {
  temporary_folder folder;
  json description;
  std::string file;

  explicit both_ways(const std::string& name) : description(family_case(name)) {
    const tiny_vocabulary vocabulary;
    for (json& t : description["tensors"])
      if (t[0] == "token_embd.weight" || t[0] == "output.weight") t[1][1] = vocabulary.tokens.size();
    description["huggingface"]["config"]["vocab_size"] = vocabulary.tokens.size();
    gguf_writer gguf = hashed_model(description);
    vocabulary.write(gguf);
    file = folder.write("model.gguf", gguf.bytes()).string();
    std::filesystem::create_directory(folder.path() / "folder");
    const temporary_folder parts;
    write_hashed_folder(parts, description, 2);
    for (const auto& entry : std::filesystem::directory_iterator(parts.path())) std::filesystem::copy(entry.path(), folder.path() / "folder");
    folder.write("folder/tokenizer.json", tokenizer_json(vocabulary).dump());
    folder.write("folder/tokenizer_config.json",
                 R"({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": false, "tokenizer_class": "GPT2Tokenizer"})");
    folder.write("prompt.json", R"({"blocks": ["the hand in the sand. ", "and then 42 of them ", "in the end"]})");
  }

  [[nodiscard]] std::string path(const std::string& name) const { return (folder.path() / name).string(); }

  [[nodiscard]] json run(const std::string& model, std::vector<float>& logits, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"run", "-m", model, "--blocks", path("prompt.json"), "--json", "-n", "4", "--precision", "exact", "--logits", path("logits")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const command_result result = run_command(arguments);
    INFO(result.error);
    REQUIRE(result.status == 0);
    const std::string bytes = blockattn_test::detail::content(path("logits"));
    logits.resize(bytes.size() / sizeof(float));
    std::memcpy(logits.data(), bytes.data(), bytes.size());
    return json::parse(result.out);
  }
};

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

}  // namespace

TEST_CASE("run on a folder is run on the same model's GGUF file", "[app][folders]") {
  for (const char* name : {"llama", "qwen2", "gemma3", "phi3"}) {
    const both_ways model(name);
    INFO(name);
    std::vector<float> of_file, of_folder;
    const json from_file = model.run(model.file, of_file), from_folder = model.run(model.path("folder"), of_folder);
    CHECK(difference(of_file, of_folder) < 2e-4);
    CHECK(from_folder.at("token_ids") == from_file.at("token_ids"));
    CHECK(from_folder.at("prompt_tokens") == from_file.at("prompt_tokens"));
  }
}

TEST_CASE("a folder quantised at load, saved, and the saved file give the same answer", "[app][folders]") {
  const both_ways model("llama");
  std::vector<float> at_load, saved;
  (void)model.run(model.path("folder"), at_load, {"--quantize", "q8_0", "--save-quantized", model.path("q8.gguf")});
  (void)model.run(model.path("q8.gguf"), saved);
  CHECK(at_load == saved);
}

TEST_CASE("tokenize and inspect take a folder", "[app][folders]") {
  const both_ways model("llama");
  const std::string text = "\"the hand 42\"\n\"<|im_start|>and\"\n";
  const command_result here = run_command({"tokenize", "-m", model.path("folder"), "--jsonl"}, text), there = run_command({"tokenize", "-m", model.file, "--jsonl"}, text);
  CHECK(here.status == 0);
  CHECK(here.out == there.out);
  CHECK(std::count(here.out.begin(), here.out.end(), '\n') == 2);
  const command_result shown = run_command({"inspect", model.path("folder"), "--json"});
  REQUIRE(shown.status == 0);
  CHECK(json::parse(shown.out).dump().find("token_embd.weight") != std::string::npos);
}

TEST_CASE("a folder that lacks a file says which", "[app][folders]") {
  const both_ways model("llama");
  const auto without = [&](const std::string& name) {
    std::filesystem::remove(model.folder.path() / "folder" / name);
    return run_command({"run", "-m", model.path("folder"), "--blocks", model.path("prompt.json")});
  };
  command_result result = without("tokenizer.json");
  CHECK(result.status == 1);
  CHECK_THAT(result.error, Contains("tokenizer"));
  result = without("model-00002-of-00002.safetensors");
  CHECK(result.status == 1);
  CHECK_THAT(result.error, Contains("model-00002-of-00002.safetensors"));
  result = without("config.json");
  CHECK(result.status == 1);
  CHECK_THAT(result.error, Contains("config.json"));
}
