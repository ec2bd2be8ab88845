// cache/lmdb_tier.hpp: what is put is found again, byte for byte, where it lies, in this process and in later ones; budget,
// recency, pins; damage.
#include "blockattn/cache/lmdb_tier.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <random>
#include <set>

#include "tier_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;

lmdb_options options_of(const scratch_folder& folder, std::size_t budget = 64 * MiB, log_sink log = {}) {
  return {folder.path(), budget, 256 * MiB, std::move(log)};
}

bool holds(lmdb_tier& tier, std::uint64_t n) {
  const auto block = tier.find(tier_key(n), tier_layout);
  return block != nullptr && is_block_of(tier_key(n), *block);
}

std::string content(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

TEST_CASE("lmdb_tier: found again, where it lies, also by a later one", "[cache][lmdb]") {
  const scratch_folder folder;
  {
    lmdb_tier tier(options_of(folder));
    CHECK(tier.find(tier_key(1), tier_layout) == nullptr);
    for (std::uint64_t n = 0; n < 50; ++n) tier.put(tier_key(n), tier_block(tier_key(n), 3 + static_cast<index_t>(n)));
    CHECK(holds(tier, 49));  // it may still be queued
    tier.flush();
    CHECK(tier.stats().writes == 50);
    CHECK(tier.stats().queued_bytes == 0);
  }
  lmdb_tier tier(options_of(folder));
  CHECK(tier.stats().blocks == 50);
  for (std::uint64_t n = 0; n < 50; ++n) {
    const auto block = tier.find(tier_key(n), tier_layout);
    REQUIRE(block != nullptr);
    CHECK(block->tokens() == 3 + static_cast<index_t>(n));
    CHECK(is_block_of(tier_key(n), *block));
    CHECK(reinterpret_cast<std::uintptr_t>(block->data()) % 64 == 0);
    CHECK(tier.find(tier_key(n), tier_layout)->data() == block->data());  // not a copy
  }
  CHECK(tier.contains(tier_key(1)));
  CHECK_FALSE(tier.contains(tier_key(50)));
  CHECK(tier.erase(tier_key(1)));
  CHECK_FALSE(tier.erase(tier_key(1)));
  CHECK_FALSE(tier.contains(tier_key(1)));
  CHECK(tier.store().verify().clean());
  CHECK(tier.stats().hits == 100);
  CHECK(tier.stats().damaged == 0);
}

TEST_CASE("lmdb_tier: small blocks, which lie unaligned, are copied", "[cache][lmdb]") {
  const scratch_folder folder;
  lmdb_tier tier(options_of(folder));
  for (std::uint64_t n = 0; n < 30; ++n) tier.put(tier_key(n), block_of(tier_key(n), 1 + static_cast<index_t>(n)));
  tier.flush();
  for (std::uint64_t n = 0; n < 30; ++n) {
    const auto block = tier.find(tier_key(n), small_layout);
    REQUIRE(block != nullptr);
    CHECK(is_block_of(tier_key(n), *block));
    CHECK(reinterpret_cast<std::uintptr_t>(block->data()) % 16 == 0);
  }
  CHECK(tier.store().verify().clean());
  CHECK(tier.find(tier_key(1), tier_layout) == nullptr);  // another layout's block isn't this one
  CHECK(tier.stats().damaged == 1);
}

TEST_CASE("lmdb_tier: the file keeps to its budget and the least recently used go first", "[cache][lmdb]") {
  const scratch_folder folder;
  log_book log;
  constexpr std::size_t budget = 4 * MiB;
  lmdb_tier tier(options_of(folder, budget, log.sink()));
  std::mt19937 random(1);
  for (std::uint64_t n = 0; n < 240; ++n) {  // some 12 MB
    tier.put(tier_key(n), tier_block(tier_key(n), 20 + static_cast<index_t>(random() % 60)));
    tier.flush();
    if (n > 0) CHECK(holds(tier, 0));  // asked for again and again
  }
  const tier_stats stats = tier.stats();
  CHECK(stats.writes == 240);
  CHECK(stats.dropped == 0);
  CHECK(stats.errors == 0);
  CHECK(stats.evictions == 240 - stats.blocks);
  CHECK(stats.bytes <= budget / 5 * 4);
  CHECK(stats.bytes > budget / 2);
  CHECK(fs::file_size(folder / "data.mdb") <= budget);
  CHECK(log.count(log_level::debug, "[disk cache] evicted block ") == stats.evictions);
  CHECK(log.count(log_level::warning) == 0);
  CHECK(holds(tier, 0));
  CHECK(holds(tier, 239));
  CHECK_FALSE(tier.contains(tier_key(1)));
  CHECK(tier.store().verify().clean());
}

TEST_CASE("lmdb_tier: pinned blocks stay, also in later processes", "[cache][lmdb]") {
  const scratch_folder folder;
  constexpr std::size_t budget = 2 * MiB;
  {
    lmdb_tier tier(options_of(folder, budget));
    tier.put(tier_key(0), tier_block(tier_key(0), 100));
    CHECK(tier.pin(tier_key(0)));
    CHECK(tier.pin(tier_key(0)));
    CHECK_FALSE(tier.pin(tier_key(1)));
    CHECK(tier.stats().pinned_bytes == tier.stats().bytes);
  }
  log_book log;
  lmdb_tier tier(options_of(folder, budget, log.sink()));
  for (std::uint64_t n = 1; n < 40; ++n) tier.put(tier_key(n), tier_block(tier_key(n), 100)), tier.flush();
  CHECK(holds(tier, 0));
  CHECK(tier.unpin(tier_key(0)));
  CHECK(tier.stats().pinned_bytes != 0);
  CHECK(tier.unpin(tier_key(0)));
  CHECK_FALSE(tier.unpin(tier_key(0)));
  CHECK(tier.stats().pinned_bytes == 0);
  for (std::uint64_t n = 100; n < 130; ++n) tier.put(tier_key(n), tier_block(tier_key(n), 100)), tier.flush();
  CHECK_FALSE(tier.contains(tier_key(0)));
  tier.put(tier_key(500), tier_block(tier_key(500), 3000));  // larger than all
  tier.flush();
  CHECK(tier.stats().dropped == 1);
  CHECK(log.count(log_level::warning, "no room for a block") == 1);
  CHECK(tier.store().verify().clean());
}

TEST_CASE("lmdb_tier: a damaged block is dropped, counted, and can be stored anew", "[cache][lmdb]") {
  const scratch_folder folder;
  log_book log;
  {
    lmdb_tier tier(options_of(folder));
    for (std::uint64_t n = 0; n < 3; ++n) tier.put(tier_key(n), tier_block(tier_key(n)));
  }
  std::string bytes = content(folder / "data.mdb");
  const auto block = tier_block(tier_key(1));
  const auto at = bytes.find(std::string_view(reinterpret_cast<const char*>(block->data()), 512));
  REQUIRE(at != std::string::npos);
  bytes[at + 700] = static_cast<char>(bytes[at + 700] ^ 4);
  std::ofstream(folder / "data.mdb", std::ios::binary) << bytes;

  lmdb_tier tier(options_of(folder, 64 * MiB, log.sink()));
  CHECK(tier.store().verify().damaged == std::vector<block_key>{tier_key(1)});
  CHECK(holds(tier, 0));
  CHECK(tier.find(tier_key(1), tier_layout) == nullptr);
  CHECK(holds(tier, 2));
  CHECK(tier.stats().damaged == 1);
  CHECK(tier.stats().blocks == 2);
  CHECK(log.count(log_level::warning, "is damaged; it's removed and computed again") == 1);
  CHECK(tier.store().verify().clean());
  tier.put(tier_key(1), tier_block(tier_key(1)));
  tier.flush();
  CHECK(holds(tier, 1));
}

TEST_CASE("lmdb_tier: other models' blocks are kept apart, and named", "[cache][lmdb]") {
  const scratch_folder folder;
  log_book log;
  lmdb_tier tier(options_of(folder, 64 * MiB, log.sink()));
  const fingerprint_parts other = identity_of("1234", "f16");
  tier.introduce(tier_identity().hash(), tier_identity());
  tier.put(tier_key(1), tier_block(tier_key(1)));
  tier.flush();
  CHECK(log.count(log_level::info) == 0);
  tier.introduce(other.hash(), other);
  CHECK(tier.find(tier_key(1, other), tier_layout) == nullptr);
  CHECK_THAT(log.text(), Contains("nothing for this model") && Contains("kv: bf16 there, f16 here") && Contains(to_string(other.hash())) &&
                             Contains(to_string(tier_identity().hash())));
  tier.put(tier_key(1, other), tier_block(tier_key(1, other)));
  tier.flush();
  CHECK(tier.store().clear(other.hash()) == 1);
  CHECK(holds(tier, 1));
  CHECK(tier.store().verify().clean());
}

TEST_CASE("lmdb_tier: below a block_cache", "[cache][lmdb]") {
  const scratch_folder folder;
  const auto open = [&] { return std::make_shared<block_cache>(64 * MiB, log_sink{}, tier_list{std::make_shared<lmdb_tier>(options_of(folder))}); };
  const auto first = open();
  auto owner = first->reserve(tier_key(1));
  CHECK_FALSE(first->fetch(owner, tier_layout));
  CHECK(owner.owner());
  owner.publish(tier_block(tier_key(1)));
  first->flush();
  CHECK(first->stats().blocks == 1);
  first->clear();
  CHECK(first->contains(tier_key(1)));  // on disk
  auto again = first->reserve(tier_key(1));
  auto waiting = first->reserve(tier_key(1));
  REQUIRE(first->fetch(again, tier_layout));
  CHECK(again.hit());
  CHECK(is_block_of(tier_key(1), *again.block()));
  waiting.wait();
  CHECK(waiting.block() == again.block());
  CHECK(first->stats().fetched == 1);
  CHECK(first->stats().blocks == 0);  // the map holds it
  CHECK(first->prefetch(tier_key(1), tier_layout));
  CHECK_FALSE(first->prefetch(tier_key(2), tier_layout));
  CHECK(first->stats().in_flight == 0);
  CHECK(first->pin(tier_key(1)));
  CHECK(first->unpin(tier_key(1)));
  CHECK(first->erase(tier_key(1)));
  CHECK_FALSE(first->contains(tier_key(1)));
  CHECK(is_block_of(tier_key(1), *again.block()));  // erased, and still held
}
