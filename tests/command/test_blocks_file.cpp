#include <catch2/catch.hpp>

#include "blockattn/core/error.hpp"
#include "blocks_file.hpp"
#include "scratch_folder.hpp"

using namespace blockattn_command;
using Catch::Matchers::Contains;

TEST_CASE("a file of blocks", "[app][blocks]") {
  CHECK(parse_blocks(R"({"blocks": ["a", "b\n", "é\u00e9"], "note": 1})", "f") ==
        std::vector<std::string>{"a", "b\n", "éé"});
  blockattn_test::scratch_folder folder;
  folder.write("prompt.json", R"({"blocks": ["final"]})");
  CHECK(read_blocks((folder / "prompt.json").string()) == std::vector<std::string>{"final"});
  CHECK_THROWS_AS(read_blocks((folder / "missing.json").string()), blockattn::io_error);
}

TEST_CASE("what is no file of blocks is refused by name", "[app][blocks]") {
  const auto refused = [](const char* text, const char* reason) {
    CHECK_THROWS_AS(parse_blocks(text, "f.json"), blockattn::format_error);
    CHECK_THROWS_WITH(parse_blocks(text, "f.json"), Contains("f.json") && Contains(reason));
  };
  refused("", "not valid JSON");
  refused("{\"blocks\": [\"a\"", "not valid JSON");
  refused("{\"blocks\": [\"\xff\"]}", "not valid JSON");
  refused(R"(["a"])", "no key \"blocks\"");
  refused(R"({"block": ["a"]})", "no key \"blocks\"");
  refused(R"({"blocks": "a"})", "of type string");
  refused(R"({"blocks": []})", "is empty");
  refused(R"({"blocks": ["a", 3]})", "block 1 is of type number");
  refused(R"({"blocks": ["a", ""]})", "block 1 of 2 is empty");
}
