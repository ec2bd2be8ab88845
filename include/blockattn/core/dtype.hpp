// Element types of weights and cached keys/values, as they lie in files.
//
// Quantised types come in blocks along a row: 32 values, or 256 for the "K" types and iq4_xs, whose blocks hold groups of 16 or 32
// values with small integer scales of their own. How the bytes of a block become values is written in core/dtype_decode.hpp.
// Two types are of keys and values alone: q5_h and q4_h, whose blocks hold the Hadamard transform of 64 values.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

enum class dtype : std::uint8_t {
  f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, q5_h, q4_h
};

/// What is fixed about a type.
struct dtype_facts {
  const char* name;
  index_t values;    ///< in one storage block: 1 for floats
  index_t bytes;     ///< of one storage block
  index_t scale_at;  ///< where in a block its first half-precision scale (or minimum) lies
  index_t scales;    ///< how many halves lie there: 0 for floats
};

inline constexpr std::array<dtype_facts, 17> all_dtype_facts = {{
    {"f32", 1, 4, 0, 0},
    {"f16", 1, 2, 0, 0},
    {"bf16", 1, 2, 0, 0},
    {"q8_0", 32, 34, 0, 1},
    {"q4_0", 32, 18, 0, 1},
    {"q4_1", 32, 20, 0, 2},
    {"q5_0", 32, 22, 0, 1},
    {"q5_1", 32, 24, 0, 2},
    {"q2_k", 256, 84, 80, 2},
    {"q3_k", 256, 110, 108, 1},
    {"q4_k", 256, 144, 0, 2},
    {"q5_k", 256, 176, 0, 2},
    {"q6_k", 256, 210, 208, 1},
    {"iq4_nl", 32, 18, 0, 1},
    {"iq4_xs", 256, 136, 0, 1},
    {"q5_h", 64, 42, 0, 1},
    {"q4_h", 64, 34, 0, 1},
}};

/// Every type of tensors in files, in the order of the enumeration.
inline constexpr auto all_dtypes = [] {
  std::array<dtype, all_dtype_facts.size() - 2> types{};
  for (std::size_t i = 0; i < types.size(); ++i) types[i] = static_cast<dtype>(i);
  return types;
}();

[[nodiscard]] constexpr const dtype_facts& facts(dtype type) { return all_dtype_facts[static_cast<std::size_t>(type)]; }

/// Values in one storage block of `type`: 1 for floats, 32, 64 or 256 for quantised types.
[[nodiscard]] constexpr index_t block_values(dtype type) { return facts(type).values; }

/// Bytes of one storage block of `type`.
[[nodiscard]] constexpr index_t block_bytes(dtype type) { return facts(type).bytes; }

/// Bytes of a row of `columns` values; columns % block_values(type) == 0. For other numbers: of the whole blocks before that value.
[[nodiscard]] constexpr index_t row_bytes(dtype type, index_t columns) {
  return columns / block_values(type) * block_bytes(type);
}

[[nodiscard]] constexpr const char* name(dtype type) { return facts(type).name; }

/// Whether values lie one by one, in a number format of their own, and not in blocks under a scale.
[[nodiscard]] constexpr bool is_float(dtype type) { return block_values(type) == 1; }

/// Whether a block holds the Hadamard transform of its values: keys and values alone.
[[nodiscard]] constexpr bool is_transformed(dtype type) { return type == dtype::q5_h || type == dtype::q4_h; }

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
