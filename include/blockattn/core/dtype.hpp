// Element types of weights and cached keys/values, as they lie in files.
//
// Quantised types come in blocks of 32 values along a row (the layout of GGUF, little-endian):
//   q4_0  f16 d;        16 bytes of nibbles: value[i]    = d * ((byte[i] & 15) - 8),  value[i+16] = d * ((byte[i] >> 4) - 8)
//   q4_1  f16 d, f16 m; 16 bytes of nibbles: value[i]    = d * (byte[i] & 15) + m,    value[i+16] = d * (byte[i] >> 4) + m
//   q8_0  f16 d;        32 signed bytes:     value[i]    = d * byte[i]
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

enum class dtype : std::uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1 };

/// Values in one storage block of `type`: 1 for floats, 32 for quantised types.
[[nodiscard]] constexpr index_t block_values(dtype type) {
  switch (type) {
    case dtype::f32:
    case dtype::f16:
    case dtype::bf16: return 1;
    default: return 32;
  }
}

/// Bytes of one storage block of `type`.
[[nodiscard]] constexpr index_t block_bytes(dtype type) {
  switch (type) {
    case dtype::f32: return 4;
    case dtype::f16:
    case dtype::bf16: return 2;
    case dtype::q8_0: return 34;
    case dtype::q4_0: return 18;
    case dtype::q4_1: return 20;
  }
  return 0;
}

/// Bytes of a row of `columns` values; columns % block_values(type) == 0.
[[nodiscard]] constexpr index_t row_bytes(dtype type, index_t columns) {
  return columns / block_values(type) * block_bytes(type);
}

[[nodiscard]] constexpr const char* name(dtype type) {
  switch (type) {
    case dtype::f32: return "f32";
    case dtype::f16: return "f16";
    case dtype::bf16: return "bf16";
    case dtype::q8_0: return "q8_0";
    case dtype::q4_0: return "q4_0";
    case dtype::q4_1: return "q4_1";
  }
  return "?";
}

/// bfloat16 bits to float32: exact.
[[nodiscard]] constexpr float bf16_to_f32(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// float32 to bfloat16 bits, to nearest, ties to even; NaN stays NaN.
[[nodiscard]] constexpr std::uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

/// IEEE half precision bits to float32: exact, subnormals included.
[[nodiscard]] constexpr float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 31U;
  const std::uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

/// float32 to IEEE half precision bits, to nearest, ties to even; overflow gives infinity, NaN stays NaN.
[[nodiscard]] constexpr std::uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t rest = bits & 0x7fffffffU;
  if (rest > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
  if (rest >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);
  if (rest < 0x38800000U) {  // subnormal: the sum's unit in the last place is 2^-24
    const float shifted = std::bit_cast<float>(rest) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U));
  }
  const std::uint32_t rounded = rest + 0xfffU + ((rest >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

/// A matrix as it lies in a file, not owned. Shape [rows, columns] = [outputs, inputs], rows contiguous.
struct weight_view {
  dtype type = dtype::f32;
  const std::byte* data = nullptr;
  index_t rows = 0;
  index_t columns = 0;

  [[nodiscard]] const std::byte* row(index_t r) const { return data + r * row_bytes(type, columns); }
  [[nodiscard]] explicit operator bool() const { return data != nullptr; }
};

}  // namespace blockattn::inline v0
