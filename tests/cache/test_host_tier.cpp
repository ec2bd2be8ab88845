// Pinned host memory below a GPU's, on a GPU whose memory is made up: blocks go down when they are evicted, and come back with their bits.
#include <catch2/catch.hpp>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "blockattn/cache/host_tier.hpp"
#include "cache/cache_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;

namespace {

/// Memory whose addresses the host can't read: those of host memory with their upper bits flipped.
class far_memory final : public kv_memory {
 public:
  std::shared_ptr<std::byte> allocate(index_t bytes) override {
    if (full) throw cuda_memory_error("no room", static_cast<std::size_t>(bytes));
    ++allocations;
    auto* p = new std::byte[static_cast<std::size_t>(bytes)];
    return {far(p), [](std::byte* q) { delete[] far(q); }};
  }
  std::shared_ptr<std::byte> allocate_host(index_t bytes) override {
    if (no_host) throw cuda_error("no pinned memory");
    return {new std::byte[static_cast<std::size_t>(bytes)], [](std::byte* p) { delete[] p; }};
  }
  void copy(std::byte* to, index_t to_step, const std::byte* from, index_t from_step, index_t bytes, index_t count, direction way) override {
    for (index_t i = 0; i < count; ++i) {
      std::byte* to_row = way == direction::to_host ? to : far(to);
      const std::byte* from_row = way == direction::to_device ? from : far(const_cast<std::byte*>(from));
      std::memcpy(to_row + i * to_step, from_row + i * from_step, static_cast<std::size_t>(bytes));
    }
    ++(way == direction::to_host ? down : up);
  }

  std::atomic<int> allocations{0}, down{0}, up{0};
  std::atomic<bool> full{false}, no_host{false};

 private:
  static std::byte* far(std::byte* p) { return reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(p) ^ (std::uintptr_t{0xfff} << 47)); }
};

std::shared_ptr<const kv_block> far_block(const block_key& key, kv_memory& memory) {
  const auto here = block_of(key);
  auto there = std::make_shared<kv_block>(small_layout, here->tokens(), &memory);
  memory.copy(there->data(), here->bytes(), here->data(), here->bytes(), here->bytes(), 1, kv_memory::direction::to_device);
  return there;
}

bool has_bits_of(const block_key& key, const kv_block& block) {
  kv_block here(small_layout, block.tokens());
  block.memory()->copy(here.data(), here.bytes(), block.data(), here.bytes(), here.bytes(), 1, kv_memory::direction::to_host);
  return is_block_of(key, here);
}

/// A cache for two blocks of device memory over host memory for `host_blocks`.
struct two_levels {
  explicit two_levels(std::size_t host_blocks)
      : memory(std::make_shared<far_memory>()), host(std::make_shared<host_tier>(memory, host_blocks * cost_of())), cache(2 * cost_of(), {}, tier_list{host}) {}

  void publish(std::uint64_t n) {
    auto r = cache.reserve(key_of(n));
    REQUIRE(r.owner());
    r.publish(far_block(key_of(n), *memory));
  }
  /// Whether block n is found, with its bits, on the device.
  bool found(std::uint64_t n) {
    auto r = cache.reserve(key_of(n));
    return cache.fetch(r, small_layout) && r.block()->memory() == memory.get() && has_bits_of(key_of(n), *r.block());
  }

  std::shared_ptr<far_memory> memory;
  std::shared_ptr<host_tier> host;
  block_cache cache;
};

}  // namespace

TEST_CASE("A block evicted from device memory waits in host memory and comes back with its bits") {
  two_levels t(8);
  for (std::uint64_t n = 0; n < 5; ++n) t.publish(n);
  t.cache.flush();
  tier_stats stats = t.host->stats();
  CHECK(stats.writes == 3);
  CHECK(stats.blocks == 3);
  CHECK(stats.bytes == 3 * cost_of());
  CHECK(stats.queued_bytes == 0);
  CHECK(t.cache.contains(key_of(0)));
  for (const std::uint64_t n : std::vector<std::uint64_t>{0, 1, 2, 3, 4, 0}) CHECK(t.found(n));  // each pushes another one out
  CHECK(t.cache.stats().fetched == 6);
  CHECK(t.cache.stats().bytes <= 2 * cost_of());
  t.cache.flush();
  stats = t.host->stats();
  CHECK(stats.hits == 6);
  CHECK(stats.misses == 0);
  CHECK(stats.writes == 5);  // once each, however often they were evicted
}

TEST_CASE("Host memory has a budget of its own, least recently used first, and pins") {
  two_levels t(2);
  for (std::uint64_t n = 0; n < 2; ++n) t.publish(n);
  for (std::uint64_t n = 2; n < 6; ++n) {  // one at a time, so that pins find their blocks
    t.publish(n);
    t.cache.flush();
    if (n == 2) CHECK(t.host->pin(key_of(0)));
  }
  CHECK(t.host->stats().blocks == 2);
  CHECK(t.host->stats().evictions == 2);
  CHECK(t.host->stats().pinned_bytes == cost_of());
  CHECK(t.host->contains(key_of(0)));
  CHECK(t.host->contains(key_of(3)));
  CHECK(!t.host->contains(key_of(1)));
  CHECK(t.found(0));
  CHECK(!t.found(1));
  CHECK(t.cache.erase(key_of(0)));
  CHECK(!t.cache.contains(key_of(0)));
  CHECK(t.host->stats().pinned_bytes == 0);
}

TEST_CASE("A block that is larger than host memory's budget, or that no memory is there for, is dropped and counted") {
  two_levels none(0);
  for (std::uint64_t n = 0; n < 3; ++n) none.publish(n);
  none.cache.flush();
  CHECK(none.host->stats().dropped == 1);
  CHECK(!none.found(0));
  two_levels t(8);
  t.memory->no_host = true;
  for (std::uint64_t n = 0; n < 3; ++n) t.publish(n);
  t.cache.flush();
  CHECK(t.host->stats().dropped == 1);
  CHECK(t.host->stats().errors == 1);
  CHECK(t.host->stats().blocks == 0);
}

TEST_CASE("A block for which the device has no room is a miss, and found again when there is room") {
  two_levels t(8);
  for (std::uint64_t n = 0; n < 4; ++n) t.publish(n);
  t.cache.flush();
  t.memory->full = true;
  CHECK(!t.found(0));
  CHECK(t.host->stats().errors == 1);
  CHECK(t.cache.release(std::size_t{1}) == cost_of());
  CHECK(t.cache.release(std::size_t{1} << 40) == cost_of());
  CHECK(t.cache.release(1) == 0);
  CHECK(t.cache.stats().bytes == 0);
  t.memory->full = false;
  for (std::uint64_t n = 0; n < 4; ++n) CHECK(t.found(n));
}

TEST_CASE("Host memory leaves blocks of other memories alone, and wants a GPU's") {
  two_levels t(8);
  const auto other = std::make_shared<far_memory>();
  t.host->evicted(key_of(1), far_block(key_of(1), *other));
  t.host->evicted(key_of(2), block_of(key_of(2)));
  t.cache.flush();
  CHECK(t.host->stats().blocks == 0);
  CHECK(t.host->find(key_of(1), small_layout) == nullptr);
  CHECK_THROWS_AS(host_tier(nullptr, 1 << 20), argument_error);
}
