// cache/block_cache.hpp from one thread: states of a reservation, recency, budget, pinning, erasure, statistics, log
// lines, misuse.
#include "blockattn/cache/block_cache.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "cache_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

/// Makes block n available as a session would; returns whether it was a hit.
bool use(block_cache& cache, std::uint64_t n, index_t tokens = 4) {
  auto r = cache.reserve(key_of(n));
  if (r.hit()) return true;
  r.publish(block_of(key_of(n), tokens));
  return false;
}

std::vector<std::uint64_t> kept(const block_cache& cache, std::uint64_t end = 20) {
  std::vector<std::uint64_t> result;
  for (std::uint64_t n = 0; n < end; ++n)
    if (cache.contains(key_of(n))) result.push_back(n);
  return result;
}

using list = std::vector<std::uint64_t>;

struct recorder {
  std::vector<std::pair<log_level, std::string>> lines;
  log_sink sink() {
    return [this](log_level level, std::string_view line) { lines.emplace_back(level, line); };
  }
};

}  // namespace

TEST_CASE("block_cache: owner publishes, others hit", "[cache]") {
  block_cache cache(unlimited);
  auto owner = cache.reserve(key_of(1));
  CHECK(owner.owner());
  CHECK_FALSE(owner.hit());
  CHECK_FALSE(owner.waiting());
  CHECK(owner.block() == nullptr);
  CHECK_FALSE(cache.contains(key_of(1)));
  CHECK(cache.find(key_of(1)) == nullptr);

  const auto block = block_of(key_of(1));
  owner.publish(block);
  CHECK(owner.hit());
  CHECK_FALSE(owner.owner());
  CHECK(owner.block() == block);

  auto hit = cache.reserve(key_of(1));
  CHECK(hit.hit());
  CHECK(hit.block() == block);  // the same memory, not a copy
  CHECK(cache.find(key_of(1)) == block);
  const cache_stats stats = cache.stats();
  CHECK(stats.hits == 1);
  CHECK(stats.misses == 1);
  CHECK(stats.waits == 0);
  CHECK(stats.blocks == 1);
  CHECK(stats.in_flight == 0);
  CHECK(stats.bytes == block_cache::cost(*block));
  CHECK(stats.bytes == 4 * 64 + block_cache::entry_overhead);
}

TEST_CASE("block_cache: a key reserved twice in one prompt is encoded once", "[cache]") {
  block_cache cache(unlimited);
  auto first = cache.reserve(key_of(1));
  auto second = cache.reserve(key_of(1));
  CHECK(second.waiting());
  CHECK_FALSE(second.owner());
  CHECK(second.block() == nullptr);
  CHECK_FALSE(second.wait_for(1ms));
  CHECK(second.waiting());
  first.publish(block_of(key_of(1)));
  CHECK(second.wait_for(0ms));
  CHECK(second.hit());
  CHECK(second.block() == first.block());
  second.wait();  // nothing to wait for
  CHECK(second.hit());
  CHECK(cache.stats().waits == 1);
  CHECK(cache.stats().misses == 1);
  CHECK(cache.stats().hits == 0);
}

TEST_CASE("block_cache: an abandoned block passes to one of those who wait", "[cache]") {
  block_cache cache(unlimited);
  auto first = std::make_unique<block_cache::reservation>(cache.reserve(key_of(1)));
  auto second = cache.reserve(key_of(1));
  auto third = cache.reserve(key_of(1));
  first.reset();
  second.wait();
  CHECK(second.owner());
  CHECK(third.waiting());
  CHECK_FALSE(third.wait_for(1ms));  // the new owner is at work
  second.publish(block_of(key_of(1)));
  third.wait();
  CHECK(third.hit());
  CHECK(cache.stats().misses == 2);
  CHECK(cache.stats().waits == 2);
}

TEST_CASE("block_cache: an abandoned block may be taken by a newcomer first", "[cache]") {
  block_cache cache(unlimited);
  auto first = std::make_unique<block_cache::reservation>(cache.reserve(key_of(1)));
  auto second = cache.reserve(key_of(1));
  first.reset();
  auto newcomer = cache.reserve(key_of(1));
  CHECK(newcomer.owner());
  CHECK_FALSE(second.wait_for(1ms));
  newcomer.publish(block_of(key_of(1)));
  second.wait();
  CHECK(second.hit());
}

TEST_CASE("block_cache: nothing is left behind by reservations that are given up", "[cache]") {
  block_cache cache(unlimited);
  SECTION("an owner alone") { (void)cache.reserve(key_of(1)); }
  SECTION("an owner, then one who waits") {
    auto owner = std::make_unique<block_cache::reservation>(cache.reserve(key_of(1)));
    auto waiting = std::make_unique<block_cache::reservation>(cache.reserve(key_of(1)));
    owner.reset();
    CHECK(cache.stats().in_flight == 1);
    waiting.reset();
  }
  SECTION("one who waits, then the owner") {
    auto owner = cache.reserve(key_of(1));
    auto waiting = std::make_unique<block_cache::reservation>(cache.reserve(key_of(1)));
    waiting.reset();
    CHECK(cache.stats().in_flight == 1);
    CHECK(owner.owner());
  }
  SECTION("an exception") {
    CHECK_THROWS_AS(
        [&] {
          auto owner = cache.reserve(key_of(1));
          throw std::runtime_error("encoding failed");
        }(),
        std::runtime_error);
  }
  SECTION("an owner that took over") {
    auto owner = std::make_unique<block_cache::reservation>(cache.reserve(key_of(1)));
    auto waiting = cache.reserve(key_of(1));
    owner.reset();
    waiting.wait();
    CHECK(waiting.owner());
  }
  CHECK(cache.stats().in_flight == 0);
  CHECK(cache.stats().blocks == 0);
  CHECK(cache.stats().bytes == 0);
  CHECK(cache.reserve(key_of(1)).owner());
}

TEST_CASE("block_cache: the least recently used block goes first", "[cache]") {
  block_cache cache(3 * cost_of());
  for (std::uint64_t n = 0; n < 3; ++n) CHECK_FALSE(use(cache, n));
  CHECK(kept(cache) == list{0, 1, 2});
  CHECK(cache.stats().bytes == 3 * cost_of());

  SECTION("without use: the oldest") {
    use(cache, 3);
    CHECK(kept(cache) == list{1, 2, 3});
  }
  SECTION("a hit renews") {
    CHECK(use(cache, 0));
    use(cache, 3);
    CHECK(kept(cache) == list{0, 2, 3});
  }
  SECTION("find renews") {
    CHECK(cache.find(key_of(0)) != nullptr);
    use(cache, 3);
    CHECK(kept(cache) == list{0, 2, 3});
  }
  SECTION("contains doesn't") {
    CHECK(cache.contains(key_of(0)));
    use(cache, 3);
    CHECK(kept(cache) == list{1, 2, 3});
  }
  SECTION("a larger block displaces several") {
    const index_t two =
        4 + 4 + static_cast<index_t>(block_cache::entry_overhead) / 64;  // costs as much as two small ones
    REQUIRE(cost_of(two) == 2 * cost_of());
    use(cache, 3, two);
    CHECK(kept(cache) == list{2, 3});
    CHECK(cache.stats().evictions == 2);
    return;
  }
  CHECK(cache.stats().evictions == 1);
  CHECK(cache.stats().bytes == 3 * cost_of());
}

TEST_CASE("block_cache: one byte decides", "[cache]") {
  block_cache exact(2 * cost_of()), short_by_one(2 * cost_of() - 1);
  for (std::uint64_t n = 0; n < 2; ++n) {
    use(exact, n);
    use(short_by_one, n);
  }
  CHECK(kept(exact) == list{0, 1});
  CHECK(kept(short_by_one) == list{1});
}

TEST_CASE("block_cache: against a naive model of the same rules, random operations", "[cache]") {
  constexpr std::size_t budget = 5000;
  block_cache cache(budget);
  struct item {
    std::uint64_t key;
    std::size_t cost;
    int pins;
  };
  std::vector<item> model;  // the most recent last
  std::uint64_t random = 12345;
  const auto next = [&](std::uint64_t n) {
    random = random * 6364136223846793005U + 1442695040888963407U;
    return (random >> 33U) % n;
  };
  const auto position = [&](std::uint64_t key) {
    return std::find_if(model.begin(), model.end(), [&](const item& i) { return i.key == key; });
  };
  const auto total = [&](bool pinned_only) {
    std::size_t sum = 0;
    for (const item& i : model) sum += pinned_only && i.pins == 0 ? 0 : i.cost;
    return sum;
  };
  for (int step = 0; step < 20000; ++step) {
    const std::uint64_t key = next(12);
    const auto at = position(key);
    switch (next(8)) {
      case 0: {
        CHECK(cache.pin(key_of(key)) == (at != model.end()));
        if (at != model.end()) ++at->pins;
        break;
      }
      case 1:
      case 2: {
        const bool pinned = at != model.end() && at->pins > 0;
        CHECK(cache.unpin(key_of(key)) == pinned);
        if (pinned && --at->pins == 0) std::rotate(at, at + 1, model.end());
        break;
      }
      case 3: {
        if (next(4) != 0) break;
        CHECK(cache.erase(key_of(key)) == (at != model.end()));
        if (at != model.end()) model.erase(at);
        break;
      }
      default: {
        const index_t tokens = static_cast<index_t>(key);
        const bool hit = use(cache, key, tokens);
        CHECK(hit == (at != model.end()));
        if (hit) {
          std::rotate(at, at + 1, model.end());
        } else if (total(true) + cost_of(tokens) <= budget) {
          while (total(false) + cost_of(tokens) > budget)
            model.erase(std::find_if(model.begin(), model.end(), [](const item& i) { return i.pins == 0; }));
          model.push_back({key, cost_of(tokens), 0});
        }
      }
    }
    list keys;
    for (const item& i : model) keys.push_back(i.key);
    std::sort(keys.begin(), keys.end());
    REQUIRE(kept(cache) == keys);
    REQUIRE(cache.stats().bytes == total(false));
    REQUIRE(cache.stats().pinned_bytes == total(true));
    REQUIRE(cache.stats().blocks == model.size());
  }
  CHECK(cache.stats().evictions > 1000);
  CHECK(cache.stats().rejected > 100);
}

TEST_CASE("block_cache: an evicted block lives as long as someone holds it", "[cache]") {
  block_cache cache(cost_of());
  use(cache, 1);
  auto held = cache.find(key_of(1));
  const std::weak_ptr<const kv_block> watch = held;
  use(cache, 2);
  CHECK(kept(cache) == list{2});
  CHECK(is_block_of(key_of(1), *held));
  held.reset();
  CHECK(watch.expired());  // and the cache holds nothing of it
}

TEST_CASE("block_cache: a block larger than the budget is used, not kept, and warned of once", "[cache]") {
  recorder log;
  block_cache cache(cost_of(4), log.sink());
  use(cache, 1);
  for (std::uint64_t n = 2; n < 5; ++n) {
    auto owner = cache.reserve(key_of(n));
    auto waiting = cache.reserve(key_of(n));
    owner.publish(block_of(key_of(n), 5));
    waiting.wait();
    REQUIRE(waiting.hit());  // those who waited get it all the same
    CHECK(is_block_of(key_of(n), *waiting.block()));
    CHECK(owner.block() == waiting.block());
  }
  CHECK(kept(cache) == list{1});  // nothing was evicted in vain
  CHECK(cache.stats().rejected == 3);
  CHECK(cache.stats().in_flight == 0);
  REQUIRE(log.lines.size() == 1);
  CHECK(log.lines[0].first == log_level::warning);
  CHECK_THAT(log.lines[0].second, Contains(std::to_string(cost_of(5))) && Contains(std::to_string(cost_of(4))) &&
                                      Contains("smaller blocks"));

  cache.set_byte_budget(cost_of(5));  // a new budget may be warned of again
  CHECK_FALSE(use(cache, 2, 5));
  CHECK(use(cache, 2, 5));
  use(cache, 3, 6);
  CHECK(log.lines.back().first == log_level::warning);
}

TEST_CASE("block_cache: a budget of 0 keeps nothing and warns of nothing", "[cache]") {
  recorder log;
  block_cache cache(0, log.sink());
  auto owner = cache.reserve(key_of(1));
  auto waiting = cache.reserve(key_of(1));
  CHECK(waiting.waiting());  // single flight all the same
  owner.publish(block_of(key_of(1)));
  waiting.wait();
  CHECK(waiting.hit());
  CHECK(cache.reserve(key_of(1)).owner());
  CHECK(cache.stats().blocks == 0);
  CHECK(cache.stats().rejected == 1);
  CHECK_FALSE(cache.pin(key_of(1)));
  use(cache, 2, 0);  // not even a block of no tokens
  CHECK_FALSE(cache.contains(key_of(2)));
  CHECK(log.lines.empty());
}

TEST_CASE("block_cache: a block without tokens is a block", "[cache]") {
  block_cache cache(cost_of(0));
  CHECK_FALSE(use(cache, 1, 0));
  CHECK(use(cache, 1, 0));
  CHECK(cache.stats().bytes == block_cache::entry_overhead);
}

TEST_CASE("block_cache: pinned blocks stay", "[cache]") {
  recorder log;
  block_cache cache(3 * cost_of(), log.sink());
  CHECK_FALSE(cache.pin(key_of(0)));
  CHECK_FALSE(cache.unpin(key_of(0)));
  for (std::uint64_t n = 0; n < 3; ++n) use(cache, n);
  CHECK_FALSE(cache.unpin(key_of(0)));
  CHECK(cache.pin(key_of(0)));
  CHECK(cache.stats().pinned_bytes == cost_of());
  for (std::uint64_t n = 3; n < 9; ++n) use(cache, n);
  CHECK(kept(cache) == list{0, 7, 8});
  CHECK(use(cache, 0));  // a hit as any other

  SECTION("pins are counted") {
    CHECK(cache.pin(key_of(0)));
    CHECK(cache.stats().pinned_bytes == cost_of());
    CHECK(cache.unpin(key_of(0)));
    use(cache, 9);
    CHECK(kept(cache) == list{0, 8, 9});
    CHECK(cache.unpin(key_of(0)));
    CHECK(cache.stats().pinned_bytes == 0);
    CHECK_FALSE(cache.unpin(key_of(0)));
    use(cache, 10);  // the last unpin renewed 0
    CHECK(kept(cache) == list{0, 9, 10});
    use(cache, 11);
    use(cache, 12);
    CHECK(kept(cache) == list{10, 11, 12});
  }
  SECTION("a cache full of pinned blocks takes no others, and says so once") {
    CHECK(cache.pin(key_of(7)));
    CHECK(cache.pin(key_of(8)));
    const std::size_t lines = log.lines.size();
    CHECK_FALSE(use(cache, 9));
    CHECK_FALSE(use(cache, 9));
    CHECK(kept(cache) == list{0, 7, 8});
    CHECK(cache.stats().rejected == 2);
    REQUIRE(log.lines.size() == lines + 1);
    CHECK(log.lines.back().first == log_level::warning);
    CHECK_THAT(log.lines.back().second, Contains("pinned") && Contains(std::to_string(3 * cost_of())));
    CHECK(cache.unpin(key_of(7)));
    CHECK_FALSE(use(cache, 9));
    CHECK(kept(cache) == list{0, 8, 9});
  }
  SECTION("erase and clear remove them") {
    CHECK(cache.erase(key_of(0)));
    CHECK_FALSE(cache.contains(key_of(0)));
    CHECK(cache.stats().pinned_bytes == 0);
    CHECK_FALSE(cache.unpin(key_of(0)));
    cache.pin(key_of(8));
    cache.clear();
    CHECK(cache.stats().blocks == 0);
    CHECK(cache.stats().bytes == 0);
    CHECK(cache.stats().pinned_bytes == 0);
    use(cache, 0);
    CHECK_FALSE(cache.unpin(key_of(0)));  // a block that comes back has no pins
  }
}

TEST_CASE("block_cache: the budget can be changed", "[cache]") {
  block_cache cache(5 * cost_of());
  for (std::uint64_t n = 0; n < 5; ++n) use(cache, n);
  cache.set_byte_budget(2 * cost_of());
  CHECK(kept(cache) == list{3, 4});
  CHECK(cache.stats().byte_budget == 2 * cost_of());
  cache.pin(key_of(3));
  cache.pin(key_of(4));
  cache.set_byte_budget(cost_of());  // below what is pinned
  CHECK(kept(cache) == list{3, 4});
  CHECK(cache.stats().bytes == 2 * cost_of());
  use(cache, 5);
  CHECK(kept(cache) == list{3, 4});
  cache.unpin(key_of(3));  // over the budget: goes at once
  CHECK(kept(cache) == list{4});
  cache.set_byte_budget(0);
  CHECK(kept(cache) == list{4});
  cache.unpin(key_of(4));
  CHECK(cache.stats().bytes == 0);
  cache.set_byte_budget(unlimited);
  for (std::uint64_t n = 0; n < 20; ++n) use(cache, n);
  CHECK(cache.stats().blocks == 20);
}

TEST_CASE("block_cache: erase and clear while a block is encoded", "[cache]") {
  block_cache cache(unlimited);
  const bool by_clear = GENERATE(false, true);
  auto owner = std::make_unique<block_cache::reservation>(cache.reserve(key_of(1)));
  auto waiting = cache.reserve(key_of(1));
  if (by_clear)
    cache.clear();
  else
    CHECK_FALSE(cache.erase(key_of(1)));

  SECTION("its waiters get it, nobody else does") {
    owner->publish(block_of(key_of(1)));
    waiting.wait();
    CHECK(waiting.hit());
    CHECK(owner->hit());
    CHECK_FALSE(cache.contains(key_of(1)));
    CHECK(cache.stats().rejected == 0);
    CHECK(cache.stats().in_flight == 0);
    CHECK(cache.reserve(key_of(1)).owner());
  }
  SECTION("asked for again meanwhile: still one encoding, and it is kept") {
    auto again = cache.reserve(key_of(1));
    CHECK(again.waiting());
    owner->publish(block_of(key_of(1)));
    again.wait();
    CHECK(again.hit());
    CHECK(cache.contains(key_of(1)));
  }
  SECTION("given up and taken over: the new encoding is kept") {
    owner.reset();
    waiting.wait();
    REQUIRE(waiting.owner());
    waiting.publish(block_of(key_of(1)));
    CHECK(cache.contains(key_of(1)));
  }
}

TEST_CASE("block_cache: erase of what isn't there", "[cache]") {
  block_cache cache(unlimited);
  CHECK_FALSE(cache.erase(key_of(1)));
  cache.clear();
  use(cache, 1);
  CHECK(cache.erase(key_of(1)));
  CHECK_FALSE(cache.erase(key_of(1)));
  CHECK(cache.stats().bytes == 0);
}

TEST_CASE("block_cache: misuse of a reservation is an error and changes nothing", "[cache]") {
  block_cache cache(unlimited);
  auto owner = cache.reserve(key_of(1));
  auto waiting = cache.reserve(key_of(1));
  CHECK_THROWS_AS(owner.publish(nullptr), argument_error);
  CHECK(owner.owner());
  CHECK_THROWS_WITH(waiting.publish(block_of(key_of(1))), Contains("waits for another"));
  CHECK(waiting.waiting());
  const auto block = block_of(key_of(1));
  owner.publish(block);
  CHECK_THROWS_WITH(owner.publish(block_of(key_of(2))), Contains("already"));
  CHECK(owner.block() == block);
  CHECK(cache.find(key_of(1)) == block);

  block_cache::reservation empty;
  CHECK_FALSE(empty.hit());
  CHECK_FALSE(empty.owner());
  CHECK_FALSE(empty.waiting());
  CHECK(empty.block() == nullptr);
  CHECK_THROWS_WITH(empty.publish(block), Contains("empty"));
  CHECK_THROWS_AS(empty.wait(), argument_error);
  CHECK_THROWS_AS((void)empty.wait_for(1ms), argument_error);
}

TEST_CASE("block_cache: reservations move", "[cache]") {
  static_assert(!std::is_copy_constructible_v<block_cache::reservation> &&
                std::is_nothrow_move_constructible_v<block_cache::reservation> &&
                std::is_nothrow_move_assignable_v<block_cache::reservation>);
  block_cache cache(unlimited);
  auto first = cache.reserve(key_of(1));
  auto moved = std::move(first);
  CHECK(moved.owner());
  CHECK_FALSE(first.owner());  // NOLINT: moved-from is defined
  CHECK_FALSE(first.waiting());
  CHECK_THROWS_AS(first.publish(block_of(key_of(1))), argument_error);
  auto& self = moved;
  moved = std::move(self);
  CHECK(moved.owner());
  CHECK(cache.stats().in_flight == 1);

  moved = cache.reserve(key_of(2));  // gives up key 1
  CHECK(cache.stats().in_flight == 1);
  CHECK(cache.reserve(key_of(1)).owner());
  moved.publish(block_of(key_of(2)));
  CHECK(cache.contains(key_of(2)));
  auto hit = std::move(moved);
  CHECK(hit.hit());
  CHECK_FALSE(moved.hit());  // NOLINT
}

TEST_CASE("block_cache: reservations may outlive the cache", "[cache]") {
  auto cache = std::make_unique<block_cache>(unlimited);
  auto owner = cache->reserve(key_of(1));
  auto waiting = cache->reserve(key_of(1));
  auto given_up = cache->reserve(key_of(2));
  cache.reset();
  owner.publish(block_of(key_of(1)));
  waiting.wait();
  CHECK(is_block_of(key_of(1), *waiting.block()));
}

TEST_CASE("block_cache: each eviction is a debug line; sink and destructors may use the cache", "[cache]") {
  block_cache* self = nullptr;
  std::vector<std::string> lines;
  block_cache cache(2 * cost_of(), [&](log_level level, std::string_view line) {
    CHECK(level == log_level::debug);
    lines.emplace_back(line);
    CHECK(self->stats().bytes <= 2 * cost_of());  // would never return if the lock were held
  });
  self = &cache;
  int destroyed = 0;
  for (std::uint64_t n = 0; n < 4; ++n) {
    auto block = block_of(key_of(n));
    std::byte* data = const_cast<std::byte*>(block->data());
    std::shared_ptr<std::byte> keeper(data, [&, block](std::byte*) {
      ++destroyed;
      (void)self->stats();
    });
    cache.reserve(key_of(n)).publish(std::make_shared<kv_block>(small_layout, 4, std::move(keeper)));
  }
  REQUIRE(lines.size() == 2);
  CHECK_THAT(lines[0], Contains(to_string(key_of(0))) && Contains("4 tokens") && Contains(std::to_string(cost_of())));
  CHECK_THAT(lines[1], Contains(to_string(key_of(1))));
  CHECK(destroyed == 2);
  cache.erase(key_of(2));
  CHECK(destroyed == 3);
  cache.clear();
  CHECK(destroyed == 4);
  CHECK(cache.stats().evictions == 2);  // erasing is not evicting
}

TEST_CASE("block_cache: a sink that throws leaves a cache that works", "[cache]") {
  block_cache cache(cost_of(), [](log_level, std::string_view) { throw std::runtime_error("disk full"); });
  use(cache, 1);
  auto owner = cache.reserve(key_of(2));
  CHECK_THROWS_WITH(owner.publish(block_of(key_of(2))), "disk full");
  CHECK(owner.hit());
  CHECK(kept(cache) == list{2});
  CHECK(cache.stats().bytes == cost_of());
  CHECK(cache.reserve(key_of(2)).hit());
}
