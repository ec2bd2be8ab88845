#include "terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace blockattn_command {
namespace {

std::string styled(const char* code, std::string_view text, bool colour) {
  if (!colour) return std::string(text);
  return std::string("\033[") + code + "m" + std::string(text) + "\033[0m";
}

int terminal_width(int descriptor) {
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

bool wants_colour(int descriptor) {
  const char* no_colour = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  if (no_colour != nullptr && *no_colour != '\0') return false;
  return ::isatty(descriptor) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

std::string dim(std::string_view text, bool colour) { return styled("2", text, colour); }
std::string bold(std::string_view text, bool colour) { return styled("1", text, colour); }
std::string warning_colour(std::string_view text, bool colour) { return styled("33", text, colour); }

std::string printable(std::string_view text) {
  std::string result(text);
  for (std::size_t i = 0; i < result.size(); ++i) {
    const auto byte = static_cast<unsigned char>(result[i]);
    const bool c1 = byte == 0xc2 && i + 1 < result.size() && static_cast<unsigned char>(result[i + 1]) >= 0x80 &&
                    static_cast<unsigned char>(result[i + 1]) < 0xa0;  // U+0080..U+009F
    if (c1) {
      result[i] = ' ';
      result[++i] = ' ';
    } else if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f) {
      result[i] = ' ';
    }
  }
  return result;
}

std::string render_progress(std::string_view label, std::string_view unit, std::int64_t done, std::int64_t total,
                            int width) {
  constexpr std::int64_t bar = 24;
  total = std::max<std::int64_t>(total, 1);
  done = std::clamp<std::int64_t>(done, 0, total);
  const auto filled = static_cast<std::size_t>(done * bar / total);
  const std::string percent = std::to_string(done * 100 / total);
  std::string line(label);
  line += "  [" + std::string(filled, '#') + std::string(static_cast<std::size_t>(bar) - filled, '.') + "]  ";
  line +=
      std::string(3 - percent.size(), ' ') + percent + "%  " + std::to_string(done) + "/" + std::to_string(total) + " ";
  line += unit;
  return line.substr(0, static_cast<std::size_t>(std::max(width, 1)));
}

progress_bar::progress_bar(std::string label, std::string unit, bool enabled)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      enabled_(enabled && ::isatty(STDERR_FILENO) == 1),
      next_(clock::now() + std::chrono::milliseconds(200)) {}

void progress_bar::update(std::int64_t done, std::int64_t total) {
  if (!enabled_ || clock::now() < next_) return;
  next_ = clock::now() + std::chrono::milliseconds(50);
  shown_ = true;
  const std::string line = render_progress(label_, unit_, done, total, terminal_width(STDERR_FILENO) - 1);
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
}

void progress_bar::finish() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_ = false;
  enabled_ = false;
}

read_status line_reader::read_line(std::string& line) {
  for (;;) {
    if (const auto feed = pending_.find('\n'); feed != std::string::npos) {
      line = pending_.substr(0, feed);
      pending_.erase(0, feed + 1);
      return read_status::line;
    }
    if (at_end_) {
      line = std::exchange(pending_, {});
      return line.empty() ? read_status::end : read_status::line;
    }
    char buffer[4096];
    const ssize_t got = ::read(descriptor_, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) {
      pending_.clear();
      return read_status::interrupted;
    }
    if (got <= 0)
      at_end_ = true;
    else
      pending_.append(buffer, static_cast<std::size_t>(got));
  }
}

}  // namespace blockattn_command
