// A team of threads that shares the many short loops of one forward call without a scheduler's cost for each.
//
// The caller opens a loop by writing one word: the loop's number and how many of its indices are left. Whoever is there takes indices from that word, the
// caller too, which waits only for indices that others have taken: a helper that never comes costs nothing, so there is no deadlock and nothing to oversubscribe.
// Helpers are oneTBB tasks of the caller's arena, as many as it has room for. Between loops they look out for the next one for a while, and leave if none comes;
// a later loop invites them again.
// A body that starts a loop itself runs that one alone. No result depends on who takes which index.
#pragma once

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <thread>
#include <utility>

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

namespace blockattn::inline v0::detail {

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

/// Waits a moment without leaving the processor, then, if it takes longer, lets other threads run.
class patience {
 public:
  void pause() {
    if (pauses_ == spins) return std::this_thread::yield();
    if (++pauses_ == spins) since_ = std::chrono::steady_clock::now();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  void reset() { pauses_ = 0; }
  /// Whether it has waited for so long that it should stop.
  [[nodiscard]] bool over() const { return pauses_ == spins && std::chrono::steady_clock::now() - since_ > std::chrono::microseconds(300); }

 private:
  static constexpr int spins = 500;  // about 10 microseconds
  int pauses_ = 0;
  std::chrono::steady_clock::time_point since_;
};

class work_team {
 public:
  /// Made inside an isolated region of the arena whose threads shall help.
  work_team() : context_(oneapi::tbb::task_group_context::isolated), group_(context_) {
    const auto allowed = oneapi::tbb::global_control::active_value(oneapi::tbb::global_control::max_allowed_parallelism);
    most_helpers_ = std::min(oneapi::tbb::this_task_arena::max_concurrency(), static_cast<int>(std::min<std::size_t>(allowed, 1024))) - 1;
    previous_ = std::exchange(current(), this);
  }
  work_team(const work_team&) = delete;
  work_team& operator=(const work_team&) = delete;
  ~work_team() {
    current() = previous_;
    closed_.store(true, std::memory_order_release);
    group_.wait();  // for helpers on their way out; those that never began are done here and now
    order_.end();
  }

  /// The team that the calling thread leads, or nullptr.
  [[nodiscard]] static work_team*& current() {
    thread_local work_team* team = nullptr;
    return team;
  }
  /// Whether the calling thread is inside a loop of a team.
  [[nodiscard]] static bool& inside() {
    thread_local bool loop = false;
    return loop;
  }

  /// Threads that share a loop at most.
  [[nodiscard]] index_t width() const { return most_helpers_ + 1; }

  /// Calls body(i) for i in [0, count), 0 < count < 2^32. If a body throws, indices that no one has begun are left out and the exception is thrown here.
  template <class Body>
  void run(index_t count, const Body& body) {
    count_ = count;
    body_ = &body;
    call_ = [](const void* erased, index_t i) { (*static_cast<const Body*>(erased))(i); };
    finished_.store(0, std::memory_order_relaxed);
    failed_.store(false, std::memory_order_relaxed);
    ticket_.store((++loop_ << 32) | static_cast<std::uint64_t>(count), std::memory_order_release);
    invite(std::min<index_t>(most_helpers_, count - 1));
    inside() = true;
    while (take()) {
    }
    inside() = false;
    for (patience wait; finished_.load(std::memory_order_acquire) != count;) wait.pause();
    if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  static constexpr std::uint64_t left = 0xffffffff;  ///< bits of the ticket: indices not yet taken

  /// Takes one index of the open loop, if there is one left, and does its work.
  bool take() {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    do {
      if ((ticket & left) == 0) return false;
    } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire));
    index_t done = 1;  // from here on the loop can't end before this index is counted, so what describes it stays
    try {
      call_(body_, count_ - static_cast<index_t>(ticket & left));
    } catch (...) {
      done += drop();
      if (!failed_.exchange(true, std::memory_order_acq_rel)) error_ = std::current_exception();
    }
    finished_.fetch_add(done, std::memory_order_acq_rel);
    return true;
  }

  /// Takes all indices that are left, to leave them out.
  index_t drop() {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (!ticket_.compare_exchange_weak(ticket, ticket & ~left, std::memory_order_acq_rel, std::memory_order_acquire)) {
    }
    return static_cast<index_t>(ticket & left);
  }

  void invite(index_t wanted) {
    while (present_.load(std::memory_order_relaxed) < wanted) {
      present_.fetch_add(1, std::memory_order_relaxed);
      order_.begin();
      group_.run([this] { help(); });
    }
  }

  void help() {
    order_.task_begins();
    const bool before = std::exchange(inside(), true);
    patience idle;
    while (!closed_.load(std::memory_order_acquire) && !idle.over()) {
      if (take())
        idle.reset();
      else
        idle.pause();
    }
    inside() = before;
    present_.fetch_sub(1, std::memory_order_relaxed);
    order_.task_ends();
  }

  alignas(64) std::atomic<std::uint64_t> ticket_{0};  ///< number of the loop << 32 | indices not yet taken
  alignas(64) std::atomic<index_t> finished_{0};      ///< indices done or left out
  alignas(64) std::atomic<bool> closed_{false};
  index_t count_ = 0;
  const void* body_ = nullptr;
  void (*call_)(const void*, index_t) = nullptr;
  std::atomic<index_t> present_{0};  ///< helpers invited that haven't left
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  std::uint64_t loop_ = 0;
  int most_helpers_ = 0;
  work_team* previous_ = nullptr;
  loop_order order_;
  oneapi::tbb::task_group_context context_;
  oneapi::tbb::task_group group_;
};

}  // namespace blockattn::inline v0::detail
