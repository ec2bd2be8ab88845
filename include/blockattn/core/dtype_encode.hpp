// From float32 to quantised blocks: q8_0 and q4_0, by the rules of ggml's reference quantisers, to the bit of gguf-py's.
//
//   q8_0  d = max|x| / 127; q = x / d rounded to nearest, halves away from zero
//   q4_0  d = m / -8, m being the value of the largest magnitude (the first of equals); q = min(15, trunc(x / d + 8.5))
// x / d is x * (1 / d) in float32, with d before it is rounded to half precision; 1 / d counts as 0 where it isn't finite. See dtype_decode.hpp for the layouts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "blockattn/core/dtype.hpp"

namespace blockattn::inline v0 {

[[nodiscard]] constexpr bool can_encode(dtype type) { return type == dtype::q8_0 || type == dtype::q4_0; }

namespace detail {

inline void put_half(std::uint8_t* out, float value) {
  const std::uint16_t bits = f32_to_f16(value);
  out[0] = static_cast<std::uint8_t>(bits & 255U);
  out[1] = static_cast<std::uint8_t>(bits >> 8);
}

[[nodiscard]] inline float inverse_of(float d) {
  const float inverse = d != 0 ? 1 / d : 0;
  return std::isfinite(inverse) ? inverse : 0;
}

inline void encode_q8_0(const float* x, float magnitude, std::uint8_t* out) {
  const float d = magnitude / 127, inverse = inverse_of(d);
  put_half(out, d);
  for (int i = 0; i < 32; ++i) out[2 + i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(std::round(x[i] * inverse)));
}

inline void encode_q4_0(const float* x, float largest, std::uint8_t* out) {
  const float d = largest / -8, inverse = inverse_of(d);
  put_half(out, d);
  const auto nibble = [&](int i) {  // by way of double, so that no compiler fuses the product and the sum
    const auto scaled = static_cast<float>(static_cast<double>(x[i]) * static_cast<double>(inverse));
    return static_cast<std::uint8_t>(std::clamp(static_cast<int>(scaled + 8.5F), 0, 15));
  };
  for (int i = 0; i < 16; ++i) out[2 + i] = static_cast<std::uint8_t>(nibble(i) | nibble(i + 16) << 4);
}

}  // namespace detail

/// Encodes `n` values, a multiple of 32, as q8_0 or q4_0: row_bytes(type, n) bytes. False, and nothing useful written, if a value isn't finite or is too large for a
/// half-precision scale.
[[nodiscard]] inline bool encode_row(dtype type, const float* x, index_t n, std::byte* out) {
  for (index_t at = 0; at < n; at += 32) {
    float magnitude = 0, largest = x[at];
    bool finite = true;
    for (index_t i = at; i < at + 32; ++i) {
      finite = finite && std::isfinite(x[i]);
      if (std::abs(x[i]) > magnitude) {
        magnitude = std::abs(x[i]);
        largest = x[i];
      }
    }
    if (!finite || magnitude / (type == dtype::q8_0 ? 127.0F : 8.0F) > 65504.0F) return false;
    auto* block = reinterpret_cast<std::uint8_t*>(out + row_bytes(type, at));
    if (type == dtype::q8_0) detail::encode_q8_0(x + at, magnitude, block);
    else detail::encode_q4_0(x + at, largest, block);
  }
  return true;
}

}  // namespace blockattn::inline v0
