// A team must do every index once or throw, whoever helps, and never take more threads than its arena has.
#include <catch2/catch.hpp>

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "blockattn/ops/parallel.hpp"

using namespace blockattn;

namespace {

/// The most bodies that ran at the same time.
class crowd {
 public:
  void enter() {
    const int now = ++inside_;
    for (int seen = most_; now > seen && !most_.compare_exchange_weak(seen, now);) {
    }
  }
  void leave() { --inside_; }
  [[nodiscard]] int most() const { return most_; }

 private:
  std::atomic<int> inside_{0}, most_{0};
};

/// Runs `loops` loops of changing lengths in one team and checks that each index was done once. Returns the most bodies at the same time.
int run_loops(int loops, std::chrono::microseconds work) {
  crowd c;
  with_team([&] {
    std::vector<int> seen(64);
    for (int l = 0; l < loops; ++l) {
      const index_t count = l % 64;
      std::fill(seen.begin(), seen.end(), 0);
      parallel_tasks(count, [&](index_t i) {
        c.enter();
        ++seen[static_cast<std::size_t>(i)];  // no atomic: each index belongs to one thread, and what it writes is seen after the loop
        if (work.count() > 0) std::this_thread::sleep_for(work);
        c.leave();
      });
      REQUIRE(std::count(seen.begin(), seen.begin() + count, 1) == count);
      REQUIRE(std::count(seen.begin() + count, seen.end(), 0) == 64 - count);
    }
  });
  return c.most();
}

}  // namespace

TEST_CASE("a team does each index once, in many short loops", "[ops][team]") {
  for (const int threads : {1, 2, 4}) oneapi::tbb::task_arena(threads).execute([&] { CHECK(run_loops(2000, std::chrono::microseconds(0)) >= 1); });
}

TEST_CASE("a team has as many threads as its arena and the application allow", "[ops][team]") {
  CHECK(oneapi::tbb::task_arena(1).execute([] { return run_loops(64, std::chrono::microseconds(20)); }) == 1);
  CHECK(oneapi::tbb::task_arena(2).execute([] { return run_loops(64, std::chrono::microseconds(20)); }) <= 2);
  const oneapi::tbb::global_control limit(oneapi::tbb::global_control::max_allowed_parallelism, 1);
  CHECK(oneapi::tbb::task_arena(2).execute([] { return run_loops(64, std::chrono::microseconds(20)); }) == 1);
}

TEST_CASE("helpers that left between loops come back", "[ops][team]") {
  if (std::thread::hardware_concurrency() < 2) return;
  oneapi::tbb::task_arena(2).execute([] {
    with_team([] {
      for (int round = 0; round < 3; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        crowd c;
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        while (c.most() < 2 && std::chrono::steady_clock::now() < end)
          parallel_tasks(8, [&](index_t) {
            c.enter();
            std::this_thread::sleep_for(std::chrono::microseconds(100));
            c.leave();
          });
        CHECK(c.most() == 2);
      }
    });
  });
}

TEST_CASE("a loop of a team throws what a body threw, and the next one is complete", "[ops][team]") {
  for (const int threads : {1, 2, 4})
    oneapi::tbb::task_arena(threads).execute([] {
      with_team([] {
        for (int round = 0; round < 200; ++round) {
          std::atomic<int> begun{0};
          CHECK_THROWS_WITH(parallel_tasks(1000,
                                           [&](index_t i) {
                                             ++begun;
                                             if (i % 3 == 1) throw std::runtime_error("index fails");
                                           }),
                            "index fails");
          CHECK(begun < 1000);
          std::atomic<int> done{0};
          parallel_tasks(100, [&](index_t) { ++done; });
          REQUIRE(done == 100);
        }
      });
    });
  CHECK_THROWS_AS(with_team([]() -> int { throw std::logic_error("outside of a loop"); }), std::logic_error);
  CHECK(with_team([] { return 7; }) == 7);
}

TEST_CASE("loops and teams inside a team's loop run where they are", "[ops][team]") {
  std::atomic<int> done{0};
  with_team([&] {
    parallel_tasks(20, [&](index_t) {
      parallel_tasks(10, [&](index_t) {
        with_team([&] { parallel_pieces(100, 10, [&](index_t first, index_t last) { done += static_cast<int>(last - first); }); });
      });
    });
    with_team([&] { parallel_tasks(10, [&](index_t) { ++done; }); });
  });
  CHECK(done == 20 * 10 * 100 + 10);
}

TEST_CASE("teams of many threads share one arena", "[ops][team]") {
  oneapi::tbb::task_arena arena(2);
  std::vector<std::thread> threads;
  std::atomic<int> done{0};
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      arena.execute([&] {
        with_team([&] {
          for (int l = 0; l < 300; ++l) parallel_tasks(16, [&](index_t) { ++done; });
        });
      });
    });
  for (std::thread& t : threads) t.join();
  CHECK(done == 8 * 300 * 16);
}

TEST_CASE("a team is complete although the application's task group around it was cancelled", "[ops][team]") {
  std::atomic<int> done{0};
  std::atomic<bool> began{false}, cancelled{false};
  oneapi::tbb::task_group group;
  group.run([&] {
    began = true;
    while (!cancelled) std::this_thread::yield();
    with_team([&] {
      for (int l = 0; l < 10; ++l) parallel_tasks(100, [&](index_t) { ++done; });
    });
  });
  std::thread canceller([&] {
    while (!began) std::this_thread::yield();
    group.cancel();
    cancelled = true;
  });
  group.wait();
  canceller.join();
  CHECK(done == 1000);
}
