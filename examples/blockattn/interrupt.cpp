#include "interrupt.hpp"

#include <signal.h>
#include <time.h>

#include <atomic>
#include <cstdint>

namespace blockattn_command {
namespace {

std::atomic<std::int64_t> seen{0};  ///< nanoseconds of the monotonic clock at the first SIGINT; 0: none
static_assert(std::atomic<std::int64_t>::is_always_lock_free, "a signal handler may only touch lock-free atomics");
constexpr std::int64_t patience = 1'000'000'000;

struct sigaction previous {};

extern "C" void on_interrupt(int) {
  ::timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);  // one of the few functions that a signal handler may call
  const std::int64_t time = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  std::int64_t first = 0;
  if (seen.compare_exchange_strong(first, time) || time - first < patience) return;
  ::signal(SIGINT, SIG_DFL);  // nobody has read the flag for a second: leave for good
  ::raise(SIGINT);
}

}  // namespace

interrupt_guard::interrupt_guard() {
  clear();
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &previous);
}

interrupt_guard::~interrupt_guard() { ::sigaction(SIGINT, &previous, nullptr); }

bool interrupt_guard::interrupted() { return seen.load(std::memory_order_relaxed) != 0; }

void interrupt_guard::clear() { seen.store(0); }

}  // namespace blockattn_command
