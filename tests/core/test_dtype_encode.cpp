// The quantisers against gguf-py, to the bit: tests/golden/quantized.txt, made by scripts/golden/make_quantize_golden.py.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "blockattn/core/dtype_decode.hpp"
#include "blockattn/core/dtype_encode.hpp"
#include "support/data_path.hpp"

using namespace blockattn;

namespace {

std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < text.size(); i += 2) bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

struct golden_row {
  dtype type;
  std::vector<float> values;
  std::vector<std::byte> block;
};

std::vector<golden_row> golden_rows() {
  std::ifstream in(blockattn_test::golden_path("quantized.txt"));
  std::vector<golden_row> rows;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string type, values, block;
    fields >> type >> values >> block;
    golden_row row{type == "q8_0" ? dtype::q8_0 : dtype::q4_0, std::vector<float>(32), from_hex(block)};
    std::memcpy(row.values.data(), from_hex(values).data(), 128);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

TEST_CASE("dtype: q8_0 and q4_0 blocks are gguf-py's to the bit", "[dtype]") {
  const auto rows = golden_rows();
  REQUIRE(rows.size() > 50);
  for (const golden_row& row : rows) {
    INFO(name(row.type) << ", first value " << row.values[0]);
    std::vector<std::byte> block(static_cast<std::size_t>(row_bytes(row.type, 32)));
    CHECK(encode_row(row.type, row.values.data(), 32, block.data()));
    CHECK(block == row.block);
  }
}

TEST_CASE("dtype: a row is encoded block by block, and decodes to values within a step", "[dtype]") {
  for (const dtype type : {dtype::q8_0, dtype::q4_0}) {
    std::vector<float> values;
    for (const golden_row& row : golden_rows())
      if (row.type == type && std::abs(row.values[0]) < 1000 && std::abs(row.values[0]) > 1e-3) values.insert(values.end(), row.values.begin(), row.values.end());
    const auto n = static_cast<index_t>(values.size());
    std::vector<std::byte> row(static_cast<std::size_t>(row_bytes(type, n)));
    REQUIRE(encode_row(type, values.data(), n, row.data()));
    std::vector<float> back(values.size());
    decode_row(type, row.data(), back.data(), n);
    for (index_t at = 0; at < n; at += 32) {
      float largest = 0;
      for (index_t i = at; i < at + 32; ++i) largest = std::max(largest, std::abs(values[static_cast<std::size_t>(i)]));
      const float step = type == dtype::q8_0 ? largest / 127 * 0.57F : largest / 8 * 1.01F;  // half a step, and that the scale is rounded to half precision; q4_0's last level lacks a partner
      for (index_t i = at; i < at + 32; ++i) CHECK(std::abs(back[static_cast<std::size_t>(i)] - values[static_cast<std::size_t>(i)]) <= step);
    }
  }
}

TEST_CASE("dtype: what no half-precision scale can hold is refused", "[dtype]") {
  for (const dtype type : {dtype::q8_0, dtype::q4_0})
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf(""), 1e30F, -1e8F}) {
      std::vector<float> values(64, 1);
      values[40] = bad;
      std::vector<std::byte> row(static_cast<std::size_t>(row_bytes(type, 64)));
      CHECK_FALSE(encode_row(type, values.data(), 64, row.data()));
    }
  CHECK_FALSE(can_encode(dtype::q4_k));
}
