// The reference decoders against gguf-py, to the bit: tests/golden/dtypes.txt, made by scripts/golden/make_dtype_golden.py.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "blockattn/core/dtype_decode.hpp"
#include "support/data_path.hpp"

using namespace blockattn;

namespace {

struct golden_block {
  dtype type;
  std::vector<std::byte> bytes;
  std::uint64_t hash;
  std::vector<std::uint32_t> values;  ///< given for the first block of a type
};

dtype named(const std::string& text) {
  for (const dtype type : all_dtypes)
    if (text == name(type)) return type;
  throw std::runtime_error("no dtype '" + text + "'");
}

std::vector<golden_block> golden_blocks() {
  std::ifstream in(blockattn_test::golden_path("dtypes.txt"));
  std::vector<golden_block> blocks;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string type, bytes, hash, value;
    fields >> type >> bytes >> hash;
    golden_block block{named(type), {}, std::stoull(hash, nullptr, 16), {}};
    for (std::size_t i = 0; i < bytes.size(); i += 2)
      block.bytes.push_back(static_cast<std::byte>(std::stoi(bytes.substr(i, 2), nullptr, 16)));
    while (std::getline(fields, value, ',')) block.values.push_back(static_cast<std::uint32_t>(std::stoul(value, nullptr, 16)));
    blocks.push_back(std::move(block));
  }
  return blocks;
}

std::uint32_t bits_of(float x) { return std::isnan(x) ? 0x7fc00000U : std::bit_cast<std::uint32_t>(x); }

/// FNV-1a over the values' bytes.
std::uint64_t hash_of(const std::vector<float>& values) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const float x : values)
    for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ ((bits_of(x) >> shift) & 255U)) * 0x100000001b3U;
  return hash;
}

}  // namespace

TEST_CASE("dtype: blocks of every type decode to the bits that gguf-py gives, extreme scales included") {
  std::map<dtype, int> seen;
  for (const golden_block& block : golden_blocks()) {
    INFO(name(block.type) << ", block " << seen[block.type]);
    ++seen[block.type];
    const auto n = static_cast<index_t>(block.bytes.size()) / block_bytes(block.type) * block_values(block.type);
    REQUIRE(row_bytes(block.type, n) == static_cast<index_t>(block.bytes.size()));
    std::vector<float> values(static_cast<std::size_t>(n));
    decode_row(block.type, block.bytes.data(), values.data(), n);
    for (std::size_t i = 0; i < block.values.size(); ++i) REQUIRE(bits_of(values[i]) == block.values[i]);
    CHECK(hash_of(values) == block.hash);
  }
  for (const dtype type : all_dtypes) CHECK(seen[type] == (is_float(type) ? 8 : 19));
}

TEST_CASE("dtype: a row is its blocks one after the other") {
  std::map<dtype, std::vector<std::byte>> rows;
  for (const golden_block& block : golden_blocks()) rows[block.type].insert(rows[block.type].end(), block.bytes.begin(), block.bytes.end());
  for (const auto& [type, bytes] : rows) {
    INFO(name(type));
    const index_t values = is_float(type) ? 32 : block_values(type);
    const auto n = static_cast<index_t>(bytes.size()) / block_bytes(type) * block_values(type);
    std::vector<float> row(static_cast<std::size_t>(n)), block(static_cast<std::size_t>(values));
    decode_row(type, bytes.data(), row.data(), n);
    for (index_t at = 0; at < n; at += values) {
      decode_row(type, bytes.data() + row_bytes(type, at), block.data(), values);
      for (index_t i = 0; i < values; ++i)
        REQUIRE(bits_of(row[static_cast<std::size_t>(at + i)]) == bits_of(block[static_cast<std::size_t>(i)]));
    }
  }
}

TEST_CASE("dtype: transformed blocks decode to the sums of their levels, by hand") {
  std::vector<float> x(128);
  const auto decoded = [&](dtype type, const std::vector<std::byte>& row) {
    decode_row(type, row.data(), x.data(), 64);
    return x;
  };
  std::vector<std::byte> four(34, std::byte{0x88});  // all 6, the level after zero
  four[0] = std::byte{0}, four[1] = std::byte{0x3c};  // scale 1
  decoded(dtype::q4_h, four);
  CHECK(x[0] == 6 * 8);
  for (std::size_t i = 1; i < 64; ++i) CHECK(x[i] == 0);
  four[2] = std::byte{0x8f};  // value 0 is 127, so 121 more, an eighth of it everywhere
  decoded(dtype::q4_h, four);
  for (std::size_t i = 0; i < 64; ++i) CHECK(x[i] == (i == 0 ? 48 : 0) + 121 / 8.0F);
  four[2] = std::byte{0xf8};  // value 16 is: with a minus where i has that bit
  decoded(dtype::q4_h, four);
  for (std::size_t i = 0; i < 64; ++i) CHECK(x[i] == (i == 0 ? 48 : 0) + ((i & 16) != 0 ? -121 : 121) / 8.0F);

  std::vector<std::byte> five(42, std::byte{0x22});  // all 15
  five[0] = std::byte{0}, five[1] = std::byte{0xb8};  // scale -1/2
  for (std::size_t i = 2; i < 10; ++i) five[i] = std::byte{0xaa};  // odd values are negative: all in one coefficient
  decoded(dtype::q5_h, five);
  for (std::size_t i = 0; i < 64; ++i) CHECK(x[i] == (i == 1 ? -60 : 0));
  five[10 + 16] = std::byte{0x2f};  // value 32 is 127
  decoded(dtype::q5_h, five);
  for (std::size_t i = 0; i < 64; ++i) CHECK(x[i] == (i == 1 ? -60 : 0) - ((i & 32) != 0 ? -112 : 112) / 16.0F);

  std::vector<std::byte> two = five;  // a row is its blocks one after the other
  two.insert(two.end(), five.begin(), five.end());
  decode_row(dtype::q5_h, two.data(), x.data(), 128);
  for (std::size_t i = 0; i < 64; ++i) CHECK(x[64 + i] == x[i]);
}
