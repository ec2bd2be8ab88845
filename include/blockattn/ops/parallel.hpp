// Parallelism is oneTBB's: everything runs in the caller's arena, so a user's task_arena limits it. No result depends on the number of threads.
//
// Each loop has a context of its own that inherits no cancellation. Without that, an exception in one task of an outer loop (or an application that cancels
// its own task group) would make the inner loops of its siblings return early and silently, with half of their results missing.
// Inside with_team() the loops are shared by a team (work_team.hpp), which starts and ends one in about a microsecond.
#pragma once

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include <cstddef>
#include <memory>
#include <new>

#include "blockattn/core/shape.hpp"
#include "blockattn/ops/work_team.hpp"

namespace blockattn::inline v0 {

/// Calls body(i) for i in [0, count): one task an index. If a body throws, tasks that haven't begun are left out and the exception is thrown here
/// once those that have begun are done.
template <class Body>
void parallel_tasks(index_t count, const Body& body) {
  if (count <= 1 || detail::work_team::inside()) {
    for (index_t i = 0; i < count; ++i) body(i);
    return;
  }
  if (detail::work_team* team = detail::work_team::current()) return team->run(count, body);
  using range = oneapi::tbb::blocked_range<index_t>;
  oneapi::tbb::task_group_context context(oneapi::tbb::task_group_context::isolated);
  detail::loop_order order;
  order.begin();
  oneapi::tbb::parallel_for(
      range(0, count, 1),
      [&](const range& r) {
        order.task_begins();
        for (index_t i = r.begin(); i < r.end(); ++i) body(i);
        order.task_ends();
      },
      oneapi::tbb::simple_partitioner{}, context);
  order.end();
}

/// Threads that may share a loop begun here.
[[nodiscard]] inline index_t parallel_width() {
  if (detail::work_team::inside()) return 1;
  if (const detail::work_team* team = detail::work_team::current()) return team->width();
  return oneapi::tbb::this_task_arena::max_concurrency();
}

/// Calls work() on this thread; the loops that it starts are shared with a team of the caller's arena. For a stretch of many short loops. Until it returns, this
/// thread takes up no other task of the arena.
template <class Work>
decltype(auto) with_team(const Work& work) {
  if (detail::work_team::current() != nullptr || detail::work_team::inside()) return work();
  return oneapi::tbb::this_task_arena::isolate([&]() -> decltype(auto) {
    const detail::work_team team;
    return work();
  });
}

/// Calls body(begin, end) over pieces of [0, count) of at least `grain`, in parallel if there is more than one.
template <class Body>
void parallel_pieces(index_t count, index_t grain, const Body& body) {
  if (count <= grain) return count > 0 ? body(index_t{0}, count) : void();
  const index_t pieces = (count + grain - 1) / grain;
  parallel_tasks(pieces, [&](index_t i) { body(i * grain, i + 1 == pieces ? count : (i + 1) * grain); });
}

/// 64-byte aligned memory of the calling thread, at least `bytes`, kept for its next use. Valid until the thread's next call:
/// never hold it across anything that may run another task.
[[nodiscard]] inline std::byte* thread_scratch(index_t bytes) {
  struct release {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  thread_local std::unique_ptr<std::byte, release> memory;
  thread_local index_t size = 0;
  if (size < bytes) {
    memory.reset();
    size = 0;
    memory.reset(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(bytes), std::align_val_t{64})));
    size = bytes;
  }
  return memory.get();
}

}  // namespace blockattn::inline v0
