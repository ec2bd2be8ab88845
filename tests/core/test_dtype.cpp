// Conversions between floats: every half and bfloat16, and every float where rounding turns, against arithmetic in
// double precision.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>

#include "blockattn/core/dtype.hpp"

using namespace blockattn;

namespace {

/// The value of a float of 1 sign bit, `exponent_bits` and `mantissa_bits`, by the definition of the format.
double value_of(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double mantissa = static_cast<double>(bits & ((1U << mantissa_bits) - 1));
  const double sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + std::ldexp(1.0, mantissa_bits), exponent - bias - mantissa_bits);
}

/// `value` rounded to the format's nearest, ties to even: in units of the last place, with std::nearbyint in double
/// precision.
double rounded(double value, int exponent_bits, int mantissa_bits) {
  if (!std::isfinite(value) || value == 0) return value;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = std::max(std::ilogb(value), 1 - bias);
  const double unit = std::ldexp(1.0, exponent - mantissa_bits);
  const double result = std::nearbyint(value / unit) * unit;
  return std::abs(result) >= std::ldexp(1.0, bias + 1) ? std::copysign(std::numeric_limits<double>::infinity(), value)
                                                       : result;
}

bool same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

/// Checks both conversions of one float; counts instead of asserting, for speed.
int wrong(float value) {
  const double exact = value;
  return (same(value_of(f32_to_f16(value), 5, 10), rounded(exact, 5, 10)) ? 0 : 1) +
         (same(value_of(f32_to_bf16(value), 8, 7), rounded(exact, 8, 7)) ? 0 : 1);
}

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

}  // namespace

TEST_CASE("dtype: every half and bfloat16 becomes the float it stands for, and comes back") {
  int wrong_values = 0, wrong_ways_back = 0;
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float half = f16_to_f32(bits), bf16 = bf16_to_f32(bits);
    if (!same(half, value_of(i, 5, 10)) || !same(bf16, value_of(i, 8, 7))) ++wrong_values;
    if (std::isnan(half) ? !std::isnan(f16_to_f32(f32_to_f16(half))) : f32_to_f16(half) != bits) ++wrong_ways_back;
    if (std::isnan(bf16) ? !std::isnan(bf16_to_f32(f32_to_bf16(bf16))) : f32_to_bf16(bf16) != bits) ++wrong_ways_back;
  }
  CHECK(wrong_values == 0);
  CHECK(wrong_ways_back == 0);
}

TEST_CASE("dtype: floats are rounded to nearest, ties to even, around every point where that turns") {
  // All 2^16 upper halves of a float's bits, each with the lower bits at, just before and just after ties of both
  // formats.
  int wrong_values = 0;
  for (std::uint32_t upper = 0; upper < 0x10000; ++upper)
    for (const std::uint32_t lower :
         {0x0000U, 0x0001U, 0x0fffU, 0x1000U, 0x1001U, 0x1fffU, 0x2000U, 0x2fffU, 0x3000U, 0x3001U, 0x4000U, 0x7fffU,
          0x8000U, 0x8001U, 0xc000U, 0xefffU, 0xf000U, 0xf001U, 0xffffU})
      wrong_values += wrong(from_bits(upper << 16 | lower));
  CHECK(wrong_values == 0);

  // Halfway between neighbouring halves, also the subnormal ones and the last before infinity.
  for (std::uint32_t i = 0; i < 0x7c00; ++i) {
    const double low = value_of(i, 5, 10), high = i == 0x7bff ? 65536.0 : value_of(i + 1, 5, 10);
    const auto middle = static_cast<float>((low + high) / 2);
    for (const float value : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1e9F)})
      wrong_values += wrong(value) + wrong(-value);
  }
  CHECK(wrong_values == 0);

  std::mt19937 random(1);
  for (int i = 0; i < 1000000; ++i) wrong_values += wrong(from_bits(static_cast<std::uint32_t>(random())));
  CHECK(wrong_values == 0);
}

TEST_CASE("dtype: sizes of rows") {
  CHECK(row_bytes(dtype::f32, 64) == 256);
  CHECK(row_bytes(dtype::f16, 64) == 128);
  CHECK(row_bytes(dtype::bf16, 64) == 128);
  CHECK(row_bytes(dtype::q8_0, 64) == 68);
  CHECK(row_bytes(dtype::q4_0, 64) == 36);
  CHECK(row_bytes(dtype::q4_1, 64) == 40);
  CHECK(row_bytes(dtype::q4_k, 512) == 288);
  CHECK(row_bytes(dtype::q6_k, 256) == 210);
  CHECK(row_bytes(dtype::q5_h, 128) == 84);
  CHECK(row_bytes(dtype::q4_h, 128) == 68);
  CHECK(std::string(name(all_dtypes.back())) == "iq4_xs");  // the types of files: without those of keys and values alone
  for (const dtype type : all_dtypes) CHECK_FALSE(is_transformed(type));
  for (const dtype type : all_dtypes) {
    CHECK(facts(type).scale_at + 2 * facts(type).scales <= block_bytes(type));
    CHECK(is_float(type) == (facts(type).scales == 0));
  }

  const std::byte data[40]{};
  const weight_view view{dtype::q4_1, data, 2, 32};
  CHECK(view.row(1) == data + 20);
  CHECK(view);
  CHECK_FALSE(weight_view{});
}
