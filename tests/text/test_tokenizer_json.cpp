// tokenizer.json: against Hugging Face's `tokenizers` on small tokenizers of many shapes, and files that are damaged or hostile.
#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "blockattn/text/stream_decoder.hpp"
#include "blockattn/text/tokenizer.hpp"
#include "support/data_path.hpp"
#include "support/temporary_file.hpp"

using blockattn::token_id;
using blockattn::tokenizer;
using Catch::Matchers::Contains;
using json = nlohmann::json;
using ids = std::vector<token_id>;

namespace {

tokenizer read(const json& file, const std::string& config = "", const std::string& generation = "", blockattn::index_t size = 0) {
  const std::string text = file.dump();
  return tokenizer::from_json({text, config, generation, "t.json"}, size);
}

/// Characters a to d, a merge, a control token.
json small() {
  return json::parse(R"({"added_tokens": [{"id": 5, "content": "<s>", "special": true, "normalized": false}],
    "normalizer": null, "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"},
    "decoder": {"type": "Fuse"}, "post_processor": null,
    "model": {"type": "BPE", "unk_token": "d", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "d": 4}, "merges": [["a", "b"]]}})");
}

void check_refused(const json& file, const std::string& reason) {
  CHECK_THROWS_AS(read(file), blockattn::format_error);
  CHECK_THROWS_WITH(read(file), Contains(reason));
}

}  // namespace

TEST_CASE("tokenizer.json files of many shapes give what tokenizers gives", "[text][tokenizer][json]") {
  std::ifstream in(blockattn_test::golden_path("tokenizer_json.jsonl"));
  int count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const json row = json::parse(line);
    const tokenizer t = read(row["tokenizer"]);
    for (const json& one : row["cases"]) {
      INFO(row["name"] << ": " << one[0]);
      const ids got = t.encode(one[0].get<std::string>());
      CHECK(got == one[1].get<ids>());
      CHECK(blockattn::to_valid_utf8(t.decode(got, true)).text == one[2].get<std::string>());
      blockattn::stream_decoder stream(t);
      std::string streamed;
      for (const token_id id : got) streamed += stream.push(id);
      CHECK(streamed + stream.finish() == blockattn::to_valid_utf8(t.decode(got)).text);
    }
  }
  CHECK(count == 12);
}

TEST_CASE("what is added to a text and what ends an answer", "[text][tokenizer][json]") {
  json file = small();
  CHECK_FALSE(read(file).adds_bos());
  CHECK(read(file, R"({"bos_token": "<s>", "add_bos_token": true})").adds_bos());
  CHECK(read(file, R"({"bos_token": {"content": "<s>"}, "eos_token": "c"})").eos() == 2);
  CHECK_FALSE(read(file, R"({"bos_token": "<s>", "add_bos_token": true, "tokenizer_class": "PreTrainedTokenizerFast"})").adds_bos());
  file["post_processor"] = json::parse(R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]})");
  const tokenizer t = read(file, R"({"eos_token": "c"})", R"({"eos_token_id": [0, 1]})", 9);
  CHECK(t.adds_bos());
  CHECK_FALSE(t.adds_eos());
  CHECK(t.bos() == 5);
  CHECK(t.vocab_size() == 9);  // the rows of the embedding that have no token
  CHECK(t.is_control(8));
  CHECK(t.decode(ids{3, 7, 0}) == "aba");
  for (token_id id = 0; id < 9; ++id) CHECK(t.ends_generation(id) == (id <= 2));
  CHECK(t.encode("abz<s>") == ids{3, 4, 5});
  CHECK(t.encode("<s>", false) == ids{4, 4, 4});  // content has no control tokens
  CHECK_THROWS_WITH(read(file, "", "", 5), Contains("6 tokens, the model 5 rows"));
}

TEST_CASE("a folder is read with the files beside tokenizer.json", "[text][tokenizer][json]") {
  const blockattn_test::temporary_file place("x");
  const std::filesystem::path folder = place.path().string() + ".folder";
  std::filesystem::create_directory(folder);
  std::ofstream(folder / "tokenizer.json") << small().dump();
  std::ofstream(folder / "tokenizer_config.json") << R"({"eos_token": "c"})";
  CHECK(tokenizer::from_json(folder).eos() == 2);
  CHECK(tokenizer::from_json(folder / "tokenizer.json").eos() == 2);
  std::filesystem::remove_all(folder);
  CHECK_THROWS_AS(tokenizer::from_json(folder), blockattn::io_error);
}

TEST_CASE("what isn't supported is refused by name", "[text][tokenizer][json][hostile]") {
  const auto with = [](const char* section, const char* value) {
    json file = small();
    file[section] = json::parse(value);
    return file;
  };
  json file = small();
  file["model"]["type"] = "WordPiece";
  check_refused(file, "'WordPiece'; supported: BPE, Unigram");
  check_refused(with("normalizer", R"({"type": "BertNormalizer"})"), "'BertNormalizer'; supported: NFC");
  check_refused(with("pre_tokenizer", R"({"type": "UnicodeScripts"})"), "'UnicodeScripts'; supported: ByteLevel");
  check_refused(with("pre_tokenizer", R"({"type": "WhitespaceSplit"})"), "without Metaspace");
  check_refused(with("pre_tokenizer", R"({"type": "Metaspace", "replacement": "_"})"), "is '_'; supported: U+2581");
  check_refused(with("decoder", R"({"type": "WordPiece"})"), "'WordPiece'; supported: ByteLevel");
  check_refused(with("decoder", "null"), "has no decoder");
  check_refused(with("decoder", R"({"type": "ByteLevel"})"), "must be in both or in none");
  check_refused(with("post_processor", R"({"type": "Magic"})"), "'Magic'");
  check_refused(with("post_processor", R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "nobody"}}]})"), "'nobody', which the vocabulary lacks");
  check_refused(with("normalizer", R"({"type": "Replace", "pattern": {"String": ""}, "content": "x"})"), "replaces the empty text");
  check_refused(with("normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "!"})"), "isn't base64");
  check_refused(with("normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "AAAA"})"), "charsmap is damaged");
  check_refused(with("normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="})"), "charsmap is damaged");
  for (const char* pattern : {"(", "[a[b]]", "[a&&b]", "(?<=a*)b"})
    check_refused(with("pre_tokenizer", json{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}}.dump().c_str()), "can't be used");
}

TEST_CASE("vocabularies and merges that can't be", "[text][tokenizer][json][hostile]") {
  json file = small();
  file["model"]["vocab"]["e"] = 2;
  check_refused(file, "which 'c' has already");
  for (const json& id : {json(-1), json(1 << 30), json(1e300), json(1.5), json("x"), json(nullptr)}) {
    file = small();
    file["model"]["vocab"]["e"] = id;
    CHECK_THROWS_AS(read(file), blockattn::format_error);
  }
  file = small();
  file["model"]["vocab"] = json::object();
  check_refused(file, "is empty");
  for (const char* merge : {R"(["a", "c"])", R"(["a", "zz"])", R"(["zz", "b"])", R"("ab")", R"(["a"])", R"(["", "b"])", R"(["a", "b"])", "7"}) {
    file = small();
    file["model"]["merges"].push_back(json::parse(merge));
    CHECK_THROWS_AS(read(file), blockattn::format_error);
  }
  file = small();
  file["added_tokens"][0]["id"] = 1;
  check_refused(file, "belongs to 'b', not to '<s>'");
  file = small();
  file["model"] = json::parse(R"({"type": "Unigram", "unk_id": 7, "vocab": [["a", -1.0], ["b", -2.0]]})");
  file["added_tokens"] = json::array();
  check_refused(file, "is 7; allowed: 0 to 1");
  file["model"]["unk_id"] = 0;
  file["model"]["vocab"][1][1] = 1e200;
  check_refused(file, "allowed: finite numbers");
}

TEST_CASE("text that is no JSON, or nested without end", "[text][tokenizer][json][hostile]") {
  for (const std::string& text : {std::string("{"), std::string("[]"), std::string("{\"model\": 5}"), std::string("\xFF"), std::string(100'000, '['),
                                  "{\"model\":" + std::string(5000, '[') + std::string(5000, ']') + "}"})
    CHECK_THROWS_AS(tokenizer::from_json({text, "", "", "t.json"}), blockattn::format_error);
}

TEST_CASE("a pattern that runs away fails in bounded time", "[text][tokenizer][json][hostile]") {
  json file = small();
  file["pre_tokenizer"] = json::parse(R"x({"type": "Split", "pattern": {"Regex": "(?:a+)+[bx]"}, "behavior": "Isolated"})x");
  const tokenizer t = read(file);
  CHECK_THROWS_AS(t.encode(std::string(80, 'a') + "c"), blockattn::error);
  CHECK(t.encode("ab") == ids{3});
}
