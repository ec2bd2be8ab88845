// Quantised weights in the order in which integer kernels read them.
//
// A panel is `width` rows of a matrix. Every weight becomes scale * u + minimum with an unsigned integer u; a record holds 32 columns of all rows of
// the panel, and the records of a panel follow each other:
//
//   low      4-bit types: [4][width][4] bytes, byte i of row r in step s: column 4 s + i in the low half, column 16 + 4 s + i in the high half
//            8-bit types: [8][width][4] bytes, column 4 s + i
//   high     5-bit types: [width] words of 32 bits: bit s of byte i is bit 4 of column 4 s + i
//            6-bit types: [2][width] words: bits 2 s and 2 s + 1 of byte i of word h are bits 4 and 5 of column 16 h + 4 s + i
//   scales   [halves][width] half-precision numbers; halves is 2 where a scale is of 16 columns
//   minima   the same, if the type has minima of its own; else minimum = -offset * scale
//
// So a panel takes about what its rows take in the file. Scales of the K types, which are products there, are rounded to half precision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/dtype_decode.hpp"

namespace blockattn::inline v0 {

/// How a quantised type looks when interleaved.
struct interleaved_format {
  int low_bits = 0;      ///< 4 or 8; 0: the type is not quantised
  int high_bits = 0;     ///< 0, 1 or 2
  int halves = 1;        ///< scales in 32 columns
  bool minima = false;   ///< whether it has minima of its own
  int offset = 0;        ///< else what is subtracted from u
  bool levels = false;   ///< the stored integers number the levels of iq4_values; u = level + 128
  /// Largest u.
  [[nodiscard]] constexpr int largest() const { return levels ? 255 : (1 << (low_bits + high_bits)) - 1; }
  /// Bytes of a record of one row.
  [[nodiscard]] constexpr index_t row_bytes() const { return 4 * low_bits + 4 * high_bits + 2 * halves * (minima ? 2 : 1); }
};

[[nodiscard]] constexpr interleaved_format interleaved(dtype type) {
  switch (type) {
    case dtype::q8_0: return {8, 0, 1, false, 128};
    case dtype::q4_0: return {4, 0, 1, false, 8};
    case dtype::q4_1: return {4, 0, 1, true};
    case dtype::q5_0: return {4, 1, 1, false, 16};
    case dtype::q5_1: return {4, 1, 1, true};
    case dtype::q2_k: return {4, 0, 2, true};
    case dtype::q3_k: return {4, 0, 2, false, 4};
    case dtype::q4_k: return {4, 0, 1, true};
    case dtype::q5_k: return {4, 1, 1, true};
    case dtype::q6_k: return {4, 2, 2, false, 32};
    case dtype::iq4_nl:
    case dtype::iq4_xs: return {4, 0, 1, false, 128, true};
    default: return {};
  }
}

/// Bytes of a panel of `width` rows [columns]; 0 for types that aren't quantised.
[[nodiscard]] constexpr index_t interleaved_bytes(dtype type, index_t width, index_t columns) {
  const interleaved_format f = interleaved(type);
  return f.low_bits == 0 ? 0 : columns / 32 * width * f.row_bytes();
}

namespace detail {

/// 32 columns of one row: the stored integers, four in a word, the first in its low byte; scale and minimum of each half in half precision.
struct quant_group {
  std::uint32_t u[8];
  std::uint16_t scale[2], minimum[2];
};

[[nodiscard]] inline std::uint32_t word_at(const std::uint8_t* p) {
  std::uint32_t word;
  std::memcpy(&word, p, 4);
  return word;
}

[[nodiscard]] constexpr std::uint16_t half_bits_at(const std::uint8_t* p) { return static_cast<std::uint16_t>(p[0] | p[1] << 8); }

inline void set_scale(quant_group& out, std::uint16_t scale, std::uint16_t minimum = 0) {
  out.scale[0] = out.scale[1] = scale;
  out.minimum[0] = out.minimum[1] = minimum;
}

/// 16 bytes with 32 nibbles, and the 32 bits above them.
inline void read_nibbles(const std::uint8_t* q, std::uint32_t high, quant_group& out) {
  for (index_t s = 0; s < 4; ++s) {
    const std::uint32_t word = word_at(q + 4 * s);
    out.u[s] = word & 0x0f0f0f0fU;
    out.u[s + 4] = (word >> 4) & 0x0f0f0f0fU;
  }
  if (high == 0) return;
  for (index_t s = 0; s < 8; ++s)  // the product puts bit i of four to the bottom of byte i
    out.u[s] |= ((((high >> (4 * s)) & 15U) * 0x00204081U) & 0x01010101U) << 4;
}

inline void read_q2_k(const std::uint8_t* block, index_t g, quant_group& out) {
  const float d = half_at(block + 80), m = half_at(block + 82);
  for (index_t s = 0; s < 8; ++s) out.u[s] = (word_at(block + 16 + 32 * (g / 4) + 4 * s) >> (2 * (g % 4))) & 0x03030303U;
  for (index_t h = 0; h < 2; ++h) {
    const int scale = block[2 * g + h];
    out.scale[h] = f32_to_f16(d * static_cast<float>(scale & 15));
    out.minimum[h] = f32_to_f16(-m * static_cast<float>(scale >> 4));
  }
}

inline void read_q3_k(const std::uint8_t* block, index_t g, quant_group& out) {
  const float d = half_at(block + 108);
  for (index_t s = 0; s < 8; ++s)
    out.u[s] = ((word_at(block + 32 + 32 * (g / 4) + 4 * s) >> (2 * (g % 4))) & 0x03030303U) | ((word_at(block + 4 * s) >> g) & 0x01010101U) << 2;
  for (index_t h = 0; h < 2; ++h) out.scale[h] = f32_to_f16(d * static_cast<float>(q3_k_scale(block + 96, 2 * g + h)));
}

/// q4_k, or q5_k with the high bits `high`.
inline void read_q45_k(const std::uint8_t* block, const std::uint8_t* high, const std::uint8_t* q, index_t g, quant_group& out) {
  const auto [scale, minimum] = q4_k_scale(block + 4, g);
  set_scale(out, f32_to_f16(half_at(block) * static_cast<float>(scale)), f32_to_f16(-half_at(block + 2) * static_cast<float>(minimum)));
  for (index_t s = 0; s < 8; ++s) {
    out.u[s] = (word_at(q + 32 * (g / 2) + 4 * s) >> (4 * (g % 2))) & 0x0f0f0f0fU;
    if (high != nullptr) out.u[s] |= ((word_at(high + 4 * s) >> g) & 0x01010101U) << 4;
  }
}

inline void read_q6_k(const std::uint8_t* block, index_t g, quant_group& out) {
  const float d = half_at(block + 208);
  const std::uint8_t* q = block + 64 * (g / 4) + 32 * (g % 2);
  const std::uint8_t* high = block + 128 + 32 * (g / 4);
  for (index_t s = 0; s < 8; ++s)
    out.u[s] = ((word_at(q + 4 * s) >> (g % 4 < 2 ? 0 : 4)) & 0x0f0f0f0fU) | ((word_at(high + 4 * s) >> (2 * (g % 4))) & 0x03030303U) << 4;
  for (index_t h = 0; h < 2; ++h) out.scale[h] = f32_to_f16(d * static_cast<float>(static_cast<std::int8_t>(block[192 + 2 * g + h])));
}

/// Group `g` of 32 values of a quantised block; minima only where the type has its own.
inline void read_group(dtype type, const std::byte* bytes, index_t g, quant_group& out) {
  const auto* block = reinterpret_cast<const std::uint8_t*>(bytes);
  switch (type) {
    case dtype::q8_0:
      set_scale(out, half_bits_at(block));
      for (index_t s = 0; s < 8; ++s) out.u[s] = word_at(block + 2 + 4 * s) ^ 0x80808080U;
      return;
    case dtype::q4_0:
    case dtype::iq4_nl: set_scale(out, half_bits_at(block)); return read_nibbles(block + 2, 0, out);
    case dtype::q4_1: set_scale(out, half_bits_at(block), half_bits_at(block + 2)); return read_nibbles(block + 4, 0, out);
    case dtype::q5_0: set_scale(out, half_bits_at(block)); return read_nibbles(block + 6, word_at(block + 2), out);
    case dtype::q5_1: set_scale(out, half_bits_at(block), half_bits_at(block + 2)); return read_nibbles(block + 8, word_at(block + 4), out);
    case dtype::q2_k: return read_q2_k(block, g, out);
    case dtype::q3_k: return read_q3_k(block, g, out);
    case dtype::q4_k: return read_q45_k(block, nullptr, block + 16, g, out);
    case dtype::q5_k: return read_q45_k(block, block + 16, block + 48, g, out);
    case dtype::q6_k: return read_q6_k(block, g, out);
    case dtype::iq4_xs:
      set_scale(out, f32_to_f16(half_at(block) * static_cast<float>(iq4_xs_scale(half_bits_at(block + 2), block + 4, g))));
      return read_nibbles(block + 8 + 16 * g, 0, out);
    case dtype::f32:
    case dtype::f16:
    case dtype::bf16:
    case dtype::q5_h:
    case dtype::q4_h: return;  // not of weights
  }
}

/// The integers of one row of a record; `to` is where the row's first word lies, steps are `step` bytes apart.
inline void put_quants(const interleaved_format& f, const std::uint32_t* u, index_t step, std::byte* to) {
  for (index_t s = 0; s < f.low_bits; ++s, to += step) {  // 4 steps of two columns a byte, or 8 of one
    const std::uint32_t word = f.low_bits == 8 ? u[s] : (u[s] & 0x0f0f0f0fU) | (u[s + 4] & 0x0f0f0f0fU) << 4;
    std::memcpy(to, &word, 4);
  }
  const index_t in_word = f.high_bits == 1 ? 8 : 4;
  for (index_t h = 0; h < f.high_bits; ++h, to += step) {
    std::uint32_t word = 0;
    for (index_t s = 0; s < in_word; ++s) word |= (u[in_word * h + s] >> 4 & (f.high_bits == 1 ? 0x01010101U : 0x03030303U)) << (f.high_bits * s);
    std::memcpy(to, &word, 4);
  }
}

/// Scales and minima of one row; `to` is where the row's first scale lies, halves are `step` bytes apart.
inline void put_scales(const interleaved_format& f, const quant_group& group, index_t step, std::byte* to) {
  for (index_t h = 0; h < f.halves; ++h, to += step) std::memcpy(to, &group.scale[h], 2);
  for (index_t h = 0; f.minima && h < f.halves; ++h, to += step) std::memcpy(to, &group.minimum[h], 2);
}

}  // namespace detail

/// Rows [first, first + count) of a quantised matrix -> a panel of interleaved_bytes(w.type, width, w.columns); count <= width, the missing rows are zero.
inline void interleave_panel(const weight_view& w, index_t first, index_t count, index_t width, std::byte* panel) {
  const interleaved_format f = interleaved(w.type);
  const index_t record = width * f.row_bytes();
  if (count < width) std::memset(panel, 0, static_cast<std::size_t>(interleaved_bytes(w.type, width, w.columns)));
  const index_t groups = block_values(w.type) / 32;
  for (index_t r = 0; r < count; ++r) {
    const std::byte* row = w.row(first + r);
    for (index_t g = 0; g < w.columns / 32; ++g) {
      detail::quant_group group;
      detail::read_group(w.type, row + g / groups * block_bytes(w.type), g % groups, group);
      std::byte* to = panel + g * record;
      detail::put_quants(f, group.u, 4 * width, to + 4 * r);
      detail::put_scales(f, group, 2 * width, to + 4 * (f.low_bits + f.high_bits) * width + 2 * r);
    }
  }
}

}  // namespace blockattn::inline v0
