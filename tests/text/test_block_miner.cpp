// The miner finds planted repeats, and its proposals keep their laws on random logs.
#include <catch2/catch.hpp>

#include <random>
#include <set>
#include <vector>

#include "blockattn/text/block_miner.hpp"

namespace {

using blockattn::index_t;
using blockattn::token_id;
using ids = std::vector<token_id>;

ids random_ids(std::mt19937& random, std::size_t count, token_id vocabulary) {
  ids result;
  for (std::size_t i = 0; i < count; ++i) result.push_back(static_cast<token_id>(random() % static_cast<unsigned>(vocabulary)));
  return result;
}

void append(ids& to, const ids& what) { to.insert(to.end(), what.begin(), what.end()); }

void check_laws(const std::vector<ids>& log, const std::vector<blockattn::mined_block>& blocks, const blockattn::mining_options& options) {
  std::set<std::pair<index_t, index_t>> taken;
  for (const auto& block : blocks) {
    REQUIRE(static_cast<index_t>(block.ids.size()) >= options.min_tokens);
    REQUIRE(static_cast<index_t>(block.places.size()) >= options.min_occurrences);
    for (const auto& place : block.places) {
      const ids& prompt = log[static_cast<std::size_t>(place.prompt)];
      REQUIRE(static_cast<std::size_t>(place.begin) + block.ids.size() <= prompt.size());
      REQUIRE(std::equal(block.ids.begin(), block.ids.end(), prompt.begin() + place.begin));
      for (index_t t = 0; t < static_cast<index_t>(block.ids.size()); ++t) REQUIRE(taken.emplace(place.prompt, place.begin + t).second);
    }
  }
}

}  // namespace

TEST_CASE("planted runs are found, the one that saves most first", "[text][miner]") {
  std::mt19937 random(5);
  const ids a = random_ids(random, 200, 30'000), b = random_ids(random, 60, 30'000);
  std::vector<ids> log;
  for (int i = 0; i < 6; ++i) {
    ids prompt = random_ids(random, 50, 30'000);
    if (i % 2 == 0) append(prompt, a);
    append(prompt, random_ids(random, 20, 30'000));
    append(prompt, b);
    append(prompt, random_ids(random, 30, 30'000));
    log.push_back(prompt);
  }
  const auto blocks = blockattn::mine_blocks(log);
  REQUIRE(blocks.size() == 2);
  CHECK(blocks[0].ids == a);
  CHECK(blocks[0].places.size() == 3);
  CHECK(blocks[0].saved() == 400);
  CHECK(blocks[1].ids == b);
  CHECK(blocks[1].places.size() == 6);
  check_laws(log, blocks, {});
}

TEST_CASE("proposals keep their laws on random and periodic logs", "[text][miner]") {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    std::vector<ids> log;
    for (int i = 0; i < 5; ++i) log.push_back(random_ids(random, random() % 80, round % 2 == 0 ? 2 : 5));
    const blockattn::mining_options options{static_cast<index_t>(1 + random() % 6), static_cast<index_t>(2 + random() % 3), 20};
    check_laws(log, blockattn::mine_blocks(log, options), options);
  }
  const std::vector<ids> periodic = {ids(50'000, 7)};
  const auto blocks = blockattn::mine_blocks(periodic);
  REQUIRE_FALSE(blocks.empty());
  check_laws(periodic, blocks, {});
}

TEST_CASE("logs without repeats or without anything, and bad options", "[text][miner]") {
  CHECK(blockattn::mine_blocks(std::vector<ids>{}).empty());
  CHECK(blockattn::mine_blocks(std::vector<ids>{{}, {1, 2, 3}}).empty());
  for (const blockattn::mining_options bad : {blockattn::mining_options{0, 2, 1}, {1, 1, 1}, {1, 2, -1}})
    CHECK_THROWS_AS(blockattn::mine_blocks(std::vector<ids>{{1}}, bad), blockattn::argument_error);
}
