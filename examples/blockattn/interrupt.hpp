// Ctrl-C ends an answer instead of the program.
#pragma once

namespace blockattn_command {

/// While it lives, SIGINT sets a flag that interrupted() reads, and wakes a blocking read (no SA_RESTART).
/// If the flag is still set after a second, the next SIGINT ends the program as usual: a stuck step can always be left.
/// One guard at a time.
class interrupt_guard {
 public:
  interrupt_guard();
  ~interrupt_guard();
  interrupt_guard(const interrupt_guard&) = delete;
  interrupt_guard& operator=(const interrupt_guard&) = delete;

  [[nodiscard]] static bool interrupted();
  static void clear();
};

/// Exit status of a program that Ctrl-C ended, as shells use it.
inline constexpr int exit_interrupted = 130;

}  // namespace blockattn_command
