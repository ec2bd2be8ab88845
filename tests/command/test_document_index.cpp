#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <thread>

#include "blockattn/core/error.hpp"
#include "document_index.hpp"
#include "scratch_folder.hpp"

using namespace blockattn_command;
using blockattn_test::scratch_folder;
using Catch::Matchers::Contains;

namespace {

const body_splitter whole = [](std::string_view body) { return std::vector<std::string>{std::string(body)}; };

struct folder_and_index {
  scratch_folder docs;
  scratch_folder cache;
  document_index index{cache / "index.sqlite", "test"};

  folder_and_index() {
    docs.write("ferry.md", "# Ferry\n## Times\nThe last ferry leaves at seven.\n## Price\nA ticket costs 14 crowns.\n");
    docs.write("hut.txt", "The hut\n\nThe hut has 46 beds.\n");
  }
  index_report update() { return index.update(docs.path(), whole); }
  std::string best(std::string_view question) {
    const auto found = index.search(question, 3);
    return found.hits.empty() ? "" : found.hits.front().text.body;
  }
};

}  // namespace

TEST_CASE("a folder is indexed and found in", "[app][index]") {
  folder_and_index f;
  const index_report report = f.update();
  CHECK(report.indexed == 2);
  CHECK(report.passages == 3);
  CHECK(report.warnings.empty());
  const search_result found = f.index.search("How many beds are in the hut?", 3);
  REQUIRE(found.kind == match_kind::words);
  CHECK(found.hits.front().file == "hut.txt");
  CHECK(found.hits.front().text == passage{"The hut", "The hut has 46 beds."});
  CHECK(found.hits.front().score > 0);
  CHECK(f.index.search("ferry ticket hut", 1).hits.size() == 1);
}

TEST_CASE("only changed files are indexed again", "[app][index]") {
  folder_and_index f;
  f.update();
  CHECK(f.update().unchanged == 2);

  f.docs.write("hut.txt", "The hut\n\nThe hut has 50 beds and a bell.\n", 10);
  f.docs.write("sub/new.txt", "An observatory on a hill.\n");
  index_report report = f.update();
  CHECK(report.indexed == 2);
  CHECK(report.unchanged == 1);
  CHECK(f.best("beds") == "The hut has 50 beds and a bell.");
  CHECK(f.best("observatory") == "An observatory on a hill.");

  f.docs.set_age("hut.txt", 20);  // touched: its content is the same
  report = f.update();
  CHECK(report.indexed == 0);
  CHECK(report.unchanged == 3);

  std::filesystem::remove(f.docs / "hut.txt");
  report = f.update();
  CHECK(report.removed == 1);
  CHECK(f.best("bell").empty());
  CHECK(report.passages == 3);
}

TEST_CASE("another process's index is taken over without reading the documents", "[app][index]") {
  folder_and_index f;
  f.update();
  document_index again(f.cache / "index.sqlite", "test");
  CHECK(again
            .update(f.docs.path(),
                    [](std::string_view) -> std::vector<std::string> { throw std::logic_error("nothing changed"); })
            .unchanged == 2);
  document_index other_format(f.cache / "index.sqlite", "another tokenizer");
  CHECK(other_format.update(f.docs.path(), whole).indexed == 2);
}

TEST_CASE("a damaged index is built again", "[app][index]") {
  folder_and_index f;
  f.update();
  const bool header_gone = GENERATE(true, false);
  {
    std::fstream file(f.cache / "index.sqlite", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(header_gone ? 0 : 4096);
    file << std::string(4096, '\x5a');
  }
  document_index again(f.cache / "index.sqlite", "test");
  const index_report report = again.update(f.docs.path(), whole);
  CHECK(report.rebuilt);
  CHECK(report.indexed == 2);
  REQUIRE(report.warnings.size() == 1);
  CHECK_THAT(report.warnings.front(), Contains("index.sqlite") && Contains("damaged") && Contains("built again"));
  CHECK(again.search("beds", 1).hits.size() == 1);
}

TEST_CASE("a file that is no database at all is replaced", "[app][index]") {
  folder_and_index f;
  f.cache.write("index.sqlite", "this is a letter, not a database, and it's long enough to be looked at");
  CHECK(f.update().rebuilt);
  CHECK(f.best("beds") == "The hut has 46 beds.");
}

TEST_CASE("two processes index at once", "[app][index]") {
  folder_and_index f;
  for (int i = 0; i < 40; ++i)
    f.docs.write("n" + std::to_string(i) + ".txt", "Number " + std::to_string(i) + " of the beds.\n");
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    try {
      document_index mine(f.cache / "index.sqlite", "test");
      ::_exit(mine.update(f.docs.path(), whole).passages == 43 ? 0 : 1);
    } catch (...) {
      ::_exit(2);
    }
  }
  const index_report report = f.update();
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(report.passages == 43);
  CHECK(f.update().unchanged == 42);
}

TEST_CASE("threads with an index each agree", "[app][index]") {
  folder_and_index f;
  std::vector<std::int64_t> passages(4);
  std::vector<std::thread> threads;
  for (std::int64_t& count : passages)
    threads.emplace_back(
        [&] { count = document_index(f.cache / "index.sqlite", "test").update(f.docs.path(), whole).passages; });
  for (std::thread& t : threads) t.join();
  CHECK(passages == std::vector<std::int64_t>(4, 3));
}

TEST_CASE("a cancelled update leaves the index as it was", "[app][index]") {
  folder_and_index f;
  f.update();
  f.docs.write("ferry.md", "# Ferry\nNo ferry today.\n", 10);
  f.docs.write("zoo.txt", "A zoo.\n");
  CHECK_THROWS_AS(f.index.update(f.docs.path(), whole, [](std::int64_t done, std::int64_t) { return done < 1; }),
                  blockattn::cancelled_error);
  CHECK(f.best("crowns") == "A ticket costs 14 crowns.");
  CHECK(f.update().indexed == 2);
  CHECK(f.best("crowns").empty());
}

TEST_CASE("a splitter that throws leaves the index as it was", "[app][index]") {
  folder_and_index f;
  f.update();
  f.docs.write("hut.txt", "changed", 10);
  CHECK_THROWS_AS(
      f.index.update(f.docs.path(),
                     [](std::string_view) -> std::vector<std::string> { throw std::runtime_error("split"); }),
      std::runtime_error);
  CHECK(f.best("beds") == "The hut has 46 beds.");
}

TEST_CASE("invalid UTF-8 is replaced, counted and named", "[app][index]") {
  folder_and_index f;
  f.docs.write("latin.txt", "The caf\xe9 has 12 tables \xff\xfe.\n");
  const index_report report = f.update();
  CHECK(report.replaced == 3);
  REQUIRE(report.warnings.size() == 1);
  CHECK_THAT(report.warnings.front(), Contains("latin.txt") && Contains("3 invalid UTF-8"));
  CHECK(f.best("tables") == "The caf\xef\xbf\xbd has 12 tables \xef\xbf\xbd\xef\xbf\xbd.");
}

TEST_CASE("a byte order mark is no text and NUL no end", "[app][index]") {
  folder_and_index f;
  f.docs.write("bom.md", std::string("\xef\xbb\xbf# Title\nA garage\0and more", 28));
  f.update();
  const auto found = f.index.search("garage", 1);
  REQUIRE(found.hits.size() == 1);
  CHECK(found.hits[0].text == passage{"Title", "A garage and more"});
}

TEST_CASE("what can't be read is named and skipped", "[app][index]") {
  folder_and_index f;
  std::filesystem::create_symlink(f.docs / "nowhere", f.docs / "dangling.txt");
  REQUIRE(::mkfifo((f.docs / "pipe.md").c_str(), 0600) == 0);
  const index_report report = f.update();
  CHECK(report.indexed == 2);
  CHECK(report.unreadable == 2);
  REQUIRE(report.warnings.size() == 2);
  CHECK_THAT(report.warnings[0] + report.warnings[1],
             Contains("dangling.txt") && Contains("pipe.md") && Contains("skipped"));
}

TEST_CASE("a file without permission is named and skipped", "[app][index]") {
  if (::geteuid() == 0) return;  // nothing is forbidden to root; the case above covers the path
  folder_and_index f;
  std::filesystem::permissions(f.docs / "hut.txt", std::filesystem::perms::none);
  const index_report report = f.update();
  CHECK(report.unreadable == 1);
  CHECK_THAT(report.warnings.at(0), Contains("hut.txt") && Contains("skipped"));
}

TEST_CASE("folders without documents are errors that say so", "[app][index]") {
  folder_and_index f;
  scratch_folder empty;
  CHECK_THROWS_WITH(f.index.update(empty.path(), whole), Contains("no .txt or .md file"));
  empty.write("photo.jpg", "x");
  empty.write(".hidden.txt", "x");
  CHECK_THROWS_WITH(f.index.update(empty.path(), whole), Contains("no .txt or .md file"));
  empty.write("blank.txt", " \n");
  CHECK_THROWS_WITH(f.index.update(empty.path(), whole), Contains("hold no text"));
  CHECK_THROWS_WITH(f.index.update(empty / "missing", whole), Contains("missing") && Contains("no such folder"));
  CHECK_THROWS_WITH(f.index.update(empty / "blank.txt", whole), Contains("not a folder"));
}

TEST_CASE("an index that can't be written names its file", "[app][index]") {
  folder_and_index f;
  f.cache.write("plain", "a file where a folder should be");
  document_index index(f.cache / "plain" / "index.sqlite", "test");
  CHECK_THROWS_AS(index.update(f.docs.path(), whole), blockattn::io_error);
  CHECK_THROWS_WITH(index.update(f.docs.path(), whole), Contains("plain") && Contains("--cache-dir"));
}

TEST_CASE("questions full of FTS5's language are harmless", "[app][index]") {
  folder_and_index f;
  f.update();
  for (const char* question : {"\"", "beds\"", "beds OR", "NEAR(", "title:beds", "-beds", "beds*", "^beds", "(beds",
                               "beds AND NOT", "{title body}: beds", "'; DROP TABLE passages; --", "a\"b\"c", "*", ""})
    CHECK_NOTHROW(f.index.search(question, 3));
  CHECK(f.best("\"beds\" AND NOT beds") == "The hut has 46 beds.");
  CHECK(f.update().passages == 3);
}

TEST_CASE("without a matching word, beginnings are tried, then nothing is found", "[app][index]") {
  folder_and_index f;
  f.docs.write("sky.txt", "The observatory is open on Friday.\n");
  f.update();
  const auto begins = f.index.search("observations?", 3);
  CHECK(begins.kind == match_kind::beginnings);
  REQUIRE(begins.hits.size() == 1);
  CHECK(begins.hits[0].file == "sky.txt");
  CHECK(f.index.search("zebra", 3).kind == match_kind::nothing);
  CHECK(f.index.search("zebra", 3).hits.empty());
}

TEST_CASE("equal documents are ranked by name", "[app][index]") {
  folder_and_index f;
  for (const char* name : {"c.txt", "a.txt", "b.txt"}) f.docs.write(name, "The same lighthouse.\n");
  f.update();
  const auto found = f.index.search("lighthouse", 3);
  REQUIRE(found.hits.size() == 3);
  CHECK(found.hits[0].file + found.hits[1].file + found.hits[2].file == "a.txtb.txtc.txt");
}

TEST_CASE("each folder has an index of its own", "[app][index]") {
  scratch_folder a;
  scratch_folder b;
  CHECK(default_cache_directory(a.path()) == default_cache_directory(a.path() / "."));
  CHECK(default_cache_directory(a.path()) != default_cache_directory(b.path()));
  CHECK(default_cache_directory(a.path()).parent_path().filename() == "blockattn");
}
