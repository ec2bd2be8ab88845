// io/gguf_fingerprint.hpp: a remembered fingerprint is the file's own or it isn't used.
#include "blockattn/io/gguf_fingerprint.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "command/scratch_folder.hpp"
#include "support/gguf_writer.hpp"

using namespace blockattn;
using namespace blockattn_test;
namespace fs = std::filesystem;

namespace {

std::string model_bytes(float value) {
  gguf_writer file;
  file.string("general.architecture", "llama");
  file.tensor("a", {64}, std::vector<float>(64, 1.0F));
  file.tensor("b", {32, 2000}, std::vector<float>(64000, value));
  return file.bytes();
}

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// A folder that stands for ~/.cache, and one with the model.
struct places {
  scratch_folder folder;
  fs::path model = folder / "models/model.gguf";
  fs::path side = folder / "models/model.gguf.fingerprint";
  std::string before = std::getenv("XDG_CACHE_HOME") != nullptr ? std::getenv("XDG_CACHE_HOME") : "";
  places() {
    folder.write("models/model.gguf", model_bytes(2));
    ::setenv("XDG_CACHE_HOME", (folder / "cache").c_str(), 1);
  }
  ~places() {
    if (before.empty())
      ::unsetenv("XDG_CACHE_HOME");
    else
      ::setenv("XDG_CACHE_HOME", before.c_str(), 1);
  }
  /// The answer for the file as it is now.
  [[nodiscard]] fingerprint128 ask(std::size_t least = 0) const { return remembered_hash_tensors(gguf_file(model), least); }
  [[nodiscard]] fingerprint128 truth() const { return hash_tensors(gguf_file(model)); }
};

/// The side file with another fingerprint, its check line right.
void forge(const fs::path& side, const fingerprint128& value) {
  const std::string text = content(side);
  const std::string claim = text.substr(0, text.find("\ntensors ") + 9);
  REQUIRE(detail::write_fingerprint(side, claim, value));
}

}  // namespace

TEST_CASE("gguf_fingerprint: remembered beside the file, and believed", "[io][fingerprint]") {
  const places p;
  const fingerprint128 truth = p.truth();
  CHECK(p.ask() == truth);
  REQUIRE(fs::exists(p.side));
  CHECK(p.ask() == truth);
  CHECK_FALSE(fs::exists(p.folder / "cache"));
  forge(p.side, {1, 2});  // so the tensors weren't read
  CHECK(p.ask() == fingerprint128{1, 2});
}

TEST_CASE("gguf_fingerprint: small files are read each time", "[io][fingerprint]") {
  const places p;
  CHECK(p.ask(std::size_t{32} << 20) == p.truth());
  CHECK_FALSE(fs::exists(p.side));
}

TEST_CASE("gguf_fingerprint: a stale side file isn't believed", "[io][fingerprint]") {
  const places p;
  (void)p.ask();
  forge(p.side, {1, 2});
  SECTION("another time") { p.folder.set_age("models/model.gguf", 1); }
  SECTION("another size") { p.folder.write("models/model.gguf", model_bytes(2) + std::string(32, '\0')); }
  SECTION("same size and time, other weights") { p.folder.write("models/model.gguf", model_bytes(3)); }
  CHECK(p.ask() == p.truth());
  CHECK(p.ask() == p.truth());  // now it is remembered anew
  forge(p.side, {3, 4});
  CHECK(p.ask() == fingerprint128{3, 4});
}

TEST_CASE("gguf_fingerprint: a damaged side file isn't believed", "[io][fingerprint]") {
  const places p;
  (void)p.ask();
  const std::string good = content(p.side);
  for (std::size_t i = 0; i < good.size(); i += 7) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    std::ofstream(p.side, std::ios::binary) << bad;
    REQUIRE(p.ask() == p.truth());
    REQUIRE(content(p.side) == good);
  }
  for (const std::string& bad : {std::string(), good.substr(0, good.size() / 2), good + "x", std::string(100000, 'x')}) {
    std::ofstream(p.side, std::ios::binary) << bad;
    CHECK(p.ask() == p.truth());
    CHECK(content(p.side) == good);
  }
  fs::remove(p.side);
  fs::create_directory(p.side);  // not a file: remembered in the user's cache
  CHECK(p.ask() == p.truth());
  CHECK(fs::exists(fingerprint_files(gguf_file(p.model)).at(1)));
}

TEST_CASE("gguf_fingerprint: a folder that can't be written", "[io][fingerprint]") {
  const places p;
  fs::permissions(p.folder.path(), fs::perms::all);
  fs::create_directory(p.folder / "cache");
  fs::permissions(p.folder / "cache", fs::perms::all);
  fs::permissions(p.folder / "models", fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {  // root writes everywhere, so as somebody else
    if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) ::_exit(2);
    const fingerprint128 first = p.ask();
    const bool remembered = fs::exists(fingerprint_files(gguf_file(p.model)).at(1)) && !fs::exists(p.side);
    ::_exit(first == p.truth() && remembered && p.ask() == first ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  fs::permissions(p.folder / "models", fs::perms::owner_all);
  REQUIRE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) WARN("left out: this process can't give up being root");
  CHECK((WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 2));
}
