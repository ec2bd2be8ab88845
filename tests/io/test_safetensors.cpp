// safetensors files, good and lying.
#include <catch2/catch.hpp>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "blockattn/io/safetensors.hpp"
#include "support/exact_memory.hpp"
#include "support/safetensors_writer.hpp"

using namespace blockattn;
using namespace blockattn_test;
using nlohmann::ordered_json;

namespace {

safetensors_writer valid() {
  safetensors_writer w;
  w.tensor("a.weight", {2, 3}, {1, 2, 3, 4, 5, 6}).tensor("b.weight", {3}, {0.5F, -1, 2}, "BF16").tensor("c", {1, 1, 2}, {7, 8}, "F16");
  return w;
}

/// What reading these bytes throws; read from memory of exactly that size.
std::string refused(const std::string& bytes) {
  const exact_memory memory(bytes);
  try {
    (void)safetensors_file::from_memory(memory.span(), "hostile.safetensors");
  } catch (const format_error& e) {
    CHECK_THAT(e.what(), Catch::StartsWith("[safetensors] hostile.safetensors: "));
    CHECK(std::string(e.what()).size() < 700);
    return e.what();
  }
  FAIL("the file was accepted");
  return {};
}

std::string refused(const ordered_json& header) { return refused(valid().bytes(header.dump())); }

ordered_json changed(const std::string& tensor, const std::string& key, const ordered_json& value) {
  ordered_json header = valid().header();
  header[tensor][key] = value;
  return header;
}

}  // namespace

TEST_CASE("safetensors: names, types, shapes and bytes", "[safetensors]") {
  const std::string bytes = valid().bytes();
  const exact_memory memory(bytes);
  const auto file = safetensors_file::from_memory(memory.span(), "x");
  REQUIRE(file.entries().size() == 3);
  CHECK(file.entries()[0].name == "a.weight");
  CHECK(file.entries()[0].type == dtype::f32);
  CHECK(file.entries()[0].shape == std::vector<index_t>{2, 3});
  CHECK(file.entries()[0].bytes.size() == 24);
  CHECK(file.entries()[1].type == dtype::bf16);
  CHECK(file.entries()[2].type == dtype::f16);
  CHECK(file.entries()[2].bytes.data() + 4 == memory.span().data() + memory.span().size());
}

TEST_CASE("safetensors: what only others can read is listed, not refused", "[safetensors]") {
  safetensors_writer w = valid();
  w.entries.push_back({"ids", "I64", {2}, std::string(16, 'x')});
  w.entries.push_back({"scalar", "F32", {}, std::string(4, 'x')});
  w.entries.push_back({"empty", "F32", {0, 4}, ""});
  w.entries.push_back({"four", "F4", {3}, "xy"});
  const std::string bytes = w.bytes();
  const exact_memory memory(bytes);
  const auto file = safetensors_file::from_memory(memory.span(), "x");
  CHECK(file.entries().size() == 7);
  CHECK(file.entries()[3].type == std::nullopt);
  CHECK(file.entries()[3].type_name == "I64");
}

TEST_CASE("safetensors hostile: sizes of the header", "[safetensors][hostile]") {
  const std::string whole = valid().bytes();
  for (std::size_t size = 0; size < whole.size(); size += size < 16 ? 1 : 7) CHECK(!refused(whole.substr(0, size)).empty());
  const auto with_size = [&](std::uint64_t size) {
    std::string bytes = whole;
    std::memcpy(bytes.data(), &size, sizeof(size));
    return bytes;
  };
  CHECK_THAT(refused(with_size(~std::uint64_t{0})), Catch::Contains("allowed: up to 100000000"));
  CHECK_THAT(refused(with_size(99'000'000)), Catch::Contains("needs 99000000 bytes") && Catch::Contains("Truncated"));
  CHECK_THAT(refused(with_size(0)), Catch::Contains("byte 0 of the JSON"));
  CHECK_THAT(refused(with_size(50)), Catch::Contains("of the JSON"));
  CHECK_THAT(refused(std::string("GGUF, which is another format")), Catch::Contains("Not a safetensors file?"));
  CHECK_THAT(refused(valid().bytes("[]")), Catch::Contains("isn't a JSON object"));
  CHECK_THAT(refused(valid().bytes("{\"a\": 1}")), Catch::Contains("'a' is a number; expected an object"));
}

TEST_CASE("safetensors hostile: types, shapes and offsets", "[safetensors][hostile]") {
  CHECK_THAT(refused(changed("a.weight", "dtype", "F33")), Catch::Contains("'a.weight'") && Catch::Contains("'F33'") && Catch::Contains("supported: F32, F16, BF16"));
  CHECK_THAT(refused(changed("a.weight", "dtype", 32)), Catch::Contains("'dtype' is a number; expected a string"));
  CHECK_THAT(refused(changed("a.weight", "shape", {2, 4})), Catch::Contains("has 24 bytes; 8 values of F32 need 32"));
  CHECK_THAT(refused(changed("a.weight", "shape", {2, -3})), Catch::Contains("is -3; allowed"));
  CHECK_THAT(refused(changed("a.weight", "shape", {2, 1.5})), Catch::Contains("1.5"));
  CHECK_THAT(refused(changed("a.weight", "shape", {1LL << 40, 1LL << 40})), Catch::Contains("values in all"));
  CHECK_THAT(refused(changed("a.weight", "shape", ordered_json::array_t(20, 1))), Catch::Contains("up to 16 dimensions"));
  CHECK_THAT(refused(changed("a.weight", "shape", "2x3")), Catch::Contains("expected an array"));
  CHECK_THAT(refused(changed("a.weight", "data_offsets", {0, 1000})), Catch::Contains("lies at bytes 0 to 1000") && Catch::Contains("which has 34"));
  CHECK_THAT(refused(changed("a.weight", "data_offsets", {24, 0})), Catch::Contains("lies at bytes 24 to 0"));
  CHECK_THAT(refused(changed("a.weight", "data_offsets", {-24, 0})), Catch::Contains("-24"));
  CHECK_THAT(refused(changed("a.weight", "data_offsets", ordered_json::array({0}))), Catch::Contains("has 1 numbers"));
  CHECK_THAT(refused(changed("a.weight", "data_offsets", ordered_json::array())), Catch::Contains("has 0 numbers"));
  CHECK_THAT(refused(changed("b.weight", "data_offsets", {22, 28})), Catch::Contains("'b.weight'") && Catch::Contains("overlap"));
  ordered_json hole = valid().header();
  hole.erase("b.weight");
  CHECK_THAT(refused(hole), Catch::Contains("leave a hole"));
  ordered_json less = valid().header();
  less.erase("c");
  CHECK_THAT(refused(less), Catch::Contains("the last tensor ends at byte 30"));
  ordered_json incomplete = valid().header();
  incomplete["a.weight"].erase("shape");
  CHECK_THAT(refused(incomplete), Catch::Contains("lacks 'shape'"));
  std::string twice = valid().header().dump();
  twice.replace(twice.find("b.weight"), 8, "a.weight");
  CHECK_THAT(refused(valid().bytes(twice)), Catch::Contains("'a.weight' appears twice"));
}

TEST_CASE("safetensors hostile: 10,000 mutations give an error or a file that can be read", "[safetensors][hostile]") {
  const std::string whole = valid().bytes();
  std::mt19937 random(11);
  const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % end); };
  int refusals = 0;
  for (int round = 0; round < 10000; ++round) {
    std::string bytes = whole;
    for (std::size_t change = 1 + below(3); change > 0; --change) {
      const std::size_t at = below(bytes.size());
      switch (below(4)) {
        case 0: bytes[at] = static_cast<char>(random()); break;
        case 1: bytes[at] = static_cast<char>('0' + below(10)); break;
        case 2: bytes.insert(at, 1 + below(3), static_cast<char>('0' + below(10))); break;
        default: bytes.erase(at, 1 + below(3)); break;
      }
      if (bytes.empty()) bytes = "x";
    }
    const exact_memory memory(bytes);
    try {
      const auto file = safetensors_file::from_memory(memory.span(), "mutated");
      for (const auto& entry : file.entries())
        if (!entry.bytes.empty()) {
          volatile std::byte ends = entry.bytes.front() ^ entry.bytes.back();
          (void)ends;
        }
    } catch (const error&) {
      ++refusals;
    }
  }
  CHECK(refusals > 5000);
  CHECK(refusals < 10000);
}
