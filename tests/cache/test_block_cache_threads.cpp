// cache/block_cache.hpp from many threads. Written to be run under ThreadSanitizer too. Catch's assertions stay in the
// main thread.
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "blockattn/cache/block_cache.hpp"
#include "cache_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();
constexpr int thread_count = 8;
constexpr std::uint64_t key_count = 24;

template <class Body>
void in_threads(int count, const Body& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (auto& thread : threads) thread.join();
}

struct encoder_failed : std::runtime_error {
  encoder_failed() : std::runtime_error("encoder failed") {}
};

/// Counts what encoders do and what readers see.
struct witness {
  std::array<std::atomic<int>, key_count> at_work{};
  std::atomic<std::uint64_t> begun{0}, published{0}, failed{0}, reserved{0}, took_over{0};
  std::atomic<int> overlaps{0}, wrong{0}, missing{0};

  void encode(block_cache::reservation& r, std::uint64_t n, bool fail) {
    ++begun;
    if (at_work[n].fetch_add(1) != 0) ++overlaps;
    if (n % 3 == 0) std::this_thread::yield();
    auto block = block_of(key_of(n), 1 + static_cast<index_t>(n % 7));
    --at_work[n];
    if (fail) {
      ++failed;
      throw encoder_failed();
    }
    r.publish(std::move(block));
    ++published;
  }

  /// One request, as a session makes it; `fail` lets the encoder throw if this request is to encode.
  void request(block_cache& cache, std::uint64_t n, bool fail) {
    ++reserved;
    auto r = cache.reserve(key_of(n));
    if (r.waiting()) {
      r.wait();
      if (r.owner()) ++took_over;
    }
    if (r.owner()) encode(r, n, fail);
    if (!r.hit())
      ++missing;
    else if (!is_block_of(key_of(n), *r.block()))
      ++wrong;
  }
};

}  // namespace

TEST_CASE("block_cache threads: with room for all, each key is encoded once", "[cache][threads]") {
  block_cache cache(unlimited);
  witness w;
  in_threads(thread_count, [&](int t) {
    std::mt19937_64 random(static_cast<std::uint64_t>(t));
    for (int i = 0; i < 2000; ++i)
      w.request(cache, i < 24 ? static_cast<std::uint64_t>(i) : random() % key_count, false);
  });
  CHECK(w.begun == key_count);
  CHECK(w.overlaps == 0);
  CHECK(w.wrong == 0);
  CHECK(w.missing == 0);
  const cache_stats stats = cache.stats();
  CHECK(stats.misses == key_count);
  CHECK(stats.hits + stats.misses + stats.waits == w.reserved);
  CHECK(stats.blocks == key_count);
  CHECK(stats.in_flight == 0);
}

TEST_CASE("block_cache threads: small budget, failing encoders, pins, erasures", "[cache][threads]") {
  std::atomic<int> lines{0};
  const std::size_t budget = 5 * cost_of(7);
  block_cache cache(budget, [&](log_level, std::string_view) { ++lines; });
  witness w;
  std::atomic<int> over_budget{0};
  in_threads(thread_count, [&](int t) {
    std::mt19937_64 random(100 + static_cast<std::uint64_t>(t));
    std::vector<std::shared_ptr<const kv_block>> held(4);
    for (int i = 0; i < 3000; ++i) {
      const std::uint64_t n = random() % key_count;
      try {
        w.request(cache, n, random() % 4 == 0);
      } catch (const encoder_failed&) {
      }
      if (i % 5 == 0 && cache.pin(key_of(n))) {
        const auto block = cache.find(key_of(n));
        if (block != nullptr && !is_block_of(key_of(n), *block)) ++w.wrong;
        cache.unpin(key_of(n));
      }
      if (i % 7 == 0) held[random() % 4] = cache.find(key_of(random() % key_count));
      if (i % 11 == 0) cache.erase(key_of(random() % key_count));
      if (i % 501 == 0) cache.clear();
      if (cache.stats().bytes > budget) ++over_budget;
    }
  });
  CHECK(w.overlaps == 0);
  CHECK(w.wrong == 0);
  CHECK(w.missing == 0);
  CHECK(over_budget == 0);
  CHECK(w.failed > 0);
  CHECK(w.begun == w.published + w.failed);
  const cache_stats stats = cache.stats();
  CHECK(stats.misses == w.begun);
  CHECK(stats.hits + stats.misses + stats.waits == w.reserved + w.took_over);
  CHECK(stats.in_flight == 0);
  CHECK(stats.pinned_bytes == 0);
  CHECK(stats.evictions > 100);
  CHECK(static_cast<std::uint64_t>(lines) >= stats.evictions);
  cache.clear();
  CHECK(cache.stats().bytes == 0);
  CHECK(cache.stats().blocks == 0);
}

TEST_CASE("block_cache threads: a pinned block survives any pressure", "[cache][threads]") {
  block_cache cache(5 * cost_of(7));
  witness w;
  w.request(cache, 0, false);
  const auto pinned = cache.find(key_of(0));
  REQUIRE(cache.pin(key_of(0)));
  std::atomic<int> lost{0};
  in_threads(thread_count, [&](int t) {
    std::mt19937_64 random(200 + static_cast<std::uint64_t>(t));
    for (int i = 0; i < 1000; ++i) {
      w.request(cache, 1 + random() % (key_count - 1), false);
      if (cache.pin(key_of(0))) cache.unpin(key_of(0));
      if (cache.find(key_of(0)) != pinned) ++lost;
    }
  });
  CHECK(lost == 0);
  CHECK(w.wrong == 0);
  CHECK(cache.stats().evictions > 0);
  CHECK(cache.unpin(key_of(0)));
  CHECK_FALSE(cache.unpin(key_of(0)));
}

TEST_CASE("block_cache threads: of those who wait, each abandonment makes exactly one owner", "[cache][threads]") {
  for (int round = 0; round < 50; ++round) {
    block_cache cache(unlimited);
    std::atomic<int> owners_now{0}, too_many{0}, abandoned{0}, encoded{0}, hits{0}, ready{0};
    auto first = std::make_unique<block_cache::reservation>(cache.reserve(key_of(1)));
    std::thread giver([&] {
      while (ready < thread_count) std::this_thread::yield();
      if (round % 2 == 0) std::this_thread::sleep_for(2ms);  // let them fall asleep
      first.reset();
    });
    in_threads(thread_count, [&](int) {
      auto r = cache.reserve(key_of(1));
      ++ready;
      r.wait();
      if (r.owner()) {
        if (++owners_now != 1) ++too_many;
        std::this_thread::sleep_for(100us);
        --owners_now;
        if (abandoned < thread_count - 3) {  // give up; the last three don't
          ++abandoned;
          return;
        }
        ++encoded;
        r.publish(block_of(key_of(1)));
      }
      if (r.hit() && is_block_of(key_of(1), *r.block())) ++hits;
    });
    giver.join();
    REQUIRE(too_many == 0);
    REQUIRE(abandoned == thread_count - 3);
    REQUIRE(encoded == 1);
    REQUIRE(hits == 3);
    REQUIRE(cache.stats().misses == static_cast<std::uint64_t>(1 + abandoned + encoded));
  }
}

TEST_CASE("block_cache threads: prompts that share blocks don't wait for each other in a circle", "[cache][threads]") {
  block_cache cache(5 * cost_of(7));
  witness w;
  in_threads(thread_count, [&](int t) {
    std::mt19937_64 random(300 + static_cast<std::uint64_t>(t));
    for (int i = 0; i < 200; ++i) {
      std::array<std::uint64_t, 6> prompt{};  // duplicates welcome
      for (auto& n : prompt) n = random() % 8;
      std::vector<block_cache::reservation> all;
      for (const auto n : prompt) all.push_back(cache.reserve(key_of(n)));
      for (std::size_t k = 0; k < prompt.size(); ++k)
        if (all[k].owner()) w.encode(all[k], prompt[k], false);
      for (std::size_t k = 0; k < prompt.size(); ++k) {
        while (!all[k].wait_for(5ms)) {
        }
        if (all[k].owner()) w.encode(all[k], prompt[k], false);
        if (!all[k].hit())
          ++w.missing;
        else if (!is_block_of(key_of(prompt[k]), *all[k].block()))
          ++w.wrong;
      }
    }
  });
  CHECK(w.overlaps == 0);
  CHECK(w.missing == 0);
  CHECK(w.wrong == 0);
  CHECK(cache.stats().misses == w.begun);
}
