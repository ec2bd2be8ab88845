// Quantising a checkpoint, writing it as a GGUF file, and looking for weights that can't be.
#include <catch2/catch.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "blockattn/io/check_weights.hpp"
#include "blockattn/io/gguf_fingerprint.hpp"
#include "blockattn/io/open_checkpoint.hpp"
#include "support/gguf_writer.hpp"
#include "support/safetensors_writer.hpp"
#include "support/temporary_folder.hpp"

using namespace blockattn;
using blockattn_test::gguf_writer;
using blockattn_test::temporary_folder;

namespace {

std::vector<float> ramp(std::size_t count) {
  std::vector<float> values;
  for (std::size_t i = 0; i < count; ++i) values.push_back(std::sin(static_cast<float>(i)));
  return values;
}

gguf_writer small() {
  gguf_writer w;
  w.string("general.architecture", "llama").number("split.count", std::uint16_t{1}).number("general.alignment", std::uint32_t{64}).strings("words", {"a", "", "bc"});
  w.alignment = 64;
  w.tensor("token_embd.weight", {64, 3}, ramp(192)).tensor("output_norm.weight", {5}, ramp(5)).tensor("output.weight", {64, 3}, ramp(192)).tensor("blk.0.odd.weight", {24, 2}, ramp(48));
  w.tensor({"blk.0.half.weight", 1, {32, 1}, std::string(64, '\0')}).tensor({"blk.0.done.weight", 3, {32, 2}, std::string(40, '\1')});
  return w;
}

std::string content(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::size_t files_in(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator{}));
}

}  // namespace

TEST_CASE("quantize: each tensor gets the type that is documented", "[quantize]") {
  const temporary_folder folder;
  const checkpoint from = open_checkpoint(folder.write("small.gguf", small().bytes()));
  const checkpoint four = quantize(from, dtype::q4_0), eight = quantize(from, dtype::q8_0);
  const auto type = [](const checkpoint& c, const char* name) { return c.find_tensor(name)->type; };
  CHECK(type(four, "token_embd.weight") == dtype::q4_0);
  CHECK(type(four, "output.weight") == dtype::q8_0);
  CHECK(type(four, "blk.0.half.weight") == dtype::q4_0);
  CHECK(type(four, "output_norm.weight") == dtype::f32);
  CHECK(type(four, "blk.0.odd.weight") == dtype::f32);
  CHECK(type(four, "blk.0.done.weight") == dtype::q4_1);
  CHECK(type(eight, "token_embd.weight") == dtype::q8_0);
  CHECK(four.number<int>("general.file_type") == 2);
  CHECK(eight.number<int>("general.file_type") == 7);
  CHECK(eight.strings("words") == std::vector<std::string_view>{"a", "", "bc"});
  CHECK(hash_tensors(four) != hash_tensors(eight));
  // A row of the result is the row encoded.
  std::vector<std::byte> row(68);
  REQUIRE(encode_row(dtype::q8_0, ramp(192).data() + 64, 64, row.data()));
  CHECK(std::equal(row.begin(), row.end(), eight.find_tensor("token_embd.weight")->bytes.begin() + 68));
}

TEST_CASE("quantize: what can't be quantised is refused and named", "[quantize][hostile]") {
  const temporary_folder folder;
  const checkpoint from = open_checkpoint(folder.write("small.gguf", small().bytes()));
  CHECK_THROWS_WITH(quantize(from, dtype::q6_k), Catch::Contains("q6_k") && Catch::Contains("supported: q8_0, q4_0"));
  CHECK_THROWS_AS(quantize(quantize(from, dtype::q8_0), dtype::q4_0), argument_error);
  gguf_writer bad = small();
  auto values = ramp(192);
  values[100] = std::numeric_limits<float>::quiet_NaN();
  bad.tensor("output.weight").data = std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  CHECK_THROWS_WITH(quantize(open_checkpoint(folder.write("bad.gguf", bad.bytes())), dtype::q8_0), Catch::Contains("'output.weight'") && Catch::Contains("not numbers"));
  int calls = 0;
  CHECK_THROWS_AS(quantize(from, dtype::q8_0, [&](std::int64_t, std::int64_t) { return ++calls < 3; }), cancelled_error);
  CHECK(calls == 3);
}

TEST_CASE("quantize: the written file holds what memory held, and appears whole or not at all", "[quantize]") {
  const temporary_folder folder;
  const auto path = folder.path() / "out.gguf";
  const auto source = folder.write("small.gguf", small().bytes());
  const checkpoint quantised = quantize(open_checkpoint(source), dtype::q8_0);
  const checkpoint written = open_quantized(source, dtype::q8_0, path);
  CHECK(hash_tensors(written) == hash_tensors(quantised));
  CHECK(written.version() == 3);
  CHECK_FALSE(written.has("split.count"));
  CHECK_FALSE(written.has("general.alignment"));
  for (const auto& [key, value] : written.metadata()) {
    const auto& there = quantised.metadata().find(key)->second;
    CHECK((there.type == value.type && there.element == value.element && there.count == value.count && std::equal(value.bytes.begin(), value.bytes.end(), there.bytes.begin(), there.bytes.end())));
  }
  const std::string before = content(path);
  CHECK_THROWS_AS(write_gguf(quantised, path, [](std::int64_t, std::int64_t) { return false; }), cancelled_error);
  CHECK(content(path) == before);
  CHECK(files_in(folder.path()) == 2);
  CHECK_THROWS_WITH(write_gguf(quantised, folder.path() / "none" / "out.gguf"), Catch::Contains("can't make a file") && Catch::Contains("none/out.gguf"));
  write_gguf(quantised, path);  // over the one that is there
  CHECK(content(path) == before);
}

TEST_CASE("check_weights: the first value that isn't finite is named with its place", "[quantize][hostile]") {
  const temporary_folder folder;
  check_weights(open_checkpoint(folder.write("small.gguf", small().bytes())));
  gguf_writer infinite = small();
  const float value = -std::numeric_limits<float>::infinity();
  infinite.tensor("blk.0.odd.weight").data.replace(4 * 25, 4, reinterpret_cast<const char*>(&value), 4);
  CHECK_THROWS_WITH(check_weights(open_checkpoint(folder.write("a.gguf", infinite.bytes()))), Catch::Contains("'blk.0.odd.weight' (f32)") && Catch::Contains("-inf at row 1, column 1"));
  gguf_writer scale = small();
  scale.tensor("blk.0.done.weight").data[21] = '\x7e';  // the second block's scale: not a number
  CHECK_THROWS_WITH(check_weights(open_checkpoint(folder.write("b.gguf", scale.bytes()))), Catch::Contains("'blk.0.done.weight' (q4_1)") && Catch::Contains("row 1, column 0"));
  CHECK_THROWS_AS(check_weights(open_checkpoint(folder.path() / "small.gguf"), [](std::int64_t, std::int64_t) { return false; }), cancelled_error);
}

namespace {

using nlohmann::json;

/// A folder of a llama of one layer with this tokenizer.json, quantised.
checkpoint quantised_with(const temporary_folder& folder, const json& tokenizer) {
  folder.write("config.json", R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 6,)"
                              R"( "tie_word_embeddings": true, "bos_token_id": 4})");
  folder.write("model.safetensors", blockattn_test::safetensors_writer().tensor("model.embed_tokens.weight", {6, 32}, ramp(192)).bytes());
  folder.write("tokenizer.json", tokenizer.dump());
  return quantize(open_checkpoint(folder.path()), dtype::q8_0);
}

json bpe(const json& pre_tokenizer) {
  return {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", json::array({json::array({"a", "b"})})}}},
          {"added_tokens", {{{"id", 4}, {"content", "<s>"}, {"special", true}}, {{"id", 3}, {"content", "\t\t"}, {"special", false}}}},
          {"pre_tokenizer", pre_tokenizer}};
}

const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}, bytes_only = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};

json split(const std::string& digits) {
  const std::string regex = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})" + digits + R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  return {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}}, bytes_only}}};
}

}  // namespace

TEST_CASE("quantize: a folder's vocabulary goes along as GGUF files have it", "[quantize][safetensors]") {
  const temporary_folder folder;
  const checkpoint c = quantised_with(folder, bpe(split("{1,3}")));
  CHECK(c.string("tokenizer.ggml.model") == "gpt2");
  CHECK(c.string("tokenizer.ggml.pre") == "llama-bpe");
  CHECK(c.strings("tokenizer.ggml.tokens") == std::vector<std::string_view>{"a", "b", "ab", "\t\t", "<s>", "[PAD5]"});
  CHECK(c.numbers<int>("tokenizer.ggml.token_type") == std::vector<int>{1, 1, 1, 4, 3, 5});
  CHECK(c.strings("tokenizer.ggml.merges") == std::vector<std::string_view>{"a b"});
  CHECK(c.number<int>("tokenizer.ggml.bos_token_id") == 4);
  CHECK(c.has("tokenizer.huggingface.json"));
  CHECK(quantised_with(folder, bpe(split(""))).string("tokenizer.ggml.pre") == "qwen2");
  CHECK(quantised_with(folder, bpe(byte_level)).string("tokenizer.ggml.pre") == "gpt-2");
  json old = bpe({{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, byte_level}}});
  old["model"]["merges"] = json::array({"a b"});
  CHECK(quantised_with(folder, old).string("tokenizer.ggml.pre") == "smollm");
  CHECK(quantised_with(folder, old).strings("tokenizer.ggml.merges") == std::vector<std::string_view>{"a b"});
  for (const json& other : {bpe(split("{1,4}")), bpe(bytes_only), bpe({{"type", "Whitespace"}}), bpe(nullptr)}) CHECK_FALSE(quantised_with(folder, other).has("tokenizer.ggml.model"));
  json absurd = bpe(byte_level);
  absurd["model"]["vocab"]["x"] = 1LL << 40;
  CHECK_FALSE(quantised_with(folder, absurd).has("tokenizer.ggml.model"));
  absurd["model"] = "BPE";
  CHECK_THROWS_AS(quantised_with(folder, absurd), format_error);
}
