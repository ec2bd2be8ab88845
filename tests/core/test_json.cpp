// The JSON reader against nlohmann's: what is accepted, what is refused, and what the values are.
#include <catch2/catch.hpp>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "blockattn/core/json.hpp"

using namespace blockattn;

namespace {

bool same(const json_value& got, const nlohmann::json& expected) {
  switch (got.kind()) {
    case json_kind::null: return expected.is_null();
    case json_kind::boolean: return expected.is_boolean() && got.boolean() == expected.get<bool>();
    case json_kind::string: return expected.is_string() && got.string() == expected.get<std::string>();
    case json_kind::number:
      if (expected.is_number_unsigned()) return got.number<std::uint64_t>() == expected.get<std::uint64_t>();
      if (expected.is_number_integer()) return got.number<std::int64_t>() == expected.get<std::int64_t>();
      return got.number<double>() == expected.get<double>();
    case json_kind::array: {
      if (!expected.is_array() || got.size() != expected.size()) return false;
      std::size_t i = 0;
      for (const auto& element : got.elements())
        if (!same(element.value, expected[i++])) return false;
      return i == expected.size();
    }
    case json_kind::object: {
      if (!expected.is_object() || got.size() != expected.size()) return false;
      for (const auto& [key, value] : got.members())
        if (!expected.contains(std::string(key)) || !same(value, expected[std::string(key)])) return false;
      return true;
    }
  }
  return false;
}

/// What parsing or `ask` throws; empty if nothing.
std::string refused(const std::string& text, void (*ask)(const json_value&) = [](const json_value&) {}) {
  try {
    const json_document document(text, "[test] x.json");
    ask(document.root());
  } catch (const format_error& e) {
    CHECK_THAT(e.what(), Catch::StartsWith("[test] x.json: "));
    return e.what();
  }
  return {};
}

constexpr const char* sample =
    R"( {"a": [1, -2.5e3, 0, 1e-400, 12345678901234567890, -9223372036854775808], "ünï": "Grüße \u00e9\ud83d\ude00\n\"\\\/\b\f\r\t", "": {}, "list": [[], [[]], {"x": null}],)"
    R"( "t": true, "f": false, "text": "plain", "deep": {"b": {"c": [{"d": "e"}]}}} )";

}  // namespace

TEST_CASE("json: a document is what nlohmann's reader says it is", "[json]") {
  const std::string text = sample;
  const json_document document(text, "[test] x.json");
  CHECK(same(document.root(), nlohmann::json::parse(text)));
  const json_value root = document.root();
  CHECK(root.size() == 8);
  CHECK(root.at("deep").at("b").at("c").size() == 1);
  CHECK(root.find("missing") == std::nullopt);
  CHECK(root.at("list").is_array());
  const std::string_view plain = root.at("text").string();
  CHECK(plain.data() > text.data());  // where it lies
  CHECK(plain.data() < text.data() + text.size());
}

TEST_CASE("json: 30,000 mutations are accepted and refused as nlohmann's reader does", "[json]") {
  const std::string whole = sample;
  std::mt19937 random(7);
  const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % end); };
  constexpr std::string_view likely = "{}[]\",:0123456789.eE+-tfn\\u \n\xc3\xa9\xf0";
  int accepted = 0;
  for (int round = 0; round < 30000; ++round) {
    std::string text = whole.substr(below(3) == 0 ? below(whole.size()) : 0);
    for (std::size_t change = below(3); change > 0 && !text.empty(); --change) {
      const std::size_t at = below(text.size());
      const char c = likely[below(likely.size())];
      switch (below(3)) {
        case 0: text[at] = c; break;
        case 1: text.insert(at, 1, c); break;
        default: text.erase(at, 1 + below(4)); break;
      }
    }
    const auto expected = nlohmann::json::parse(text, nullptr, false);
    INFO(text);
    const std::string message = refused(text);
    if (message.find("appears twice") != std::string::npos || message.find("[test] x.json: the value") != std::string::npos) continue;
    const bool number_too_large = expected.is_discarded() && message.empty();  // nlohmann's refuses 1e999 at once
    if (number_too_large) CHECK(text.find_first_of("eE") != std::string::npos);
    if (!number_too_large) REQUIRE(message.empty() == !expected.is_discarded());
    if (message.empty() && !expected.is_discarded()) {
      ++accepted;
      const json_document document(text, "[test] x.json");
      REQUIRE(same(document.root(), expected));
    }
  }
  CHECK(accepted > 3000);
}

TEST_CASE("json: what is refused says where and why", "[json]") {
  CHECK_THAT(refused(""), Catch::Contains("at byte 0") && Catch::Contains("got the end"));
  CHECK_THAT(refused("{\"a\": 1"), Catch::Contains("at byte 7") && Catch::Contains("',' or '}'"));
  CHECK_THAT(refused("[1,]"), Catch::Contains("a value"));
  CHECK_THAT(refused("{\"a\":1,}"), Catch::Contains("a value after ','"));
  CHECK_THAT(refused("{a:1}"), Catch::Contains("a key in quotes") && Catch::Contains("'a'"));
  CHECK_THAT(refused("[1] 2"), Catch::Contains("the end"));
  CHECK_THAT(refused("NaN"), Catch::Contains("a value"));
  CHECK_THAT(refused("[01]"), Catch::Contains("','"));
  CHECK_THAT(refused("\"\\ud800\""), Catch::Contains("surrogate"));
  CHECK_THAT(refused("\"\xff\""), Catch::Contains("UTF-8"));
  CHECK_THAT(refused("\"a\nb\""), Catch::Contains("byte 10"));
  CHECK_THAT(refused(R"({"a": 1, "b": 2, "a": 3})"), Catch::Contains("'a' appears twice"));
  CHECK_THAT(refused(std::string(1000000, '[')), Catch::Contains("deeper than 64"));
  CHECK(refused(std::string(64, '[') + std::string(64, ']')).empty());
}

TEST_CASE("json: a value of another kind is named with its key", "[json]") {
  CHECK_THAT(refused(R"({"heads": "four"})", [](const json_value& v) { (void)v.at("heads").number<int>(); }),
             Catch::Contains("'heads' is a string; expected a number"));
  CHECK_THAT(refused(R"({"heads": 4.5})", [](const json_value& v) { (void)v.at("heads").number<int>(); }), Catch::Contains("'heads' is 4.5"));
  CHECK_THAT(refused(R"({"heads": -1})", [](const json_value& v) { (void)v.at("heads").number<std::uint32_t>(); }), Catch::Contains("'heads' is -1"));
  CHECK_THAT(refused(R"({"heads": 1e999})", [](const json_value& v) { (void)v.at("heads").number<double>(); }), Catch::Contains("1e999"));
  CHECK_THAT(refused(R"({"heads": 1000000000000000019884624838656})", [](const json_value& v) { (void)v.at("heads").number<std::int64_t>(); }), Catch::Contains("can't be used"));
  CHECK_THAT(refused(R"({"heads": 1e300})", [](const json_value& v) { (void)v.at("heads").number<float>(); }), Catch::Contains("can't be used"));
  CHECK_THAT(refused("{}", [](const json_value& v) { (void)v.at("hidden_size"); }), Catch::Contains("lacks 'hidden_size'"));
  CHECK_THAT(refused(R"({"hidden_size": null})", [](const json_value& v) { (void)v.at("hidden_size"); }), Catch::Contains("lacks 'hidden_size'"));
  CHECK_THAT(refused("[]", [](const json_value& v) { (void)v.at("x"); }), Catch::Contains("is an array; expected an object"));
  CHECK(refused(R"({"n": 4096.0})", [](const json_value& v) { CHECK(v.at("n").number<int>() == 4096); }).empty());
}
