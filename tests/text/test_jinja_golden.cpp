// The Jinja interpreter against Python's jinja2, set up as transformers does: small templates of our own, and the chat
// templates of many models.
#include <catch2/catch.hpp>

#include <fstream>
#include <span>
#include <sstream>
#include <string>

#include "blockattn/core/fingerprint.hpp"
#include "support/data_path.hpp"
#include "support/jinja_json.hpp"
#include "support/vectors_path.hpp"

using blockattn_test::ordered_json;

namespace {

std::string file_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// The rendered text; nothing if the template fails.
std::optional<std::string> rendered(const std::string& source, const ordered_json& variables) {
  try {
    return blockattn_test::render(source, variables);
  } catch (const blockattn::error& e) {
    UNSCOPED_INFO(e.what());
    CHECK(std::string(e.what()).starts_with("[jinja] "));
    return std::nullopt;
  }
}

}  // namespace

TEST_CASE("small templates give what jinja2 gives", "[text][jinja]") {
  std::ifstream in(blockattn_test::golden_path("jinja.jsonl"));
  std::string line;
  REQUIRE(std::getline(in, line));
  const ordered_json variables = ordered_json::parse(line)["variables"];
  int cases = 0;
  for (; std::getline(in, line); ++cases) {
    const auto row = ordered_json::parse(line);
    INFO(line);
    const auto text = rendered(row["template"], variables);
    if (row.contains("error"))
      CHECK_FALSE(text.has_value());
    else
      CHECK(text.value_or("(failed)") == row["text"].get<std::string>());
  }
  CHECK(cases > 800);
}

TEST_CASE("chat templates of many models give what jinja2 gives", "[text][jinja]") {
  const auto vectors = blockattn_test::vectors_path();
  if (!vectors) {
    WARN("left out: the chat templates aren't here; scripts/fetch-vectors fetches them");
    return;
  }
  const auto golden = ordered_json::parse(std::ifstream(blockattn_test::golden_path("templates.json")));
  int cases = 0;
  for (const auto& [name, hashes] : golden["templates"].items()) {
    const std::string source = file_text(*vectors / "templates" / name);
    for (std::size_t i = 0; i < hashes.size(); ++i, ++cases) {
      ordered_json variables = {{"tools", nullptr}, {"documents", nullptr}};
      variables.update(golden["variables"]);
      variables.update(golden["conversations"][i]);
      INFO(name << ", conversation " << i);
      const auto text = rendered(source, variables);
      const bool is_error = hashes[i].is_null();
      CHECK(text.has_value() != is_error);
      if (text && !is_error)
        CHECK(to_string(blockattn::hash_bytes(std::as_bytes(std::span(text->data(), text->size())))) ==
              hashes[i].get<std::string>());
    }
  }
  CHECK(cases == 420);
}
