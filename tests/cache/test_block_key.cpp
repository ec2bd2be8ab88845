// cache/block_key.hpp: the stream that is hashed, byte for byte (expected values from Python's struct and xxhash), and
// what tells keys apart.
#include "blockattn/cache/block_key.hpp"

#include <catch2/catch.hpp>
#include <cstdint>
#include <limits>
#include <numeric>
#include <unordered_set>
#include <vector>

using namespace blockattn;

TEST_CASE("block_key: expected values", "[cache][block_key]") {
  using ids = std::vector<token_id>;
  CHECK(to_string(make_block_key({}, {})) == "c75ab507438e550850673188935f5434");
  CHECK(to_string(make_block_key({0x0123456789abcdefU, 0xfedcba9876543210U}, ids{1, 2, 3})) ==
        "f4a05000ba6543f44dbf56277010f196");
  CHECK(to_string(make_block_key({5, 9}, ids{-1, std::numeric_limits<token_id>::max(), 0, 49151})) ==
        "e4dab7ae2ef9020269be89d24895a0e1");
  ids many(500);
  std::iota(many.begin(), many.end(), 0);
  CHECK(to_string(make_block_key({1, 2}, many)) == "c1e1de10667d5dfc1b31070c7db9dca2");
}

TEST_CASE("block_key: model, length, order and each id matter", "[cache][block_key]") {
  const fingerprint128 model{11, 22};
  const std::vector<token_id> ids{7, 8, 9, 0};
  const block_key key = make_block_key(model, ids);
  CHECK(key == make_block_key(model, std::vector<token_id>{7, 8, 9, 0}));
  CHECK(key != make_block_key({11, 23}, ids));
  CHECK(key != make_block_key({12, 22}, ids));
  CHECK(key != make_block_key({22, 11}, ids));
  CHECK(key != make_block_key(model, std::span(ids).first(3)));
  CHECK(key != make_block_key(model, std::vector<token_id>{7, 8, 9, 0, 0}));
  CHECK(key != make_block_key(model, std::vector<token_id>{8, 7, 9, 0}));
  CHECK(key != make_block_key(model, std::vector<token_id>{7, 8, 9, 1}));
}

TEST_CASE("block_key: no two of many similar blocks share a key or even a 64-bit hash", "[cache][block_key]") {
  std::unordered_set<block_key> keys;
  std::unordered_set<std::size_t> hashes;
  for (token_id a = 0; a < 200; ++a) {
    for (token_id b = 0; b < 200; ++b) {
      const block_key key = make_block_key({1, 1}, std::vector<token_id>{a, b});
      keys.insert(key);
      hashes.insert(std::hash<block_key>{}(key));
    }
  }
  CHECK(keys.size() == 40000);
  CHECK(hashes.size() == 40000);
}
