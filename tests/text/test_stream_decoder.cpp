// Streaming: whole characters only, nothing lost.
#include <catch2/catch.hpp>

#include <random>
#include <string>
#include <vector>

#include "blockattn/text/stream_decoder.hpp"
#include "support/model_path.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_vocabulary.hpp"

using blockattn::token_id;
using blockattn_test::tiny_vocabulary;

namespace {

blockattn::tokenizer tiny() {
  const blockattn_test::temporary_file written(blockattn_test::tiny_vocabulary_file().bytes());
  return blockattn::tokenizer::from_gguf(blockattn::gguf_file(written.path()));
}

/// Streams the ids, checks each part, and returns all of it.
std::string streamed(const blockattn::tokenizer& t, const std::vector<token_id>& ids) {
  blockattn::stream_decoder decoder(t);
  std::string text;
  for (const token_id id : ids) {
    const std::string part = decoder.push(id);
    REQUIRE(blockattn::is_valid_utf8(part));
    text += part;
  }
  const std::string rest = decoder.finish();
  REQUIRE(blockattn::is_valid_utf8(rest));
  CHECK(decoder.finish().empty());
  return text + rest;
}

}  // namespace

TEST_CASE("a character comes when its last byte has come", "[text][stream_decoder]") {
  blockattn::stream_decoder decoder(tiny());
  const auto push = [&](unsigned byte) {
    return decoder.push(tiny_vocabulary::byte_id(static_cast<unsigned char>(byte)));
  };
  CHECK(push('a') == "a");
  CHECK(push(0xF0).empty());
  CHECK(push(0x9F).empty());
  CHECK(push(0x99).empty());
  CHECK(push(0x82) == "🙂");
  CHECK(push(0xE2).empty());
  CHECK(decoder.push(2).empty());  // a control token gives nothing and loses nothing
  CHECK(push(0x82).empty());
  CHECK(decoder.finish() == "\xEF\xBF\xBD");
  CHECK(push('b') == "b");
  CHECK(push(0xC3).empty());
  CHECK(push('x') == "\xEF\xBF\xBDx");
  CHECK(push(0xFF) == "\xEF\xBF\xBD");
  CHECK(push(0xBF) == "\xEF\xBF\xBD");
  CHECK_THROWS_AS(decoder.push(265), blockattn::argument_error);
}

TEST_CASE("random bytes stream as they decode", "[text][stream_decoder]") {
  const auto t = tiny();
  std::mt19937 random(5);
  for (int i = 0; i < 3000; ++i) {
    std::vector<token_id> ids(random() % 30);
    for (token_id& id : ids)
      id = static_cast<token_id>(random() % 3 == 0 ? random() % 265 : 3 + 0x80 + random() % 0x80);
    REQUIRE(streamed(t, ids) == blockattn::to_valid_utf8(t.decode(ids)).text);
  }
}

TEST_CASE("random texts of all scripts stream whole, with the model's vocabulary", "[text][stream_decoder][model]") {
  const auto t = blockattn::tokenizer::from_gguf(blockattn::gguf_file(blockattn_test::model_path()));
  std::mt19937 random(6);
  const std::vector<std::string> parts = {"the ", "river", "é",  "Ж",   "你", "好", "🙂", "👩‍👩‍👧",
                                          "नि",   "한",    "\n", " 42", "ع",  "ß",  "𝔘"};
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (std::size_t n = random() % 40; n > 0; --n) text += parts[random() % parts.size()];
    REQUIRE(streamed(t, t.encode(text)) == text);
  }
}
