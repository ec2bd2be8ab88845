#include <unistd.h>
#include <catch2/catch.hpp>

#include <array>

#include "terminal.hpp"

using namespace blockattn_command;

TEST_CASE("progress is drawn within its limits", "[app][terminal]") {
  CHECK(render_progress("indexing", "files", 12, 24, 80) == "indexing  [############............]   50%  12/24 files");
  CHECK(render_progress("x", "files", 0, 0, 80) == "x  [........................]    0%  0/1 files");
  CHECK(render_progress("x", "files", 99, 3, 80) == "x  [########################]  100%  3/3 files");
  CHECK(render_progress("x", "files", -1, 3, 80) == "x  [........................]    0%  0/3 files");
  CHECK(render_progress("indexing", "files", 12, 24, 20).size() == 20);
}

TEST_CASE("text of others can't drive the terminal", "[app][terminal]") {
  CHECK(printable("a\033[2Jb\r\x7f") == "a [2Jb  ");
  CHECK(printable("line\n\ttab") == "line\n\ttab");
  CHECK(printable("\xc2\x9b"
                  "31m") == "  31m");  // U+009B, an 8-bit CSI
  CHECK(printable("é ✓") == "é ✓");
}

TEST_CASE("styles are plain without colour", "[app][terminal]") {
  CHECK(dim("x", false) == "x");
  CHECK(bold("x", true) == "\033[1mx\033[0m");
}

TEST_CASE("lines of a pipe", "[app][terminal]") {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const std::string_view text = "one\n\ntwo\nlast";
  REQUIRE(::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  ::close(ends[1]);
  line_reader lines(ends[0]);
  std::string line;
  for (const char* wanted : {"one", "", "two", "last"}) {
    CHECK(lines.read_line(line) == read_status::line);
    CHECK(line == wanted);
  }
  CHECK(lines.read_line(line) == read_status::end);
  CHECK(lines.read_line(line) == read_status::end);
  ::close(ends[0]);
}
