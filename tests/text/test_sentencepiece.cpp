// SentencePiece vocabularies in GGUF files: by scores, and unigram; spaces, bytes, unknown characters, marks that strip.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "blockattn/text/stream_decoder.hpp"
#include "blockattn/text/tokenizer.hpp"
#include "support/gguf_writer.hpp"
#include "support/temporary_file.hpp"

using blockattn::token_id;
using blockattn_test::gguf_writer;
using Catch::Matchers::Contains;
using ids = std::vector<token_id>;

namespace {

struct pieces {
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<std::int32_t> types;

  token_id add(const std::string& text, float score, std::int32_t type = 1) {
    texts.push_back(text);
    scores.push_back(score);
    types.push_back(type);
    return static_cast<token_id>(texts.size() - 1);
  }

  /// 0 <unk>, 1 <s>, 2 </s>, 3 <|end|>, then bytes if asked for, then ▁ a b ab ▁a ▁ab.
  explicit pieces(bool bytes) {
    add("<unk>", 0, 2);
    for (const char* text : {"<s>", "</s>", "<|end|>"}) add(text, 0, 3);
    char text[8];
    for (unsigned byte = 0; bytes && byte < 256; ++byte) {
      std::snprintf(text, sizeof(text), "<0x%02X>", byte);
      add(text, 0, 6);
    }
    for (const char* normal : {"▁", "a", "b", "ab", "▁a", "▁ab"}) add(normal, -static_cast<float>(texts.size()));
  }

  [[nodiscard]] gguf_writer file(const std::string& model) const {
    gguf_writer f;
    f.string("tokenizer.ggml.model", model).strings("tokenizer.ggml.tokens", texts).numbers("tokenizer.ggml.token_type", types);
    f.numbers("tokenizer.ggml.scores", scores).number("tokenizer.ggml.bos_token_id", std::uint32_t{1}).number("tokenizer.ggml.eos_token_id", std::uint32_t{2});
    return f;
  }
};

blockattn::tokenizer open(const gguf_writer& file) {
  const blockattn_test::temporary_file written(file.bytes());
  return blockattn::tokenizer::from_gguf(blockattn::gguf_file(written.path()));
}

void check_refused(const gguf_writer& file, const std::string& reason) {
  CHECK_THROWS_AS(open(file), blockattn::format_error);
  CHECK_THROWS_WITH(open(file), Contains(reason));
}

}  // namespace

TEST_CASE("a space before the text is put there and taken away again", "[text][tokenizer][sentencepiece]") {
  const auto t = open(pieces(true).file("llama"));
  const token_id space = *t.find(" "), a = *t.find("a"), b = *t.find("b"), ab = *t.find("ab"), _a = *t.find(" a");
  CHECK(t.encode("").empty());
  CHECK(t.encode("ab") == ids{*t.find(" ab")});  // a + b comes before ▁ + a, then ▁ + ab
  CHECK(t.encode("a b") == ids{_a, space, b});
  CHECK(t.encode("▁a") == t.encode(" a"));
  CHECK(t.encode("a<s>a") == ids{_a, 1, _a});
  CHECK(t.encode("a<s>a", false).size() == 5);  // content has no control tokens
  CHECK(t.decode(t.encode("a  b ")) == "a  b ");
  CHECK(t.decode(ids{1, a, _a}) == "a a");
  CHECK(t.adds_bos());
  CHECK_FALSE(t.adds_eos());
  CHECK(t.strips_first_space());
  for (const std::string& text : std::vector<std::string>{" ", "  a", "é\n", "\t你好🙂 ab", "a\xFF", std::string("\0x", 2)}) {
    const ids got = t.encode(text);
    blockattn::stream_decoder stream(t);
    std::string streamed;
    for (const token_id id : got) streamed += stream.push(id);
    CHECK(t.decode(got) == blockattn::to_valid_utf8(text).text);
    CHECK(streamed + stream.finish() == blockattn::to_valid_utf8(text).text);
  }
  const auto plain = open(pieces(true).file("llama").number("tokenizer.ggml.add_space_prefix", false));
  CHECK(plain.encode("ab") == ids{ab});
  CHECK(plain.decode(ids{_a}) == " a");
}

TEST_CASE("without byte tokens, characters that are none are the unknown token, once in a row", "[text][tokenizer][sentencepiece]") {
  const auto t = open(pieces(false).file("llama"));
  CHECK(t.encode("a你好b") == ids{*t.find(" a"), 0, *t.find("b")});
  pieces none(false);
  none.types[0] = 1;
  check_refused(none.file("llama"), "neither tokens for all bytes nor an unknown token");
}

TEST_CASE("unigram takes the best sum", "[text][tokenizer][sentencepiece]") {
  pieces p(false);
  p.add("bb", -0.5F);
  const auto file = p.file("t5").number("tokenizer.ggml.remove_extra_whitespaces", true);
  const auto t = open(file);
  CHECK(t.encode("  abb   b ") == ids{*t.find(" a"), *t.find("bb"), *t.find(" "), *t.find("b")});
  CHECK(t.decode(t.encode("  abb   b ")) == "abb b");
  CHECK(t.encode("你好") == ids{*t.find(" "), 0});
  CHECK(t.adds_eos());
  CHECK(t.encode(std::string(100'000, 'b')).size() == 50'001);
  check_refused(gguf_writer(file).numbers("tokenizer.ggml.precompiled_charsmap", std::vector<std::int8_t>{8, 0, 0, 0, 1}), "charsmap is damaged");
}

TEST_CASE("a charsmap replaces the longest texts", "[text][tokenizer][sentencepiece]") {
  // One text, "A", by "b": the trie's root has its children at 1, 'A' stands at 1 ^ 'A' and its value right beside.
  std::string bytes(4 + 256 * 4, '\0');
  const auto unit = [&](std::size_t at, std::uint32_t value) { bytes.replace(4 + at * 4, 4, reinterpret_cast<const char*>(&value), 4); };
  const std::uint32_t size = 256 * 4;
  bytes.replace(0, 4, reinterpret_cast<const char*>(&size), 4);
  unit(0, 1U << 10);
  unit(1 ^ 'A', 1U << 10 | 1U << 8 | 'A');
  unit(1 ^ 'A' ^ 1, 1U << 31 | 2);
  const blockattn::charsmap map(bytes + std::string("x\0b\0", 4), "[test] ");
  CHECK(map.apply("AaA é") == "bab é");
  CHECK_THROWS_AS(blockattn::charsmap(bytes + "x", "[test] "), blockattn::format_error);
  for (std::size_t i = 4; i < bytes.size(); i += 3) {  // any damage is harmless
    std::string damaged = bytes + std::string("x\0b\0", 4);
    damaged[i] = static_cast<char>(damaged[i] ^ 0x5B);
    CHECK(blockattn::is_valid_utf8(blockattn::charsmap(damaged, "[test] ").apply("AAé A")));
  }
}

TEST_CASE("Phi-3's marks take the white space after them", "[text][tokenizer][sentencepiece]") {
  const auto t = open(pieces(true).file("llama").string("general.architecture", "phi3"));
  CHECK(t.encode("<|end|> \n a") == ids{3, *t.find(" a")});
  CHECK(t.encode("<s> a") == ids{1, *t.find(" "), *t.find(" a")});
}

TEST_CASE("scores that are missing, too few or NaN", "[text][tokenizer][sentencepiece][hostile]") {
  for (const std::string model : {"llama", "t5"}) {
    pieces p(true);
    gguf_writer file = p.file(model);
    file.remove("tokenizer.ggml.scores");
    check_refused(file, "tokenizer.ggml.scores has 0 entries");
    p.scores[5] = std::nanf("");
    check_refused(p.file(model), "the score of token 5 is NaN");
    p = pieces(true);
    p.add("▁ab", -1);
    check_refused(p.file(model), "are both");
  }
}

TEST_CASE("hundreds of thousands of bytes in one run takes no more than n log n", "[text][tokenizer][sentencepiece]") {
  pieces p(true);
  p.add("aa", -300);
  p.add("aaaa", -301);
  const auto t = open(p.file("llama"));
  CHECK(t.encode(std::string(300'000, 'a')).size() > 75'000);
  CHECK(t.encode(std::string(300'000, ' ')).size() == 300'001);
  CHECK(t.encode(std::string(100'000, '\xFF')).size() == 300'001);
}
