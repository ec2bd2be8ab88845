// Runs the command `blockattn` as its users do: in a process of its own, with pipes or on a terminal of its own.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "scratch_folder.hpp"

namespace blockattn_test {

struct command_result {
  int status = -1;  ///< exit status, or 128 + signal
  std::string out, error;
};

namespace detail {

inline int exit_status(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) throw std::runtime_error("waitpid failed");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// In the child: becomes the command, or a copy of it.
[[noreturn]] inline void become_command(const std::vector<std::string>& arguments,
                                        const std::string& program = BLOCKATTN_COMMAND) {
  std::vector<char*> argv{const_cast<char*>("blockattn")};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  ::_exit(127);
}

inline std::string content(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace detail

/// Runs the command, or a copy of it, to its end. Standard input holds `input`.
inline command_result run_command(const std::vector<std::string>& arguments, std::string_view input = {},
                                  const std::string& program = BLOCKATTN_COMMAND) {
  const scratch_folder files;
  files.write("in", input);
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    ::dup2(::open((files / "in").c_str(), O_RDONLY), STDIN_FILENO);
    ::dup2(::open((files / "out").c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
    ::dup2(::open((files / "error").c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
    detail::become_command(arguments, program);
  }
  const int status = detail::exit_status(child);
  return {status, detail::content(files / "out"), detail::content(files / "error")};
}

/// The command on a terminal. Everything it shows is kept in shown().
class command_on_terminal {
 public:
  explicit command_on_terminal(const std::vector<std::string>& arguments) {
    ::winsize size{24, 100, 0, 0};
    child_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
    if (child_ < 0) throw std::runtime_error("forkpty failed");
    if (child_ == 0) {
      ::setenv("TERM", "xterm", 1);
      detail::become_command(arguments);
    }
  }
  ~command_on_terminal() {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      (void)detail::exit_status(child_);
    }
    ::close(terminal_);
  }
  command_on_terminal(const command_on_terminal&) = delete;
  command_on_terminal& operator=(const command_on_terminal&) = delete;

  void type(std::string_view keys) const {
    if (::write(terminal_, keys.data(), keys.size()) < 0) throw std::runtime_error("can't type");
  }

  /// Waits until `text` was shown after what earlier calls waited for. False if the command ended or `seconds` passed.
  bool wait_for(std::string_view text, int seconds = 300) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    for (;;) {
      if (const auto at = shown_.find(text, seen_); at != std::string::npos) {
        seen_ = at + text.size();
        return true;
      }
      if (std::chrono::steady_clock::now() > deadline || !read_more()) return false;
    }
  }

  /// Waits for the end; gives the exit status.
  int finish() {
    while (read_more()) {
    }
    const int status = detail::exit_status(child_);
    child_ = -1;
    return status;
  }

  [[nodiscard]] const std::string& shown() const { return shown_; }

 private:
  /// False once the command has closed its terminal.
  bool read_more() {
    ::pollfd wait{terminal_, POLLIN, 0};
    if (::poll(&wait, 1, 1000) == 0) return true;
    std::array<char, 4096> buffer{};
    const ssize_t got = ::read(terminal_, buffer.data(), buffer.size());
    if (got <= 0) return false;
    shown_.append(buffer.data(), static_cast<std::size_t>(got));
    return true;
  }

  int terminal_ = -1;
  pid_t child_ = -1;
  std::string shown_;
  std::size_t seen_ = 0;
};

}  // namespace blockattn_test
