// Byte-pair merging against the definition, carried out naively.
#include <catch2/catch.hpp>

#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "blockattn/text/bpe.hpp"
#include "support/tiny_vocabulary.hpp"

using blockattn::token_id;

namespace {

struct rules {
  std::vector<std::pair<std::pair<token_id, token_id>, token_id>> in_order;

  [[nodiscard]] blockattn::merge_table table() const {
    blockattn::merge_table result(in_order.size());
    for (const auto& [pair, merged] : in_order) REQUIRE(result.add(pair.first, pair.second, merged));
    return result;
  }

  /// By definition: the first rule that applies anywhere, at its first place; then all over again.
  [[nodiscard]] std::vector<token_id> apply(std::vector<token_id> word) const {
    for (bool changed = true; changed;) {
      changed = false;
      for (const auto& [pair, merged] : in_order) {
        for (std::size_t i = 0; i + 1 < word.size() && !changed; ++i) {
          if (std::pair(word[i], word[i + 1]) != pair) continue;
          word[i] = merged;
          word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
          changed = true;
        }
        if (changed) break;
      }
    }
    return word;
  }
};

template <class Pairs>
std::vector<token_id> merged(blockattn::bpe_merger<Pairs>& merger, const std::vector<token_id>& word) {
  merger.symbols().clear();
  for (const token_id id : word) {
    const auto at = static_cast<std::uint32_t>(merger.symbols().size());
    merger.symbols().push_back({id, at, at + 1});
  }
  std::vector<token_id> out;
  std::uint32_t end = 0;
  for (const blockattn::merge_symbol& s : merger.merge(std::string(word.size(), '?'))) {
    CHECK(s.begin == end);  // together they are the word
    end = s.end;
    out.push_back(s.id);
  }
  CHECK(end == word.size());
  return out;
}

rules random_rules(std::mt19937& random, int count) {
  rules result;
  std::map<std::pair<token_id, token_id>, bool> known;
  token_id next = 4;  // 0..3 are the letters
  while (static_cast<int>(result.in_order.size()) < count) {
    const auto token = [&] { return static_cast<token_id>(random() % static_cast<unsigned>(next)); };
    const std::pair pair(token(), token());
    if (!known.emplace(pair, true).second) continue;
    result.in_order.push_back({pair, next++});
  }
  return result;
}

}  // namespace

TEST_CASE("short and long words are merged by the definition", "[text][bpe]") {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    const rules r = random_rules(random, 40);
    const blockattn::merge_table table = r.table();
    blockattn::bpe_merger<blockattn::merge_table> merger(table);
    for (const std::size_t size : std::vector<std::size_t>{0, 1, 2, 3, 7, 20, 47, 48, 49, 50, 90, 300}) {
      std::vector<token_id> word(size);
      for (token_id& letter : word)
        letter = static_cast<token_id>(random() % (round % 3 == 0 ? 1 : 4));  // runs of one letter, too
      REQUIRE(merged(merger, word) == r.apply(word));
    }
  }
}

TEST_CASE("the first of two merges of a pair stays", "[text][bpe]") {
  blockattn::merge_table table(2);
  CHECK(table.add(1, 2, 3));
  CHECK_FALSE(table.add(1, 2, 4));
  CHECK(table.size() == 1);
  CHECK(table.find(1, 2).rank == 0);
  CHECK(table.find(1, 2).merged == 3);
  CHECK(table.find(2, 1).rank == blockattn::pair_merge::none);
}

TEST_CASE("more merges than the table has room for are refused", "[text][bpe]") {
  blockattn::merge_table table;
  CHECK_THROWS_AS(
      [&] {
        for (token_id i = 0; i < 100; ++i) table.add(i, i, i);
      }(),
      blockattn::argument_error);
}

TEST_CASE("by scores, the pair whose text is the best token is merged first, the leftmost of equals", "[text][bpe]") {
  blockattn::vocabulary tokens;
  std::vector<float> scores;
  const auto add = [&](const char* text, float score) {
    tokens.add(text, blockattn::token_kind::normal, true);
    scores.push_back(score);
  };
  add("a", -9);       // 0
  add("b", -9);       // 1
  add("aa", -3);      // 2
  add("ab", 0.5F);    // 3
  add("aab", -2.5F);  // 4
  add("bb", -0.0F);   // 5
  tokens.index([](token_id, token_id) { return false; });
  const blockattn::score_merges pairs(tokens, scores);
  blockattn::bpe_merger<blockattn::score_merges> merger(pairs);
  const auto merge = [&](const std::string& word) {
    merger.symbols().clear();
    for (std::uint32_t i = 0; i < word.size(); ++i) merger.symbols().push_back({tokens.find(word.substr(i, 1)), i, i + 1});
    std::vector<token_id> out;
    for (const auto& s : merger.merge(word)) out.push_back(s.id);
    return out;
  };
  CHECK(merge("aab") == std::vector<token_id>{4});       // ab, then a + ab
  CHECK(merge("aaa") == std::vector<token_id>{2, 0});
  CHECK(merge("abb") == std::vector<token_id>{3, 1});
  CHECK(merge("bbb") == std::vector<token_id>{5, 1});
  CHECK(merge("acb") == std::vector<token_id>{0, -1, 1});  // nothing is merged over what is no token
  std::string runs;
  for (int i = 0; i < 400; ++i) runs += "aab";
  CHECK(merge(runs) == std::vector<token_id>(400, 4));
}

TEST_CASE("each byte has its character and each character its byte", "[text][bpe]") {
  std::string all;
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string out;
    REQUIRE(blockattn::detail::append_bytes_of(blockattn_test::byte_text(byte), out));
    CHECK(out == std::string(1, static_cast<char>(byte)));
    all += blockattn_test::byte_text(byte);
  }
  std::string out;
  CHECK(blockattn::detail::append_bytes_of(all, out));
  CHECK(out.size() == 256);
  for (const std::string text : {" ", "a b", "\n", "\xC5\x84", "\xC2", "\xC4", "\xE4\xBD\xA0", "\xC2\xAD", "a\x7F"}) {
    out = "kept";
    CHECK_FALSE(blockattn::detail::append_bytes_of(text, out));
    CHECK(out == "kept");
  }
}
