// Lossless segmenters: the blocks put together are the text, byte for byte, none is empty or over the limit, whatever the text.
#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "blockattn/text/segment_code.hpp"
#include "blockattn/text/segment_json.hpp"
#include "blockattn/text/segment_text.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_vocabulary.hpp"
#ifdef BLOCKATTN_WITH_GRAMMARS
#include "blockattn/text/segment_tree_sitter.hpp"
#endif

namespace {

using blockattn::index_t;
using blockattn::stretch_packing;
using blockattn::text_stretches;
using list = std::vector<std::string>;

const blockattn::tokenizer& tiny() {
  static const auto result = [] {
    const blockattn_test::temporary_file written(blockattn_test::tiny_vocabulary_file().bytes());
    return blockattn::tokenizer::from_gguf(blockattn::gguf_file(written.path()));
  }();
  return result;
}

void check_laws(std::string_view text, const text_stretches& blocks, index_t limit) {
  std::size_t at = 0;
  for (const std::string_view block : blocks) {
    REQUIRE_FALSE(block.empty());
    REQUIRE(block.data() == text.data() + at);  // a view into the text, right behind the one before
    REQUIRE(static_cast<index_t>(tiny().encode(block, false).size()) <= limit);
    if (blockattn::is_valid_utf8(text)) REQUIRE(blockattn::is_valid_utf8(block));
    at += block.size();
  }
  REQUIRE(at == text.size());
}

list strings(const text_stretches& blocks) { return {blocks.begin(), blocks.end()}; }

using segmenter = std::function<text_stretches(std::string_view, index_t)>;

std::vector<segmenter> all_segmenters() {
  std::vector<segmenter> all = {
      [](std::string_view t, index_t n) { return blockattn::markdown_blocks(t, tiny(), n); },
      [](std::string_view t, index_t n) { return blockattn::markdown_blocks(t, tiny(), n, stretch_packing::separate); },
      [](std::string_view t, index_t n) { return blockattn::example_blocks(t, tiny(), n); },
      [](std::string_view t, index_t n) { return blockattn::blocks_starting_with(t, "Q:", tiny(), n); },
      [](std::string_view t, index_t n) { return blockattn::turn_blocks(t, tiny(), n); },
      [](std::string_view t, index_t n) { return blockattn::json_blocks(t, tiny(), n).blocks; },
      [](std::string_view t, index_t n) { return blockattn::code_blocks(t, tiny(), n).blocks; },
  };
#ifdef BLOCKATTN_WITH_GRAMMARS
  for (const auto language : {blockattn::code_language::cpp, blockattn::code_language::python, blockattn::code_language::javascript})
    all.emplace_back([language](std::string_view t, index_t n) { return blockattn::code_blocks(t, language, tiny(), n).blocks; });
#endif
  return all;
}

/// A game's state of `objects` objects; those in `changed` have lost a point.
std::string game_state(int objects, const std::vector<int>& changed) {
  std::string text = "{\"turn\": 7, \"entities\": [\n";
  for (int i = 0; i < objects; ++i) {
    const bool hit = std::find(changed.begin(), changed.end(), i) != changed.end();
    text += "  {\"id\": " + std::to_string(i) + ", \"kind\": \"guard\", \"position\": [" + std::to_string(i % 17) + ", " + std::to_string(i / 17) +
            "], \"health\": " + (hit ? "9" : "10") + "}" + (i + 1 < objects ? ",\n" : "\n");
  }
  return text + "], \"weather\": {\"wind\": 3}}\n";
}

}  // namespace

TEST_CASE("lossless segmenters keep their laws on random texts", "[text][segment]") {
  std::mt19937 random(3);
  const list parts = {"Q: ",  "A: x\n", "# Head\n", "\n",  "\n\n", "```\n", "the ", "{\"a\": ", "[1, ", "]",  "}",     ", ",     "\"s\\\"\"", "def f():\n    ", "class A:\n",
                      "int f() { return 1; }\n", "<|im_start|>user\n", "你好", "🙂", "\xFF", "\xE4\xBD", " ", "\t", "User: hi\n", "// c\n", "\x00x", "function g() {}\n"};
  const auto all = all_segmenters();
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (std::size_t n = random() % 60; n > 0; --n) text += parts[random() % parts.size()];
    const auto limit = static_cast<index_t>(4 + random() % 60);
    for (const segmenter& cut : all) check_laws(text, cut(text, limit), limit);
  }
}

TEST_CASE("lossless segmenters keep their laws on long runs and refuse limits that no character fits into", "[text][segment]") {
  for (const segmenter& cut : all_segmenters()) {
    for (const std::string& text : {std::string(5000, '='), std::string(3000, '\xFF'), std::string(3000, '['), std::string(3000, '\n'), std::string()})
      check_laws(text, cut(text, 16), 16);
    CHECK_THROWS_AS(cut("text", 3), blockattn::argument_error);
  }
}

TEST_CASE("Markdown: headings stay with their text, fences and list items whole", "[text][segment]") {
  const std::string text = "intro\n\n# One\n\nfirst\n\nsecond\n\n- item\n\n  more of it\n\n```\na\n\nb\n```\n\n## Two\n### Three\nlast";
  CHECK(strings(blockattn::markdown_blocks(text, tiny(), 1000, stretch_packing::separate)) ==
        list{"intro\n\n", "# One\n\nfirst\n\n", "second\n\n", "- item\n\n  more of it\n\n", "```\na\n\nb\n```\n\n", "## Two\n### Three\nlast"});
  CHECK(blockattn::markdown_blocks(text, tiny(), 1000).size() == 1);
}

TEST_CASE("few-shot examples and turns are found by their labels", "[text][segment]") {
  CHECK(strings(blockattn::example_blocks("Answer.\nQ: a\nA: b\nQ: c\nA: d\n", tiny(), 100)) == list{"Answer.\n", "Q: a\nA: b\n", "Q: c\nA: d\n"});
  CHECK(strings(blockattn::example_blocks("x => 1\n\ny => 2\n", tiny(), 100)) == list{"x => 1\n\n", "y => 2\n"});
  CHECK(strings(blockattn::example_blocks("ex 1\nex 2\n", tiny(), 100, "ex ")) == list{"ex 1\n", "ex 2\n"});
  CHECK(strings(blockattn::turn_blocks("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n", tiny(), 100)) ==
        list{"<|im_start|>system\nS<|im_end|>\n", "<|im_start|>user\nU<|im_end|>\n"});
  CHECK(strings(blockattn::turn_blocks("User: a\nAssistant: b User: c\nUser: d", tiny(), 100)) == list{"User: a\n", "Assistant: b User: c\n", "User: d"});
  CHECK_THROWS_AS(blockattn::blocks_starting_with("a", "", tiny(), 100), blockattn::argument_error);
}

TEST_CASE("a JSON state is cut at its subtrees, and a change in two objects changes two blocks", "[text][segment]") {
  const std::string before = game_state(300, {}), after = game_state(300, {17, 203});
  const auto a = blockattn::json_blocks(before, tiny(), 120), b = blockattn::json_blocks(after, tiny(), 120);
  CHECK(a.parsed);
  CHECK(a.blocks.size() >= 300);
  REQUIRE(a.blocks.size() == b.blocks.size());
  int changed = 0;
  for (std::size_t i = 0; i < a.blocks.size(); ++i) changed += a.blocks[i] != b.blocks[i] ? 1 : 0;
  CHECK(changed == 2);
  CHECK(strings(blockattn::json_blocks("{\"a\": 1, \"b\": [2, 3], \"c\": {\"d\": \"0123456789\"}}", tiny(), 20).blocks) ==
        list{"{", "\"a\": 1, ", "\"b\": [2, 3], ", "\"c\": {", "\"d\": \"0123456789\"", "}", "}"});
}

TEST_CASE("what isn't JSON is cut by lines and the result says so", "[text][segment]") {
  for (const std::string bad : {"{\"a\": }", "[1, 2", "{\"a\" 1}", "[1,]", "\"open", "{} {}", "{a: 1}", "[1 2]"}) {
    const auto result = blockattn::json_blocks(bad, tiny(), 100);
    CHECK_FALSE(result.parsed);
    CHECK_THAT(result.note, Catch::Contains("not JSON"));
    check_laws(bad, result.blocks, 100);
  }
  CHECK_FALSE(blockattn::json_blocks(std::string(100'000, '['), tiny(), 100).parsed);
}

TEST_CASE("code without a grammar is cut before unindented lines behind blank ones", "[text][segment]") {
  const auto result = blockattn::code_blocks("a\n\n  b\n\nc {\n\n}\nd\n", tiny(), 100);
  CHECK(strings(result.blocks) == list{"a\n\n  b\n\n", "c {\n\n}\nd\n"});
  CHECK_FALSE(result.parsed);
}

#ifdef BLOCKATTN_WITH_GRAMMARS
TEST_CASE("code is cut by function and class, comments with what they describe", "[text][segment][grammar]") {
  const auto cut = [](const char* text, blockattn::code_language language, index_t limit = 1000) {
    const auto result = blockattn::code_blocks(text, language, tiny(), limit);
    CHECK(result.parsed);
    return strings(result.blocks);
  };
  CHECK(cut("#include <a>\n\n// f\nint f() {\n  return 1;\n}\n\nstruct s {\n  int x;\n};  // s\n\ntemplate <class T>\nT g(T x) { return x; }\n", blockattn::code_language::cpp) ==
        list{"#include <a>\n\n", "// f\nint f() {\n  return 1;\n}\n\n", "struct s {\n  int x;\n};  // s\n\n", "template <class T>\nT g(T x) { return x; }\n"});
  CHECK(cut("import os\n\n# f\n@cached\ndef f():\n    return 1\n\nclass A:\n    x = 1\n\n    def g(self):\n        pass\n", blockattn::code_language::python) ==
        list{"import os\n\n", "# f\n@cached\ndef f():\n    return 1\n\n", "class A:\n    x = 1\n\n    def g(self):\n        pass\n"});
  CHECK(cut("class A:\n    x = 1\n\n    def g(self):\n        pass\n\n    def h(self):\n        return 2\n", blockattn::code_language::python, 48) ==
        list{"class A:\n    x = 1\n\n", "    def g(self):\n        pass\n\n", "    def h(self):\n        return 2\n"});
  CHECK(cut("const a = 1;\nfunction f() { return a; }\nexport class B { m() {} }\n", blockattn::code_language::javascript) ==
        list{"const a = 1;\n", "function f() { return a; }\n", "export class B { m() {} }\n"});
}

TEST_CASE("code that doesn't parse falls back and says so; unknown endings are refused", "[text][segment][grammar]") {
  const auto result = blockattn::code_blocks("int f( {\n\nint g() {}\n", blockattn::code_language::cpp, tiny(), 100);
  CHECK_FALSE(result.parsed);
  CHECK_THAT(result.note, Catch::Contains("syntax error") && Catch::Contains("blank lines"));
  CHECK(strings(result.blocks) == list{"int f( {\n\n", "int g() {}\n"});
  CHECK(blockattn::code_language_of("a/b.hpp") == blockattn::code_language::cpp);
  CHECK_THROWS_WITH(blockattn::code_language_of("a.rs"), Catch::Contains(".rs") && Catch::Contains(".py"));
}
#endif
