// What the bytes of every type mean: one plain decoder each, the reference for the kernels.
//
// Little-endian, the layouts of GGUF files. d, m: half-precision scale and minimum. A 256-value block has 8 groups g of 32 values; in
// group g, value i (0 to 31) is:
//
//   type    bytes of a block                            value
//   q8_0    d, q[32] signed                             d * q[i]
//   q4_0    d, q[16]                                    d * (nibble - 8);   nibble i: the low half of q[i], then the high half of q[i - 16]
//   q4_1    d, m, q[16]                                 d * nibble + m
//   q5_0    d, h[4], q[16]                              d * (nibble + 16 * bit i of h - 16)
//   q5_1    d, m, h[4], q[16]                           d * (nibble + 16 * bit i of h) + m
//   iq4_nl  d, q[16]                                    d * iq4_values[nibble]
//   q2_k    s[16], q[64], d, m                          d * (s & 15) * two bits - m * (s >> 4);            s = s[2 g + i / 16]
//   q3_k    h[32], q[64], s[12], d                      d * s * (two bits - (bit g of h[i] ? 0 : 4));      s = q3_k_scale(2 g + i / 16)
//           two bits: (q[32 * (g / 4) + i] >> 2 * (g % 4)) & 3
//   q4_k    d, m, s[12], q[128]                         d * s * nibble - m * t;                            (s, t) = q4_k_scale(g)
//   q5_k    d, m, s[12], h[32], q[128]                  d * s * (nibble + 16 * bit g of h[i]) - m * t
//           nibble: low (even g) or high (odd g) half of q[32 * (g / 2) + i]
//   q6_k    q[128], h[64], s[16] signed, d              d * s[2 g + i / 16] * (nibble + 16 * two bits - 32)
//           nibble: low (g % 4 < 2) or high half of q[64 * (g / 4) + 32 * (g % 2) + i]; two bits: (h[32 * (g / 4) + i] >> 2 * (g % 4)) & 3
//   iq4_xs  d, h (16 bits), l[4], q[128]                d * iq4_xs_scale(g) * iq4_values[nibble], nibbles of q[16 g ...] as in q4_0
//
// A block of 64 values x, in two groups g of 32, holds their transform u, and x = H u, where H is the Hadamard matrix in Sylvester's order over 8, its own inverse:
// H[i][j] = (number of ones in i & j is odd ? -1 : 1) / 8. Value i of group g of u is:
//
//   q5_h    d, h[8], q[32]                              d * (bit i of h[4 g ...] ? -1 : 1) * q5_h_levels[nibble]
//   q4_h    d, q[32]                                    d * q4_h_levels[nibble];                      nibble: of q[16 g ...] as in q4_0
//
// Products of d with the integers are exact in float32 (at most 24 bits), so each value is rounded once, and it makes no difference
// whether a compiler fuses a product and the sum after it.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "blockattn/core/dtype.hpp"

namespace blockattn::inline v0 {

/// The 16 levels of iq4_nl and iq4_xs.
inline constexpr std::array<std::int8_t, 16> iq4_values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                           1,    13,   25,  38,  53,  69,  89,  113};

/// Levels of q4_h, and magnitudes of q5_h: made by Lloyd's algorithm for 64 normally distributed values under the scale that suits them best.
inline constexpr std::array<std::int8_t, 16> q4_h_levels = {-127, -97, -75, -58, -44, -30, -18, -6, 6, 18, 30, 44, 58, 75, 97, 127};
inline constexpr std::array<std::int8_t, 16> q5_h_levels = {3, 9, 15, 21, 27, 33, 39, 46, 52, 60, 67, 75, 84, 95, 108, 127};

/// An integer scale and minimum of a group, each 0 to 63.
struct scale_and_minimum {
  int scale, minimum;
};

/// Group `g` (0 to 7) of q4_k and q5_k; `s`: the 12 bytes.
[[nodiscard]] constexpr scale_and_minimum q4_k_scale(const std::uint8_t* s, index_t g) {
  if (g < 4) return {s[g] & 63, s[g + 4] & 63};
  return {(s[g + 4] & 15) | (s[g - 4] >> 6) << 4, (s[g + 4] >> 4) | (s[g] >> 6) << 4};
}

/// Half group `j` (0 to 15) of q3_k, -32 to 31; `s`: the 12 bytes.
[[nodiscard]] constexpr int q3_k_scale(const std::uint8_t* s, index_t j) {
  const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
  const int high = (s[8 + j % 4] >> (2 * (j / 4))) & 3;
  return (low | high << 4) - 32;
}

/// Group `g` (0 to 7) of iq4_xs, -32 to 31.
[[nodiscard]] constexpr int iq4_xs_scale(std::uint16_t high, const std::uint8_t* low, index_t g) {
  return ((low[g / 2] >> (4 * (g % 2))) & 15) + ((high >> (2 * g)) & 3) * 16 - 32;
}

namespace detail {

/// Half-precision number at `p`.
[[nodiscard]] inline float half_at(const std::uint8_t* p) {
  return f16_to_f32(static_cast<std::uint16_t>(p[0] | p[1] << 8));
}

/// Nibble i of 16 bytes that hold 32: the low halves, then the high ones.
[[nodiscard]] constexpr int nibble_at(const std::uint8_t* q, index_t i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }

inline void decode_q5(const std::uint8_t* h, const std::uint8_t* q, float d, int shift, float m, float* out) {
  for (index_t i = 0; i < 32; ++i) {
    const int quant = nibble_at(q, i) | ((h[i / 8] >> (i % 8)) & 1) << 4;
    out[i] = d * static_cast<float>(quant - shift) + m;
  }
}

inline void decode_q2_k(const std::uint8_t* block, index_t g, float* out) {
  const float d = half_at(block + 80), m = half_at(block + 82);
  const std::uint8_t* q = block + 16 + 32 * (g / 4);
  for (index_t i = 0; i < 32; ++i) {
    const int scale = block[2 * g + i / 16];
    const int quant = (q[i] >> (2 * (g % 4))) & 3;
    out[i] = d * static_cast<float>(scale & 15) * static_cast<float>(quant) - m * static_cast<float>(scale >> 4);
  }
}

inline void decode_q3_k(const std::uint8_t* block, index_t g, float* out) {
  const float d = half_at(block + 108);
  const std::uint8_t* q = block + 32 + 32 * (g / 4);
  for (index_t i = 0; i < 32; ++i) {
    const int quant = ((q[i] >> (2 * (g % 4))) & 3) - (((block[i] >> g) & 1) != 0 ? 0 : 4);
    out[i] = d * static_cast<float>(q3_k_scale(block + 96, 2 * g + i / 16)) * static_cast<float>(quant);
  }
}

/// q4_k, or q5_k with the high bits `h`.
inline void decode_q45_k(const std::uint8_t* block, const std::uint8_t* h, const std::uint8_t* q, index_t g, float* out) {
  const auto [scale, minimum] = q4_k_scale(block + 4, g);
  const float d = half_at(block) * static_cast<float>(scale);
  const float m = half_at(block + 2) * static_cast<float>(minimum);
  for (index_t i = 0; i < 32; ++i) {
    const int nibble = (q[32 * (g / 2) + i] >> (4 * (g % 2))) & 15;
    const int bit = h == nullptr ? 0 : (h[i] >> g) & 1;
    out[i] = d * static_cast<float>(nibble + 16 * bit) - m;
  }
}

inline void decode_q6_k(const std::uint8_t* block, index_t g, float* out) {
  const float d = half_at(block + 208);
  const std::uint8_t* q = block + 64 * (g / 4) + 32 * (g % 2);
  const std::uint8_t* h = block + 128 + 32 * (g / 4);
  for (index_t i = 0; i < 32; ++i) {
    const int nibble = g % 4 < 2 ? q[i] & 15 : q[i] >> 4;
    const int quant = (nibble | ((h[i] >> (2 * (g % 4))) & 3) << 4) - 32;
    const auto scale = static_cast<std::int8_t>(block[192 + 2 * g + i / 16]);
    out[i] = d * static_cast<float>(scale) * static_cast<float>(quant);
  }
}

inline void decode_iq4(const std::uint8_t* q, float d, float* out) {
  for (index_t i = 0; i < 32; ++i) out[i] = d * static_cast<float>(iq4_values[static_cast<std::size_t>(nibble_at(q, i))]);
}

/// The 32 values of group `g` of a quantised block.
inline void decode_group(dtype type, const std::byte* bytes, index_t g, float* out) {
  const auto* block = reinterpret_cast<const std::uint8_t*>(bytes);
  switch (type) {
    case dtype::q8_0:
      for (index_t i = 0; i < 32; ++i) out[i] = half_at(block) * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
      return;
    case dtype::q4_0:
      for (index_t i = 0; i < 32; ++i) out[i] = half_at(block) * static_cast<float>(nibble_at(block + 2, i) - 8);
      return;
    case dtype::q4_1:
      for (index_t i = 0; i < 32; ++i) out[i] = half_at(block) * static_cast<float>(nibble_at(block + 4, i)) + half_at(block + 2);
      return;
    // Adding -0 changes no number, not even the sign of a zero.
    case dtype::q5_0: return decode_q5(block + 2, block + 6, half_at(block), 16, -0.0F, out);
    case dtype::q5_1: return decode_q5(block + 4, block + 8, half_at(block), 0, half_at(block + 2), out);
    case dtype::q2_k: return decode_q2_k(block, g, out);
    case dtype::q3_k: return decode_q3_k(block, g, out);
    case dtype::q4_k: return decode_q45_k(block, nullptr, block + 16, g, out);
    case dtype::q5_k: return decode_q45_k(block, block + 16, block + 48, g, out);
    case dtype::q6_k: return decode_q6_k(block, g, out);
    case dtype::iq4_nl: return decode_iq4(block + 2, half_at(block), out);
    case dtype::iq4_xs: {
      const auto high = static_cast<std::uint16_t>(block[2] | block[3] << 8);
      return decode_iq4(block + 8 + 16 * g, half_at(block) * static_cast<float>(iq4_xs_scale(high, block + 4, g)), out);
    }
    case dtype::f32:
    case dtype::f16:
    case dtype::bf16:
    case dtype::q5_h:
    case dtype::q4_h: return;  // no groups of values
  }
}

/// The 64 values of a block of q5_h or q4_h.
inline void decode_transformed(dtype type, const std::byte* bytes, float* out) {
  const auto* block = reinterpret_cast<const std::uint8_t*>(bytes);
  const bool five = type == dtype::q5_h;
  const float d = half_at(block);
  float u[64];
  for (index_t i = 0; i < 64; ++i) {
    const auto nibble = static_cast<std::size_t>(nibble_at(block + (five ? 10 : 2) + i / 32 * 16, i % 32));
    const bool negative = five && ((block[2 + i / 8] >> (i % 8)) & 1) != 0;
    u[i] = d * static_cast<float>(!five ? q4_h_levels[nibble] : negative ? -q5_h_levels[nibble] : q5_h_levels[nibble]);
  }
  for (index_t i = 0; i < 64; ++i) {
    double sum = 0;
    for (index_t j = 0; j < 64; ++j) sum += std::popcount(static_cast<std::uint64_t>(i & j)) % 2 != 0 ? -u[j] : u[j];
    out[i] = static_cast<float>(sum / 8);
  }
}

}  // namespace detail

/// The first `n` values of a row; n % block_values(type) == 0.
inline void decode_row(dtype type, const std::byte* row, float* out, index_t n) {
  if (type == dtype::f32) {
    std::memcpy(out, row, static_cast<std::size_t>(n) * sizeof(float));
  } else if (is_float(type)) {
    for (index_t i = 0; i < n; ++i) {
      std::uint16_t bits;
      std::memcpy(&bits, row + 2 * i, 2);
      out[i] = type == dtype::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
  } else if (is_transformed(type)) {
    for (index_t i = 0; i < n; i += 64) detail::decode_transformed(type, row + row_bytes(type, i), out + i);
  } else {
    const index_t values = block_values(type);
    for (index_t i = 0; i < n; i += 32) detail::decode_group(type, row + row_bytes(type, i), i % values / 32, out + i);
  }
}

}  // namespace blockattn::inline v0
