// core/fingerprint.hpp: values of XXH3-128 computed independently (Python's xxhash), text and byte forms.
#include "blockattn/core/fingerprint.hpp"

#include <catch2/catch.hpp>
#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <vector>

using namespace blockattn;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

TEST_CASE("fingerprint: values of XXH3-128", "[core][fingerprint]") {
  CHECK(to_string(hash_bytes({})) == "99aa06d3014798d86001c324468d497f");
  CHECK(to_string(hash_bytes(bytes_of("blockattn"))) == "4c9af0d3ad7a41187dd8397e0108762a");
  CHECK(to_string(hash_bytes(bytes_of("blockattn"), 7)) == "7402948f276893c176db63964ae53c79");
  std::vector<std::byte> long_input(1000);
  for (std::size_t i = 0; i < long_input.size(); ++i) long_input[i] = static_cast<std::byte>(i % 251);
  CHECK(to_string(hash_bytes(long_input)) == "18bf41bc8229e27733ef703fb2b20ed1");
}

TEST_CASE("fingerprint: bytes are little-endian, low half first; text has the high half first", "[core][fingerprint]") {
  constexpr fingerprint128 value{0x0706050403020100U, 0x0f0e0d0c0b0a0908U};
  constexpr auto bytes = to_bytes(value);
  for (std::size_t i = 0; i < bytes.size(); ++i) CHECK(std::to_integer<std::size_t>(bytes[i]) == i);
  CHECK(to_string(value) == "0f0e0d0c0b0a09080706050403020100");
  CHECK(to_string(fingerprint128{}) == "00000000000000000000000000000000");
}

TEST_CASE("fingerprint: combine depends on order", "[core][fingerprint]") {
  const fingerprint128 a{1, 2}, b{3, 4};
  CHECK(to_string(combine(a, b)) == "93e085440feb4ed733491ce3a4ecfabd");
  CHECK(combine(a, b) != combine(b, a));
  CHECK(combine(a, {}) != a);
}

TEST_CASE("fingerprint: equality looks at both halves", "[core][fingerprint]") {
  std::unordered_set<fingerprint128> set;
  set.insert({1, 2});
  set.insert({1, 3});
  set.insert({2, 2});
  set.insert({1, 2});
  CHECK(set.size() == 3);
  CHECK(std::is_trivially_copyable_v<fingerprint128>);
}

TEST_CASE("fingerprint: text and back", "[core][fingerprint]") {
  constexpr fingerprint128 value{0x0706050403020100U, 0xff0e0d0c0b0a0908U};
  CHECK(parse_fingerprint(to_string(value)) == value);
  for (const char* wrong : {"", "ff", "ff0e0d0c0b0a0908070605040302010", "ff0e0d0c0b0a09080706050403020100a", "FF0e0d0c0b0a09080706050403020100",
                            "gf0e0d0c0b0a09080706050403020100"})
    CHECK_FALSE(parse_fingerprint(wrong).has_value());
}

TEST_CASE("fingerprint: parts name what differs", "[core][fingerprint]") {
  fingerprint_parts a;
  a.add("weights", "1234");
  a.add("kv", "f16");
  a.add("isa", "avx2");
  CHECK(fingerprint_parts::parse(a.text()).parts == a.parts);
  CHECK(fingerprint_parts::parse("no equal sign\nx=1=2").value("x") == "1=2");
  CHECK(a.hash() == fingerprint_parts::parse(a.text()).hash());
  CHECK(difference(a, a).empty());
  fingerprint_parts b;
  b.add("weights", std::string(100, '7'));
  b.add("kv", "f16");
  b.add("adapters", "none");
  CHECK(b.hash() != a.hash());
  CHECK(difference(a, b) == "weights: 1234 there, " + std::string(37, '7') + "... here; adapters: nothing there, none here; isa: avx2 there, nothing here");
}
