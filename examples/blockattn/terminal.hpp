// What the command shows on a terminal and a pipe never sees: colours and progress bars. And reading lines so that
// Ctrl-C is noticed.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace blockattn_command {

/// Whether text on this descriptor may be coloured: a terminal, TERM isn't "dumb", NO_COLOR isn't set.
[[nodiscard]] bool wants_colour(int descriptor);

/// `text` between the escape codes of a style if `colour`, else as it is.
[[nodiscard]] std::string dim(std::string_view text, bool colour);
[[nodiscard]] std::string bold(std::string_view text, bool colour);
[[nodiscard]] std::string warning_colour(std::string_view text, bool colour);

/// `text` without what a terminal would obey: control characters but line feed and tab become spaces.
/// File names and documents are not ours; they must not move the cursor.
[[nodiscard]] std::string printable(std::string_view text);

/// One line such as "indexing  [########............]  40%  12/30 files", `width` columns at most. Pure, for
/// progress_bar and its tests.
[[nodiscard]] std::string render_progress(std::string_view label, std::string_view unit, std::int64_t done,
                                          std::int64_t total, int width);

/// A line on standard error that is redrawn in place, and wiped when it ends. Shows nothing if standard error isn't a
/// terminal or if not `enabled`, and nothing for steps shorter than a fifth of a second.
class progress_bar {
 public:
  progress_bar(std::string label, std::string unit, bool enabled = true);
  ~progress_bar() { finish(); }
  progress_bar(const progress_bar&) = delete;
  progress_bar& operator=(const progress_bar&) = delete;

  void update(std::int64_t done, std::int64_t total);
  void relabel(std::string label) { label_ = std::move(label); }
  void finish();

 private:
  using clock = std::chrono::steady_clock;
  std::string label_;
  std::string unit_;
  bool enabled_;
  bool shown_ = false;
  clock::time_point next_;
};

/// How read_line() ended.
enum class read_status { line, end, interrupted };

/// Lines of a descriptor, read without buffering ahead of what the system gave. An interrupted read (Ctrl-C) drops the
/// line begun.
class line_reader {
 public:
  explicit line_reader(int descriptor) : descriptor_(descriptor) {}
  /// `line` without its line feed. A last line without one counts as a line.
  [[nodiscard]] read_status read_line(std::string& line);

 private:
  int descriptor_;
  std::string pending_;
  bool at_end_ = false;
};

}  // namespace blockattn_command
