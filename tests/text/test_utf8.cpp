// UTF-8: the standard's own examples, all characters, and random bytes against a slow oracle.
#include <catch2/catch.hpp>

#include <algorithm>
#include <random>
#include <set>
#include <string>

#include "blockattn/text/utf8.hpp"

namespace {

std::string utf8_of(char32_t c) {
  const auto tail = [&](unsigned shift) { return static_cast<char>(0x80U | ((c >> shift) & 63U)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0U | (c >> 6)), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0U | (c >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xF0U | (c >> 18)), tail(12), tail(6), tail(0)};
}

bool is_character(const std::string& bytes) {  // by value, not by table
  const auto b = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const std::size_t length = b(0) < 0x80 ? 1 : b(0) >> 5 == 6 ? 2 : b(0) >> 4 == 14 ? 3 : b(0) >> 3 == 30 ? 4 : 0;
  if (length != bytes.size()) return false;
  char32_t value = length == 1 ? b(0) : b(0) & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if (b(i) >> 6 != 2) return false;
    value = value << 6 | (b(i) & 63U);
  }
  return value <= 0x10FFFF && (value < 0xD800 || value > 0xDFFF) && utf8_of(value) == bytes;
}

/// Whether `bytes` are a character or the beginning of one.
bool begins_character(const std::string& bytes) {
  static const std::set<std::string> beginnings = [] {
    std::set<std::string> all;
    for (char32_t c = 0; c < 0x110000; c += c < 0x800 ? 1 : 16) {  // tails of neighbours differ in the last byte only
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      const std::string character = utf8_of(c);
      for (std::size_t size = 1; size < character.size(); ++size) all.insert(character.substr(0, size));
    }
    return all;
  }();
  return is_character(bytes) || beginnings.count(bytes) != 0;
}

std::string mended(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t length = 0;
    while (at + length < text.size() && begins_character(text.substr(at, length + 1)) &&
           (length == 0 || !is_character(text.substr(at, length))))
      ++length;
    if (length > 0 && is_character(text.substr(at, length)))
      out += text.substr(at, length);
    else
      out += "\xEF\xBF\xBD";
    at += std::max<std::size_t>(length, 1);
  }
  return out;
}

}  // namespace

TEST_CASE("maximal subparts are replaced as the standard's examples say", "[text][utf8]") {
  const std::string r = "\xEF\xBF\xBD";
  const auto check = [](const std::string& text, const std::string& expected, blockattn::index_t replaced) {
    const auto result = blockattn::to_valid_utf8(text);
    CHECK(result.text == expected);
    CHECK(result.replaced == replaced);
    CHECK_FALSE(blockattn::is_valid_utf8(text));
  };
  check("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", r + r + r + r + r + r + r + r + "A", 8);  // overlong forms
  check("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", r + r + r + r + r + r + r + r + "A", 8);  // surrogates
  check("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", r + r + r + r + r + "A" + r + r + "B",
        7);                                                               // above U+10FFFF, lone tails
  check("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", r + r + r + r + "A", 4);  // cut sequences
  check("abc\xE2\x82", "abc" + r, 1);
  check("\xFE\xFF", r + r, 2);
}

TEST_CASE("every character is valid and comes back", "[text][utf8]") {
  std::string all;
  for (char32_t c = 0; c < 0x110000; ++c)
    if (c < 0xD800 || c > 0xDFFF) all += utf8_of(c);
  CHECK(blockattn::is_valid_utf8(all));
  const auto result = blockattn::to_valid_utf8(all);
  CHECK(result.replaced == 0);
  CHECK((result.text == all));
  CHECK(blockattn::is_valid_utf8(""));
  CHECK(blockattn::to_valid_utf8("").text.empty());
}

TEST_CASE("random bytes are mended as by a slow oracle", "[text][utf8]") {
  std::mt19937 random(7);
  const std::string often =
      "\xC2\xDF\xE0\xE1\xED\xEF\xF0\xF1\xF4\xF5\x80\x8F\x90\x9F\xA0\xBF"
      "a";
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (std::size_t size = random() % 24; text.size() < size;)
      text += random() % 4 == 0 ? static_cast<char>(random() % 256) : often[random() % often.size()];
    const auto result = blockattn::to_valid_utf8(text);
    REQUIRE(result.text == mended(text));
    REQUIRE(blockattn::is_valid_utf8(result.text));
    REQUIRE(blockattn::is_valid_utf8(text) == (result.replaced == 0));
  }
}
