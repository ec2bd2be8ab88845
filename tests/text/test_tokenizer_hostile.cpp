// Vocabularies that are damaged, absurd or of another kind: each gives a format_error that names the trouble.
#include <catch2/catch.hpp>

#include <limits>
#include <string>
#include <vector>

#include "blockattn/text/tokenizer.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_vocabulary.hpp"

using blockattn_test::gguf_writer;
using blockattn_test::tiny_vocabulary;
using Catch::Matchers::Contains;

namespace {

blockattn::tokenizer open(const gguf_writer& file) {
  const blockattn_test::temporary_file written(file.bytes());
  return blockattn::tokenizer::from_gguf(blockattn::gguf_file(written.path()));
}

gguf_writer file_of(const tiny_vocabulary& v) {
  gguf_writer file;
  v.write(file);
  return file;
}

void check_refused(const gguf_writer& file, const std::string& reason) {
  CHECK_THROWS_AS(open(file), blockattn::format_error);
  CHECK_THROWS_WITH(open(file), Contains(reason));
}

}  // namespace

TEST_CASE("the tiny vocabulary itself is fine", "[text][tokenizer][hostile]") {
  const auto t = open(blockattn_test::tiny_vocabulary_file());
  CHECK(t.vocab_size() == 265);
  CHECK(t.encode(" the and").size() == 3);
}

TEST_CASE("metadata that is missing or of the wrong type", "[text][tokenizer][hostile]") {
  const std::string ggml = "tokenizer.ggml.";
  for (const std::string key : {"model", "tokens", "token_type", "merges"}) {
    auto file = blockattn_test::tiny_vocabulary_file();
    file.remove(ggml + key);
    check_refused(file, ggml + key);
  }
  for (const std::string key : {"model", "tokens", "token_type", "merges", "pre"}) {
    auto file = blockattn_test::tiny_vocabulary_file();
    file.number(ggml + key, 5.5F);
    check_refused(file, ggml + key);
  }
  for (const std::string key : {"tokens", "merges"}) {
    auto file = blockattn_test::tiny_vocabulary_file();
    file.numbers(ggml + key, std::vector<int>{1, 2, 3});
    check_refused(file, "should be an array of strings");
    file.strings(ggml + key, {});
    check_refused(file, "missing or empty");
  }
  auto file = blockattn_test::tiny_vocabulary_file();
  file.strings("tokenizer.ggml.token_type", {"1", "1"});
  check_refused(file, "should be an array of numbers");
  for (const std::string key : {"bos_token_id", "eos_token_id", "add_bos_token", "add_space_prefix"}) {
    auto wrong = blockattn_test::tiny_vocabulary_file();
    wrong.string(ggml + key, "one");
    check_refused(wrong, ggml + key);
  }
}

TEST_CASE("other kinds are named, with those that are supported", "[text][tokenizer][hostile]") {
  auto file = blockattn_test::tiny_vocabulary_file();
  file.string("tokenizer.ggml.model", "bert");
  check_refused(file, "'bert'; supported: 'gpt2'");
  file = blockattn_test::tiny_vocabulary_file();
  file.string("tokenizer.ggml.pre", "galactic");
  check_refused(file, "'galactic'; supported: smollm, gpt-2");
  file.remove("tokenizer.ggml.pre");
  check_refused(file, "(not given)");
  file = blockattn_test::tiny_vocabulary_file();
  file.number("tokenizer.ggml.add_space_prefix", true);
  check_refused(file, "add_space_prefix");
}

TEST_CASE("tokens that are missing, doubled or of no type", "[text][tokenizer][hostile]") {
  tiny_vocabulary v;
  v.tokens[static_cast<std::size_t>(tiny_vocabulary::byte_id('q'))] = "qqq";
  check_refused(file_of(v), "no token for the byte 113");

  v = tiny_vocabulary();
  v.add("th");
  check_refused(file_of(v), "are both 'th'");

  v = tiny_vocabulary();
  v.types.pop_back();
  check_refused(file_of(v), "token_type has 264 entries, tokenizer.ggml.tokens 265");
  v.types.push_back(1);
  v.types.push_back(1);
  check_refused(file_of(v), "token_type has 266 entries");

  for (const int type : {0, 7, -1, std::numeric_limits<int>::max()}) {
    v = tiny_vocabulary();
    v.types[200] = type;
    check_refused(file_of(v), "token 200 has type");
  }
  for (const char* text : {"<0x4>", "<0xGG>", "A", "", "<0x410>"}) {
    v = tiny_vocabulary();
    v.add(text, 6);
    check_refused(file_of(v), "is a byte token");
  }
}

TEST_CASE("merges that can't be", "[text][tokenizer][hostile]") {
  const auto with_merge = [](const std::string& merge) {
    tiny_vocabulary v;
    v.merges.push_back(merge);
    return file_of(v);
  };
  check_refused(with_merge("zz a"), "its left part");
  check_refused(with_merge("a zz"), "its right part");
  check_refused(with_merge("a b"), "its result");
  check_refused(with_merge("t h"), "is there twice");
  for (const char* merge : {"", " ", "ab", "a ", " b", "a  b", "a b c", "a \n", "\xFF\xFE a"})
    check_refused(with_merge(merge), "with a space between");
}

TEST_CASE("ids that aren't in the vocabulary", "[text][tokenizer][hostile]") {
  for (const std::string key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    auto file = blockattn_test::tiny_vocabulary_file();
    check_refused(file.number(key, std::uint32_t{265}), key + " is 265; allowed: 0 to 264");
    check_refused(file.number(key, std::uint32_t{0xFFFFFFFF}), key);
    check_refused(file.number(key, std::int32_t{-1}), key);
    check_refused(file.number(key, std::uint64_t{1} << 63), key);
    CHECK_NOTHROW(open(file.number(key, std::uint8_t{7})));
  }
  auto file = blockattn_test::tiny_vocabulary_file();
  file.remove("tokenizer.ggml.bos_token_id").number("tokenizer.ggml.add_bos_token", true);
  check_refused(file, "there is no bos_token_id");
}

TEST_CASE("odd but harmless vocabularies", "[text][tokenizer][hostile]") {
  tiny_vocabulary v;
  v.add("", 1);              // empty
  v.add("", 3);              // an empty control token is never matched
  v.add("\xE4\xBD\xA0", 1);  // not in the byte alphabet
  v.add("\xFF\xFE", 3);      // not UTF-8
  v.add("[unused]", 5);
  v.add("<0x41>", 6);
  v.add(std::string(100'000, 'x'), 1);  // nothing merges to it
  v.tokens[static_cast<std::size_t>(tiny_vocabulary::byte_id(4))] = "[no byte]";
  const auto t = open(file_of(v));
  CHECK(t.encode("\xE4\xBD\xA0").size() == 3);
  CHECK(t.bytes(267) == "\xE4\xBD\xA0");
  CHECK(t.decode(std::vector<blockattn::token_id>{269, 270}) ==
        "A");  // the unused token gives nothing, the byte token its byte
  CHECK(t.encode("[unused]").size() == 8);
  CHECK(t.encode("\x04").empty());
  CHECK(t.encode("t\x04h") == std::vector<blockattn::token_id>{*t.find("t"), *t.find("h")});  // two words
  CHECK(t.encode(std::string(100'000, 'x')).size() == 100'000);
}
