// What goes wrong in a template, and how much one may use: the sandbox of the Jinja interpreter.
//
// A template comes from a file that anybody may have made. It can't reach anything but its variables, and it is stopped
// when it takes too many steps, nests too deep or makes too much.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

/// A template that isn't Jinja, uses what isn't supported, or fails when it is run. "[jinja] line:column what".
struct template_error : format_error {
  using format_error::format_error;
};

/// The template itself refuses its input (it calls raise_exception): roles that don't alternate, say.
struct template_refusal : argument_error {
  using argument_error::argument_error;
};

namespace jinja {

/// Bounds of one rendering.
struct limits {
  std::size_t steps = 20'000'000;               ///< nodes evaluated, plus one for every 64 bytes or 16 items handled
  std::size_t memory = std::size_t{256} << 20;  ///< bytes of all strings, lists and dictionaries made
  std::size_t output = std::size_t{16} << 20;   ///< bytes of the result
  std::size_t string = std::size_t{16} << 20;   ///< bytes of one string
  std::size_t items = 1'000'000;                ///< of one list or dictionary
  std::size_t depth = 1'000;                    ///< nested evaluations, calls of macros included; and nesting of data
};

/// Nesting that a template's own text may have, and its size in bytes.
inline constexpr std::size_t most_source_depth = 200;
inline constexpr std::uint32_t most_tree_depth = 300;
inline constexpr std::size_t most_source_bytes = std::size_t{1} << 20;

/// Where something stands in the template; both count from 1, columns in bytes.
struct position {
  std::uint32_t line = 1, column = 1;
};

/// What helpers throw; the interpreter knows where it happened and makes a template_error or template_refusal of it.
struct failure {
  std::string what;
  bool raised = false;  ///< by raise_exception
};

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw failure{cat(parts...)};
}

template <class... Parts>
[[noreturn]] void fail_at(position at, const Parts&... parts) {
  throw template_error(cat("[jinja] ", at.line, ':', at.column, ' ', parts...));
}

/// Counts what a rendering uses against its limits.
class budget {
 public:
  explicit budget(const limits& most) : most_(most) {}

  void step(std::size_t n = 1) {
    steps_ += n;
    if (steps_ > most_.steps)
      fail("the template takes more than ", most_.steps, " steps. An endless loop, or raise limits::steps");
  }
  void bytes(std::size_t n) { step(n / 64); }
  void allocate(std::size_t n) {
    memory_ += n;
    if (memory_ > most_.memory)
      fail("the template makes more than ", most_.memory, " bytes of data. Runaway, or raise limits::memory");
    step(n / 64);
  }
  void check_string(std::size_t n) const {
    if (n > most_.string) fail("a string of ", n, " bytes; allowed: ", most_.string, " (limits::string)");
  }
  void check_items(std::size_t n) const {
    if (n > most_.items) fail("a list of ", n, " items; allowed: ", most_.items, " (limits::items)");
  }
  void check_output(std::size_t n) const {
    if (n > most_.output) fail("the result is longer than ", most_.output, " bytes (limits::output)");
  }
  void enter() {
    if (++depth_ > most_.depth)
      fail("nested deeper than ", most_.depth, ". A macro without end, or raise limits::depth");
  }
  void leave() { --depth_; }
  [[nodiscard]] const limits& most() const { return most_; }

 private:
  limits most_;
  std::size_t steps_ = 0, memory_ = 0, depth_ = 0;
};

/// One level deeper while it lives.
class deeper {
 public:
  explicit deeper(budget& b) : budget_(b) { budget_.enter(); }
  deeper(const deeper&) = delete;
  deeper& operator=(const deeper&) = delete;
  ~deeper() { budget_.leave(); }

 private:
  budget& budget_;
};

}  // namespace jinja
}  // namespace blockattn::inline v0
