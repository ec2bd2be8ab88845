// llama.cpp's tokenizer vectors: files ggml-vocab-NAME.gguf with .inp (cases) and .out (ids, a line a case) beside them, as
// scripts/fetch-vectors fetches them.
#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "blockattn/text/tokenizer.hpp"
#include "support/vectors_path.hpp"

namespace {

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> cases_of(const std::string& text) {
  static const std::string mark = "\n__ggml_vocab_test__\n";
  std::vector<std::string> result;
  for (std::size_t at = 0;;) {
    const std::size_t end = text.find(mark, at);
    result.push_back(text.substr(at, end - at));
    if (end == std::string::npos) return result;
    at = end + mark.size();
  }
}

}  // namespace

TEST_CASE("llama.cpp's vectors", "[text][tokenizer][vectors]") {
  const auto folder = blockattn_test::vectors_path();
  if (!folder) {
    WARN("left out: llama.cpp's tokenizer vectors. scripts/test --models all fetches them (scripts/fetch-vectors)");
    return;
  }
  for (const std::string name : {"gpt-2", "llama-bpe", "llama-spm", "qwen2", "qwen35", "phi-3", "starcoder", "refact", "command-r", "deepseek-coder",
                                 "deepseek-llm", "falcon", "mpt", "gemma-4"}) {
    const std::string file = (*folder / ("ggml-vocab-" + name + ".gguf")).string();
    const auto t = blockattn::tokenizer::from_gguf(blockattn::gguf_file(file));
    std::istringstream lines(read(file + ".out"));
    const auto cases = cases_of(read(file + ".inp"));
    CHECK(cases.size() > 40);
    for (const std::string& text : cases) {
      std::string line;
      std::getline(lines, line);
      std::istringstream numbers(line);
      const std::vector<blockattn::token_id> expected{std::istream_iterator<blockattn::token_id>(numbers), {}};
      INFO(name << ": " << text);
      CHECK(t.encode(text, false) == expected);
      CHECK(t.decode(expected) == text);
    }
  }
}
