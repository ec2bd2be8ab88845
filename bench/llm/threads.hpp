// Runs a measurement on a given number of threads, also where the machine has fewer cores.
#pragma once

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>

#include <cstddef>
#include <utility>

namespace blockattn_bench {

template <class Work>
auto with_threads(int threads, Work&& work) {
  const oneapi::tbb::global_control limit(oneapi::tbb::global_control::max_allowed_parallelism,
                                          static_cast<std::size_t>(threads));
  oneapi::tbb::task_arena arena(threads);
  return arena.execute(std::forward<Work>(work));
}

}  // namespace blockattn_bench
