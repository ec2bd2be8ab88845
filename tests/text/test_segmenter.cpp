// Segmenters: never over the limit, nothing lost but white space.
#include <catch2/catch.hpp>

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "blockattn/text/segmenter.hpp"
#include "support/model_path.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_vocabulary.hpp"

using list = std::vector<std::string>;
using blockattn::paragraph_packing;

namespace {

/// The tiny vocabulary: about one token a byte.
const blockattn::tokenizer& tiny() {
  static const auto result = [] {
    const blockattn_test::temporary_file written(blockattn_test::tiny_vocabulary_file().bytes());
    return blockattn::tokenizer::from_gguf(blockattn::gguf_file(written.path()));
  }();
  return result;
}

std::string without_blanks(const std::string& text) {
  std::string result;
  for (const char c : text)
    if (std::string_view(" \t\r\n\v\f").find(c) == std::string_view::npos) result += c;
  return result;
}

/// The laws of paragraph_blocks.
void check_laws(const std::string& text, const blockattn::tokenizer& t, blockattn::index_t limit,
                paragraph_packing packing) {
  const std::string valid = blockattn::to_valid_utf8(text).text;
  std::size_t at = 0;
  for (const std::string& block : blockattn::paragraph_blocks(text, t, limit, packing)) {
    REQUIRE_FALSE(block.empty());
    REQUIRE(blockattn::is_valid_utf8(block));
    REQUIRE(without_blanks(block).front() == block.front());
    REQUIRE(without_blanks(block).back() == block.back());
    REQUIRE(static_cast<blockattn::index_t>(t.encode(block, false).size()) <= limit);
    const std::size_t found = valid.find(block, at);  // a stretch of the text, after the one before
    REQUIRE(found != std::string::npos);
    REQUIRE(without_blanks(valid.substr(at, found - at)).empty());
    at = found + block.size();
  }
  REQUIRE(without_blanks(valid.substr(at)).empty());
}

}  // namespace

TEST_CASE("passages are trimmed, blank ones dropped, and a list stays as it is", "[text][segmenter]") {
  CHECK(blockattn::passage_blocks({" one \n", "", "\n\t", "two\n\nthree"}) == list{"one", "two\n\nthree"});
  CHECK(blockattn::passage_blocks({}).empty());
  CHECK(blockattn::explicit_blocks({" a ", ""}) == list{" a ", ""});
}

TEST_CASE("markers part a text and keep it", "[text][segmenter]") {
  CHECK(blockattn::marker_blocks("a\n[Block-Attention] b[Block-Attention][Block-Attention]c") ==
        list{"a\n", " b", "c"});
  CHECK(blockattn::marker_blocks("[Block-Attention]").empty());
  CHECK(blockattn::marker_blocks("").empty());
  CHECK(blockattn::marker_blocks("no marker") == list{"no marker"});
  CHECK(blockattn::marker_blocks("a--b--", "--") == list{"a", "b"});
  CHECK_THROWS_AS(blockattn::marker_blocks("a", ""), blockattn::argument_error);
}

TEST_CASE("paragraphs share a block while they fit", "[text][segmenter]") {
  const std::string text = "# Head\n\nfirst line\nsecond\n \t\r\n\r\nthird\n\n\n";
  CHECK(blockattn::paragraph_blocks(text, tiny(), 1000) == list{"# Head\n\nfirst line\nsecond\n \t\r\n\r\nthird"});
  CHECK(blockattn::paragraph_blocks(text, tiny(), 25) == list{"# Head\n\nfirst line\nsecond", "third"});
  CHECK(blockattn::paragraph_blocks(text, tiny(), 1000, paragraph_packing::separate) ==
        list{"# Head", "first line\nsecond", "third"});
  CHECK(blockattn::paragraph_blocks(" \n\n ", tiny(), 10).empty());
  CHECK(blockattn::paragraph_blocks("", tiny(), 10).empty());
}

TEST_CASE("a paragraph too long is cut at sentences, then words, then characters", "[text][segmenter]") {
  CHECK(blockattn::paragraph_blocks("Ab cd. Ef gh! (Ij kl.) Mn op?", tiny(), 14) ==
        list{"Ab cd. Ef gh!", "(Ij kl.)", "Mn op?"});
  CHECK(blockattn::paragraph_blocks("line one\nline two", tiny(), 10) == list{"line one", "line two"});
  CHECK(blockattn::paragraph_blocks("第一句。第二句。", tiny(), 12) == list{"第一句。", "第二句。"});
  CHECK(blockattn::paragraph_blocks("abc defg hij 3.5 k", tiny(), 8) == list{"abc defg", "hij 3.5", "k"});
  CHECK(blockattn::paragraph_blocks("abcdefghij", tiny(), 4) == list{"abcd", "efgh", "ij"});
  CHECK(blockattn::paragraph_blocks("🙂🙂é", tiny(), 4) == list{"🙂", "🙂", "é"});
  CHECK(blockattn::paragraph_blocks("a 🙂é é", tiny(), 5) == list{"a", "🙂", "é é"});
}

TEST_CASE("limits that no character fits into are refused", "[text][segmenter]") {
  for (const blockattn::index_t limit : {3, 0, -1})
    CHECK_THROWS_AS(blockattn::paragraph_blocks("a", tiny(), limit), blockattn::argument_error);
  CHECK(blockattn::paragraph_blocks("a b", tiny(), std::numeric_limits<blockattn::index_t>::max()) == list{"a b"});
}

TEST_CASE("random texts keep the laws", "[text][segmenter]") {
  std::mt19937 random(9);
  const list parts = {"the ", "and ", "in",   "x",    ". ",        "! ", "\n",   "\n\n", "\r\n\r\n", " ",
                      "你好", "。",   "🙂", "\xFF", "(\"a.\") ", "12", "a\tb", "\x04", "......",   "the"};
  for (int i = 0; i < 600; ++i) {
    std::string text;
    for (std::size_t n = random() % 120; n > 0; --n) text += parts[random() % parts.size()];
    check_laws(text, tiny(), 4 + static_cast<blockattn::index_t>(random() % 40),
               i % 2 == 0 ? paragraph_packing::fill : paragraph_packing::separate);
  }
}

TEST_CASE("the laws hold with the model's vocabulary, on runs and on large texts", "[text][segmenter][model]") {
  const auto t = blockattn::tokenizer::from_gguf(blockattn::gguf_file(blockattn_test::model_path()));
  std::string prose;
  for (int i = 0; i < 400; ++i)
    prose += "The keeper of lamp " + std::to_string(i) +
             " writes down wind and weather. Nobody else does it, as far as we know!" + (i % 7 == 0 ? "\n\n" : " ");
  for (const auto limit : {16, 64, 256}) {
    check_laws(prose, t, limit, paragraph_packing::fill);
    check_laws(std::string(20'000, '='), t, limit, paragraph_packing::fill);
    check_laws(std::string(5'000, 'q'), t, limit, paragraph_packing::fill);
    check_laws(std::string(5'000, '\x04') + "a", t, limit, paragraph_packing::fill);
  }
  CHECK(blockattn::paragraph_blocks(prose, t, 256).size() < 60);
}
