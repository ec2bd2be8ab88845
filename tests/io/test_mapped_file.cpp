#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "blockattn/io/mapped_file.hpp"
#include "support/temporary_file.hpp"

using namespace blockattn;
using blockattn_test::temporary_file;

namespace {

std::string text_of(const mapped_file& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// What opening `path` throws as E.
template <class E>
std::string message(const std::filesystem::path& path) {
  try {
    const mapped_file file(path);
  } catch (const E& e) {
    return e.what();
  }
  FAIL("expected an exception for " << path);
  return {};
}

}  // namespace

TEST_CASE("mapped_file gives the bytes of a file") {
  const temporary_file file("some bytes");
  const mapped_file mapped(file.path());
  CHECK(text_of(mapped) == "some bytes");
}

TEST_CASE("mapped_file stays readable when the file is removed") {
  std::optional<temporary_file> file(std::in_place, "still here");
  const mapped_file mapped(file->path());
  file.reset();
  CHECK(text_of(mapped) == "still here");
}

TEST_CASE("mapped_file moves without moving the bytes") {
  const temporary_file one("one"), two("two");
  mapped_file a(one.path());
  const std::byte* bytes = a.bytes().data();
  mapped_file b(std::move(a));
  CHECK(b.bytes().data() == bytes);
  CHECK(a.bytes().empty());  // NOLINT(bugprone-use-after-move): what is left is documented to be empty

  mapped_file c(two.path());
  c = std::move(b);
  CHECK(text_of(c) == "one");
}

TEST_CASE("mapped_file refuses what isn't there") {
  CHECK_THAT(message<io_error>("/nowhere/at/all.gguf"),
             Catch::Contains("[file] /nowhere/at/all.gguf: can't open") && Catch::Contains("No such file"));
}

TEST_CASE("mapped_file refuses a folder") {
  CHECK_THAT(message<io_error>(std::filesystem::temp_directory_path()),
             Catch::Contains("is a folder; allowed: a regular file"));
}

TEST_CASE("mapped_file refuses a device") {
  CHECK_THAT(message<io_error>("/dev/null"), Catch::Contains("isn't a regular file"));
}

TEST_CASE("mapped_file refuses a named pipe without waiting for its writer") {
  const temporary_file place("");
  std::filesystem::remove(place.path());
  REQUIRE(::mkfifo(place.path().c_str(), 0600) == 0);
  CHECK_THAT(message<io_error>(place.path()), Catch::Contains("isn't a regular file"));
}

TEST_CASE("mapped_file refuses an empty file") {
  const temporary_file file("");
  CHECK_THAT(message<format_error>(file.path()), Catch::Contains("the file is empty"));
}

TEST_CASE("mapped_file names a file that it may not read") {
  if (::geteuid() == 0) {
    WARN("left out: root may read every file");
    return;
  }
  const temporary_file file("secret");
  std::filesystem::permissions(file.path(), std::filesystem::perms::none);
  CHECK_THAT(message<io_error>(file.path()), Catch::Contains("can't open: Permission denied"));
}

TEST_CASE("mapped_file leaves no file descriptor open, also when it throws") {
  const auto open_descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator{});
  };
  const temporary_file good("bytes"), empty("");
  const auto before = open_descriptors();
  const mapped_file mapped(good.path());
  CHECK_THROWS_AS(mapped_file(empty.path()), format_error);
  CHECK_THROWS_AS(mapped_file("/dev/null"), io_error);
  CHECK(open_descriptors() == before);
}
