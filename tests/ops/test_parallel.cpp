// Loops must do all of their work or throw, whatever happens around them.
#include <catch2/catch.hpp>

#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "blockattn/ops/parallel.hpp"

using namespace blockattn;

TEST_CASE("a loop inside a task is complete although a sibling of the task throws", "[ops]") {
  int completed = 0;
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> begun{0};
    std::atomic<int> inner{0};
    std::atomic<int> incomplete{0};
    oneapi::tbb::task_arena(2).execute([&] {
      CHECK_THROWS_AS(parallel_tasks(4,
                                     [&](index_t i) {
                                       ++begun;
                                       const auto patience = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
                                       while (begun < 2 && std::chrono::steady_clock::now() < patience) std::this_thread::yield();  // two at the same time
                                       if (i == 0) throw std::runtime_error("one task fails");
                                       std::atomic<int> done{0};
                                       for (int again = 0; again < 20; ++again)
                                         parallel_tasks(50, [&](index_t) {
                                           ++done;
                                           std::this_thread::sleep_for(std::chrono::microseconds(5));
                                         });
                                       ++inner;
                                       if (done != 20 * 50) ++incomplete;
                                     }),
                      std::runtime_error);
    });
    REQUIRE(incomplete == 0);
    completed += inner;
  }
  if (std::thread::hardware_concurrency() > 1) CHECK(completed > 0);
}

TEST_CASE("a loop is complete although the application's task group around it was cancelled", "[ops]") {
  std::atomic<int> done{0};
  oneapi::tbb::task_group group;
  std::atomic<bool> cancelled{false};
  group.run([&] {
    while (!cancelled) std::this_thread::yield();
    parallel_tasks(100, [&](index_t) { ++done; });
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  group.cancel();
  cancelled = true;
  group.wait();
  CHECK((done == 100 || done == 0));  // 0: the group was cancelled before its task began
}

TEST_CASE("pieces cover a range once, of any size and grain", "[ops]") {
  for (const index_t count : {0, 1, 15, 16, 17, 100})
    for (const index_t grain : {1, 16, 200}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
      parallel_pieces(count, grain, [&](index_t first, index_t last) {
        for (index_t i = first; i < last; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      for (const auto& n : seen) CHECK(n == 1);
    }
}
