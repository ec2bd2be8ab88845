// How words are cut.
#include <catch2/catch.hpp>

#include <string>
#include <vector>

#include "blockattn/text/pre_tokenizer_kinds.hpp"
#include "blockattn/text/utf8.hpp"

namespace {

std::vector<std::string> words(const std::string& text, std::string_view kind) {
  std::vector<std::string> result;
  blockattn::pre_tokenizer(blockattn::find_pre_tokenizer(kind)->rules()).split(text, [&](std::string_view word) {
    result.emplace_back(word);
  });
  return result;
}

using list = std::vector<std::string>;

}  // namespace

TEST_CASE("smollm: each digit alone, then words with their space", "[text][pre_tokenizer]") {
  CHECK(words("", "smollm").empty());
  CHECK(words("Hello  world, it's 12:30\n\n", "smollm") ==
        list{"Hello", " ", " world", ",", " it", "'s", " ", "1", "2", ":", "3", "0", "\n\n"});
  CHECK(words("a   5  b", "smollm") == list{"a", "   ", "5", " ", " b"});
  CHECK(words("x²½Ⅻ٣", "smollm") == list{"x", "²", "½", "Ⅻ", "٣"});
  CHECK(words("\xE1\xA0\x8E a", "smollm") == list{"\xE1\xA0\x8E", " a"});          // U+180E isn't white space
  CHECK(words("\xC2\x85\xC2\x85 a", "smollm") == list{"\xC2\x85\xC2\x85", " a"});  // U+0085 is
}

TEST_CASE("the other kinds treat digits, case and line feeds their own way", "[text][pre_tokenizer]") {
  CHECK(words(" 1234 I'LL", "gpt-2") == list{" 1234", " I", "'", "LL"});
  CHECK(words(" 1234 I'LL!\n\n x", "llama-bpe") == list{" ", "123", "4", " I", "'LL", "!\n\n", " x"});
  CHECK(words("12 (a)\n", "qwen2") == list{"1", "2", " (", "a", ")\n"});
  CHECK(blockattn::find_pre_tokenizer("unheard-of") == nullptr);
  CHECK(blockattn::find_pre_tokenizer("llama-bpe")->whole_words);
}

TEST_CASE("words are the text again, and none is empty", "[text][pre_tokenizer]") {
  const std::string text = "A \t\n mixed 12 text: naïve 你好，世界 🙂🙂\r\n\r\n  don't…   ";
  for (const auto& kind : blockattn::pre_tokenizer_kinds) {
    std::string joined;
    for (const std::string& word : words(text, kind.name)) {
      CHECK_FALSE(word.empty());
      CHECK(blockattn::is_valid_utf8(word));
      joined += word;
    }
    CHECK(joined == text);
  }
}

TEST_CASE("what a pattern leaves out is a word, and empty matches don't stand still", "[text][pre_tokenizer]") {
  list result;
  const auto take = [&](std::string_view word) { result.emplace_back(word); };
  blockattn::pre_tokenizer("[0-9]+").split("ab12cd3", take);
  CHECK(result == list{"ab", "12", "cd", "3"});
  result.clear();
  blockattn::pre_tokenizer("x*").split("éaxxé", take);
  std::string joined;
  for (const std::string& word : result) joined += word;
  CHECK(joined == "éaxxé");
  CHECK_THROWS_AS(blockattn::pre_tokenizer("(["), blockattn::argument_error);
}

TEST_CASE("hundreds of thousands of characters without a cut are no trouble", "[text][pre_tokenizer]") {
  for (const auto& kind : blockattn::pre_tokenizer_kinds) {
    CHECK(words(std::string(300'000, ' '), kind.name).size() == 1);
    CHECK(words(std::string(300'000, ' ') + "x", kind.name).size() == (kind.name == "superbpe" ? 1 : 2));
    CHECK(words(std::string(300'000, 'x'), kind.name).size() == 1);
    CHECK(words(std::string(300'000, '='), kind.name).size() == 1);
  }
}
