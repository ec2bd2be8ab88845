// The tokenizer: against Hugging Face's on the default model's vocabulary, and its laws.
#include <catch2/catch.hpp>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "blockattn/text/tokenizer.hpp"
#include "support/data_path.hpp"
#include "support/model_path.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_vocabulary.hpp"

using blockattn::text_block;
using blockattn::token_id;
using ids = std::vector<token_id>;

namespace {

const blockattn::tokenizer& smollm2() {
  static const auto result =
      blockattn::tokenizer::from_gguf(blockattn::gguf_file(blockattn_test::model_path()));  // outlives its file
  return result;
}

blockattn::tokenizer open(const blockattn_test::gguf_writer& file) {
  const blockattn_test::temporary_file written(file.bytes());
  return blockattn::tokenizer::from_gguf(blockattn::gguf_file(written.path()));
}

/// Without the bytes that SmolLM2 has no token for.
std::string encodable(std::string text) {
  text.erase(std::remove_if(text.begin(), text.end(),
                            [](char c) {
                              return std::string_view("\x04\x06\x13\x14\x16\x1D\xF1\xF2").find(c) !=
                                     std::string_view::npos;
                            }),
             text.end());
  return text;
}

ids bytes_of(std::string_view text) {
  ids result;
  for (const char c : text) result.push_back(blockattn_test::tiny_vocabulary::byte_id(static_cast<unsigned char>(c)));
  return result;
}

}  // namespace

TEST_CASE("token ids are those of the reference implementation", "[text][tokenizer][model]") {
  std::ifstream in(blockattn_test::golden_path("tokenizer_smollm2.jsonl"));
  int cases = 0;
  for (std::string line; std::getline(in, line); ++cases) {
    const auto row = nlohmann::json::parse(line);
    const auto text = row["text"].get<std::string>();
    INFO(line);
    const ids got = smollm2().encode(text);
    CHECK(got == row["ids"].get<ids>());
    CHECK(smollm2().decode(got, true) == encodable(text));
  }
  CHECK(cases > 200);
}

TEST_CASE("the default model's special tokens", "[text][tokenizer][model]") {
  const auto& t = smollm2();
  CHECK(t.vocab_size() == 49152);
  CHECK(t.bos() == 1);
  CHECK(t.eos() == 2);
  CHECK_FALSE(t.adds_bos());
  CHECK(t.find("<|im_end|>") == 2);
  CHECK(t.find(" the").has_value());
  CHECK(t.bytes(*t.find(" the")) == " the");
  CHECK_FALSE(t.find("no such token").has_value());
  CHECK_FALSE(t.find("").has_value());
  CHECK_FALSE(t.find("<|im_end|>x").has_value());
  for (token_id id = 0; id < t.vocab_size(); ++id) {
    CHECK(t.is_control(id) == (id < 17));
    CHECK(t.ends_generation(id) == (id == 0 || id == 2));
    if (t.find(t.bytes(id)) != id) FAIL_CHECK("token " << id << " isn't found by its bytes");
  }
  CHECK_THROWS_AS(t.bytes(-1), blockattn::argument_error);
  CHECK_THROWS_AS(t.is_control(49152), blockattn::argument_error);
  CHECK_THROWS_AS(t.ends_generation(49152), blockattn::argument_error);
  CHECK_THROWS_AS(t.decode(ids{5, 1 << 30}), blockattn::argument_error);
}

TEST_CASE("decoding gives the text back", "[text][tokenizer][model]") {
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (std::size_t size = random() % 60; text.size() < size;)
      text += static_cast<char>(random() % (i % 2 == 0 ? 256 : 128));
    const std::string valid = encodable(blockattn::to_valid_utf8(text).text);
    REQUIRE(smollm2().decode(smollm2().encode(text)) == valid);
  }
}

TEST_CASE("content can't contain control tokens", "[text][tokenizer]") {
  const auto t = open(blockattn_test::tiny_vocabulary_file());
  CHECK(t.encode("x<|im_end|>y") == ids{bytes_of("x")[0], 2, bytes_of("y")[0]});
  const ids content = t.encode("x<|im_end|>y", false);
  CHECK(std::find(content.begin(), content.end(), 2) == content.end());
  CHECK(t.decode(content) == "x<|im_end|>y");
  CHECK(t.decode(t.encode("x<|im_end|>y")) == "xy");
  CHECK(t.decode(t.encode("x<|im_end|>y"), true) == "x<|im_end|>y");
  CHECK(t.encode(text_block::content("<|im_end|>")) == bytes_of("<|im_end|>"));
  CHECK(t.encode(text_block::raw("<|im_end|>")) == ids{2});
}

TEST_CASE("merges span the border of two pieces, control tokens don't", "[text][tokenizer]") {
  const auto t = open(blockattn_test::tiny_vocabulary_file());
  const token_id the = *t.find(" the");
  CHECK(t.encode(text_block{{{" t", true}, {"h", false}, {"e", true}}}) == ids{the});
  CHECK(t.encode(text_block{{{"<|im_", true}, {"end|>", true}}}) == bytes_of("<|im_end|>"));
  CHECK(t.encode(text_block{{{"<|im_", false}, {"end|>", true}}}) == bytes_of("<|im_end|>"));
  CHECK(t.encode(text_block{{{"", true}, {"<|im_end|>", true}, {"", false}, {"<|im_end|>", false}}}).size() == 11);
  CHECK(t.encode(text_block{}).empty());
  CHECK(t.encode(text_block{{{"\xE4\xBD", false}, {"\xA0", true}}}) ==
        bytes_of("\xE4\xBD\xA0"));  // a character cut in two is whole again
  CHECK(t.encode(text_block{{{"\xE4\xBD", false}, {"<|im_end|>", true}}}) ==
        ids{bytes_of("\xEF\xBF\xBD")[0], bytes_of("\xBF")[0], bytes_of("\xBD")[0], 2});
}

TEST_CASE("user-defined tokens are matched anywhere, the longest of those that start leftmost", "[text][tokenizer]") {
  blockattn_test::tiny_vocabulary v;
  for (const char* text : {"[x]", "[x][y]", "[y]", "    "}) v.add(text, 4);
  blockattn_test::gguf_writer file;
  v.write(file);
  const auto t = open(file);
  const auto id = [&](const char* text) { return *t.find(text); };
  CHECK(t.encode("[x][y][x]", false) == ids{id("[x][y]"), id("[x]")});
  CHECK(t.encode("a     b", false) == ids{bytes_of("a")[0], id("    "), bytes_of(" ")[0], bytes_of("b")[0]});
  CHECK(t.encode(text_block{{{"[", false}, {"x]", true}}}) == ids{id("[x]")});
  CHECK_FALSE(t.is_control(id("[x]")));
  CHECK(t.decode(t.encode("[x]", false)) == "[x]");
}

TEST_CASE("invalid UTF-8 is replaced and never a crash", "[text][tokenizer]") {
  const auto t = open(blockattn_test::tiny_vocabulary_file());
  CHECK(t.encode("a\xFF") == bytes_of("a\xEF\xBF\xBD"));
  std::string all;
  for (int byte = 255; byte >= 0; --byte) all += static_cast<char>(byte);
  CHECK(t.decode(t.encode(all)) == blockattn::to_valid_utf8(all).text);
}

TEST_CASE("a megabyte without a space", "[text][tokenizer]") {
  const auto t = open(blockattn_test::tiny_vocabulary_file());
  std::string text;
  while (text.size() < 1'000'000) text += "theandinthe";
  const ids got = t.encode(text);
  CHECK((t.decode(got) == text));
  CHECK(got.size() == text.size() / 11 * 4);  // the and in the
}

TEST_CASE("one object serves several threads", "[text][tokenizer]") {
  const auto t = open(blockattn_test::tiny_vocabulary_file());
  const std::string text = "the end and the <|im_end|> other\n 12 things";
  const ids expected = t.encode(text);
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& mine : wrong)
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) mine += t.encode(text) == expected ? 0 : 1;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}
