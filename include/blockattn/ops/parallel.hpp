// Parallelism is oneTBB's: everything runs in the caller's arena, so a user's task_arena limits it. No result depends on the number of threads.
//
// Each loop has a context of its own that inherits no cancellation. Without that, an exception in one task of an outer loop (or an application that cancels
// its own task group) would make the inner loops of its siblings return early and silently, with half of their results missing.
#pragma once

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_group.h>

#include <cstddef>
#include <memory>
#include <new>

#include "blockattn/core/shape.hpp"

#if defined(__SANITIZE_THREAD__)
#define BLOCKATTN_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BLOCKATTN_TSAN 1
#endif
#endif
#if defined(BLOCKATTN_TSAN)
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
#endif

namespace blockattn::inline v0 {

namespace detail {

/// Tells ThreadSanitizer the order that oneTBB guarantees but can't show, as the distribution's isn't compiled for it: what happens before a loop
/// happens before its tasks, and these before what follows the loop. Nothing otherwise.
class loop_order {
 public:
#if defined(BLOCKATTN_TSAN)
  void begin() { __tsan_release(&before_); }
  void task_begins() { __tsan_acquire(&before_); }
  void task_ends() { __tsan_release(&after_); }
  void end() { __tsan_acquire(&after_); }

 private:
  char before_ = 0, after_ = 0;
#else
  void begin() {}
  void task_begins() {}
  void task_ends() {}
  void end() {}
#endif
};

}  // namespace detail

/// Calls body(i) for i in [0, count): one task an index. If a body throws, tasks that haven't begun are left out and the exception is thrown here
/// once those that have begun are done.
template <class Body>
void parallel_tasks(index_t count, const Body& body) {
  if (count == 1) return body(index_t{0});
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
