#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "passages.hpp"

using namespace blockattn_command;

namespace {

const body_splitter whole = [](std::string_view body) { return std::vector<std::string>{std::string(body)}; };

}  // namespace

TEST_CASE("Markdown is split at its headings", "[app][passages]") {
  const auto found =
      split_document("# Hut\n\nIntro.\n\n## Beds ##\n\n46 beds.\n\n### Winter\nSix beds.\n", "hut.md", whole);
  REQUIRE(found.size() == 3);
  CHECK(found[0] == passage{"Hut", "Intro."});
  CHECK(found[1] == passage{"Hut: Beds", "46 beds."});
  CHECK(found[2] == passage{"Hut: Winter", "Six beds."});
  CHECK(passage_text(found[1]) == "Hut: Beds\n46 beds.");
}

TEST_CASE("a number sign is a heading only where Markdown says so", "[app][passages]") {
  const auto found = split_document("# T\n#hashtag\n```\n# comment\n```\n####### seven\n", "x.MD", whole);
  REQUIRE(found.size() == 1);
  CHECK(found[0].title == "T");
  CHECK(found[0].body == "#hashtag\n```\n# comment\n```\n####### seven");
  CHECK(split_document("# C#\ntext", "x.md", whole).at(0).title == "C#");
}

TEST_CASE("plain text has a title if its first line stands alone", "[app][passages]") {
  CHECK(split_document("\n\nThe ferry\n\nIt sails.\n", "a.txt", whole).at(0) == passage{"The ferry", "It sails."});
  CHECK(split_document("It sails\nat nine.\n", "ferry.txt", whole).at(0) == passage{"ferry", "It sails\nat nine."});
  CHECK(split_document("Only one line", "ferry.txt", whole).at(0) == passage{"ferry", "Only one line"});
  CHECK(split_document("# no heading\n\nin plain text", "a.txt", whole).at(0).title == "# no heading");
  const std::string long_line(200, 'x');
  CHECK(split_document(long_line + "\n\nmore", "a.txt", whole).at(0).title == "a");
}

TEST_CASE("line ends of any kind", "[app][passages]") {
  CHECK(split_document("# Hut\r\n\r\n## Beds\r\n46 beds.\r\n", "hut.md", whole).at(0) ==
        passage{"Hut: Beds", "46 beds."});
  CHECK(split_document("Title\r\n\r\nBody\r\n", "a.txt", whole).at(0) == passage{"Title", "Body"});
}

TEST_CASE("a document without text has no passages", "[app][passages]") {
  CHECK(split_document("", "a.txt", whole).empty());
  CHECK(split_document(" \n\t\r\n", "a.txt", whole).empty());
  CHECK(split_document("# Only\n## headings\n", "a.md", whole).empty());
}

TEST_CASE("each section is split on its own", "[app][passages]") {
  const body_splitter lines = [](std::string_view body) {
    std::vector<std::string> result;
    for (std::size_t at = 0; at < body.size();) {
      const auto end = std::min(body.find('\n', at), body.size());
      result.emplace_back(body.substr(at, end - at));
      at = end + 1;
    }
    return result;
  };
  const auto found = split_document("# T\n## A\none\ntwo\n## B\nthree\n", "t.md", lines);
  REQUIRE(found.size() == 3);
  CHECK(found[1] == passage{"T: A", "two"});
  CHECK(found[2] == passage{"T: B", "three"});
}

TEST_CASE("the questions of examples/questions_check.jsonl stand over the sample documents", "[app][passages]") {
  std::vector<passage> passages;
  for (const auto& entry : std::filesystem::directory_iterator(BLOCKATTN_SOURCE_DIR "/examples/documents")) {
    std::ifstream in(entry.path());
    const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    for (passage& p : split_document(text, entry.path(), whole)) passages.push_back(std::move(p));
  }
  std::ifstream lines(BLOCKATTN_SOURCE_DIR "/examples/questions_check.jsonl");
  std::set<std::string> asked;
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::json::parse(line);
    const auto title = row["title"].get<std::string>();
    const auto text = row["text"].get<std::string>();
    INFO(line);
    CHECK(asked.insert(row["question"].get<std::string>()).second);
    CHECK(std::any_of(passages.begin(), passages.end(),
                      [&](const passage& p) { return p.title == title && p.body.find(text) != std::string::npos; }));
    CHECK(std::any_of(row["answers"].begin(), row["answers"].end(), [&](const nlohmann::json& answer) {
      const auto wanted = answer.get<std::string>();
      return std::search(text.begin(), text.end(), wanted.begin(), wanted.end(), [](unsigned char a, unsigned char b) {
               return std::tolower(a) == std::tolower(b);
             }) != text.end();
    }));
  }
  CHECK(asked.size() == 100);
}
