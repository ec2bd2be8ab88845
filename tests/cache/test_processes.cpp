// Tiers among processes: two writers, readers while others evict, a full disk, readers of a pack that is being replaced.
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <random>
#include <thread>

#include "blockattn/cache/lmdb_tier.hpp"
#include "blockattn/cache/pack_writer.hpp"
#include "tier_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;

/// MiB of memory that this process shares with nobody and has written to.
double private_mb() {
  std::ifstream file("/proc/self/smaps_rollup");
  double kb = 0;
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("Private_Dirty:")) kb = std::stod(line.substr(14));
  return kb / 1024;
}

}  // namespace

TEST_CASE("processes: several writers of one store", "[cache][lmdb][processes]") {
  const scratch_folder folder;
  std::vector<pid_t> children;
  for (std::uint64_t c = 0; c < 3; ++c)
    children.push_back(start_child([&] {
      lmdb_tier tier({folder.path(), 64 * MiB, 64 * MiB, {}});
      for (std::uint64_t n = 0; n < 60; ++n) {
        tier.put(tier_key(c * 40 + n), tier_block(tier_key(c * 40 + n)));  // a third of them are written by two
        if (n % 7 == 0) tier.flush();
      }
      tier.flush();
      return tier.stats().errors == 0 && tier.stats().dropped == 0 ? 0 : 1;
    }));
  for (const pid_t child : children) CHECK(wait_for_child(child) == 0);
  lmdb_tier tier({folder.path(), 64 * MiB, MiB, {}});
  CHECK(tier.stats().blocks == 140);
  for (std::uint64_t n = 0; n < 140; ++n) CHECK(tier.find(tier_key(n), tier_layout) != nullptr);
  CHECK(tier.store().verify().clean());
}

TEST_CASE("processes: what is read stays as it is while others evict it", "[cache][lmdb][processes]") {
  const scratch_folder folder;
  constexpr std::size_t budget = 4 * MiB;
  {
    lmdb_tier tier({folder.path(), budget, 64 * MiB, {}});
    for (std::uint64_t n = 0; n < 20; ++n) tier.put(tier_key(n), tier_block(tier_key(n), 100));
  }
  std::array<int, 2> ready{}, go{};
  REQUIRE(::pipe(ready.data()) == 0);
  REQUIRE(::pipe(go.data()) == 0);
  const pid_t reader = start_child([&] {
    ::alarm(60);
    lmdb_tier tier({folder.path(), budget, 64 * MiB, {}});
    std::vector<std::shared_ptr<const kv_block>> held;
    for (std::uint64_t n = 0; n < 20; ++n) held.push_back(tier.find(tier_key(n), tier_layout));
    char byte = 0;
    if (::write(ready[1], "r", 1) != 1 || ::read(go[0], &byte, 1) != 1) return 3;
    for (std::uint64_t n = 0; n < 20; ++n)
      if (held[n] == nullptr || !is_block_of(tier_key(n), *held[n])) return 1;
    return tier.contains(tier_key(0)) ? 2 : 0;  // evicted meanwhile, and still the same
  });
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  log_book log;
  lmdb_tier writer({folder.path(), budget, 64 * MiB, log.sink()});
  for (std::uint64_t n = 100; n < 160; ++n) {
    writer.put(tier_key(n), tier_block(tier_key(n), 100));
    writer.flush();
  }
  CHECK(writer.stats().evictions > 0);
  CHECK(fs::file_size(folder / "data.mdb") <= budget);  // though pages can't be used again while they are looked at
  const std::uint64_t dropped = writer.stats().dropped;
  REQUIRE(::write(go[1], "g", 1) == 1);
  CHECK(wait_for_child(reader) == 0);
  for (std::uint64_t n = 200; n < 230; ++n) {  // with the reader gone, all is stored
    writer.put(tier_key(n), tier_block(tier_key(n), 100));
    writer.flush();
  }
  CHECK(writer.stats().dropped == dropped);
  CHECK(writer.store().verify().clean());
}

TEST_CASE("processes: a full disk", "[cache][lmdb][processes]") {
  const scratch_folder folder;
  const int status = in_child([&] {
    ::alarm(60);
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", folder.path().c_str(), "tmpfs", 0, "size=3m") != 0)
      return 99;
    log_book log;
    lmdb_tier tier({folder / "store", 64 * MiB, 64 * MiB, log.sink()});
    for (std::uint64_t n = 0; n < 200; ++n) tier.put(tier_key(n), tier_block(tier_key(n)));
    tier.flush();
    std::uint64_t found = 0;
    for (std::uint64_t n = 0; n < 200; ++n) {
      const auto block = tier.find(tier_key(n), tier_layout);
      if (block != nullptr && !is_block_of(tier_key(n), *block)) return 1;
      found += block != nullptr ? 1 : 0;
    }
    const tier_stats stats = tier.stats();
    if (stats.errors == 0 || stats.dropped == 0 || found != stats.writes) return 2;
    if (log.count(log_level::warning, "no space left on the disk") != 1) return 3;
    if (!tier.store().verify().clean()) return 4;
    std::ofstream(folder / "filler") << std::string(4 * MiB, 'x');  // nothing is left at all
    try {
      const lmdb_tier other({folder / "other", 64 * MiB, 64 * MiB, log.sink()});
      return 5;
    } catch (const io_error&) {
    }
    fs::remove(folder / "filler");
    tier.put(tier_key(1000), tier_block(tier_key(1000)));
    tier.flush();
    return 0;
  });
  if (status == 99) WARN("left out: this process can't mount a file system");
  INFO("step " << status);
  CHECK((status == 0 || status == 99));
}

TEST_CASE("processes: eight read a pack while it is written anew, in little memory of their own", "[cache][pack][processes]") {
  const scratch_folder folder;
  const fs::path path = folder / "p";
  constexpr std::uint64_t count = 120;
  constexpr index_t tokens = 200;
  std::vector<block_key> keys;
  for (std::uint64_t n = 0; n < count; ++n) keys.push_back(tier_key(n));
  const auto write_pack = [&](std::uint64_t first) {
    std::vector<block_key> wanted(keys.begin() + static_cast<std::ptrdiff_t>(first), keys.end());
    pack_writer writer(path, tier_identity().hash(), tier_identity(), wanted);
    for (const block_key& key : wanted) writer.add(key, *tier_block(key, tokens));
    writer.finish();
  };
  write_pack(0);  // 24 MB
  std::vector<pid_t> readers;
  for (int i = 0; i < 8; ++i)
    readers.push_back(start_child([&] {
      ::alarm(120);
      const double before = private_mb();
      for (int round = 0; round < 2; ++round) {
        pack_tier tier(path);
        std::vector<std::shared_ptr<const kv_block>> held;
        for (std::uint64_t n = 50; n < count; ++n) held.push_back(tier.find(tier_key(n), tier_layout));
        for (std::size_t n = 0; n < held.size(); ++n)
          if (held[n] == nullptr || held[n]->tokens() != tokens) return 1;
        if (private_mb() - before > 10) return 2;
      }
      return 0;
    }));
  const pid_t writer = start_child([&] {
    for (std::uint64_t first = 10; first <= 50; first += 20) write_pack(first);
    return 0;
  });
  for (const pid_t reader : readers) CHECK(wait_for_child(reader) == 0);
  CHECK(wait_for_child(writer) == 0);
  CHECK(pack_file(path).blocks() == 70);
  CHECK(pack_file(path).verify().empty());
}

TEST_CASE("processes: threads of one process share a tier", "[cache][lmdb][threads]") {
  const scratch_folder folder;
  block_cache cache(MiB, {}, {std::make_shared<lmdb_tier>(lmdb_options{folder.path(), 10 * MiB, 64 * MiB, {}})});
  std::atomic<int> wrong{0}, encoded{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 150; ++i) {
        const std::uint64_t n = random() % 80;
        auto r = cache.reserve(tier_key(n));
        r.wait();
        if (r.owner() && !cache.fetch(r, tier_layout)) {
          ++encoded;
          r.publish(tier_block(tier_key(n), 100));
        }
        if (!r.hit() || !is_block_of(tier_key(n), *r.block())) ++wrong;
        if (i % 50 == 0) cache.flush();
        if (i % 40 == 0 && cache.pin(tier_key(n))) cache.unpin(tier_key(n));
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(encoded >= 60);
  cache.flush();
  const tier_stats stats = cache.tiers().front()->stats();
  CHECK(stats.damaged == 0);
  CHECK(stats.errors == 0);
  CHECK(cache.stats().in_flight == 0);
}
