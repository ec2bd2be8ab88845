// Kernels for the compiler's baseline: vectors of 4 floats, which every 64-bit processor has.
#pragma once

#if defined(__x86_64__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "blockattn/kernels/generic/prelude.hpp"

namespace blockattn::inline v0::detail::portable {

inline constexpr isa level = isa::portable;
inline constexpr int lanes = 4;
inline constexpr int tile_rows = 6;
inline constexpr bool has_bf16 = false;
inline constexpr dot byte_dot = dot::none;
inline constexpr bool signed_units = false;
inline constexpr int integer_tile_rows = 4;

#include "blockattn/kernels/generic/vector.inl.hpp"

BLOCKATTN_INLINE vf widen_bytes(vub x) { return __builtin_convertvector(__builtin_convertvector(x, vi), vf); }
BLOCKATTN_INLINE vf widen_signed(const std::byte* p) { return __builtin_convertvector(load_as<vb>(p), vf); }
BLOCKATTN_INLINE vu widen_halves(const std::uint16_t* p) { return __builtin_convertvector(load_as<vh>(p), vu); }
/// a0 b0 a1 b1 … of the lower halves, and of the upper ones.
BLOCKATTN_INLINE vi interleave_low(vi a, vi b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
BLOCKATTN_INLINE vi interleave_high(vi a, vi b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
/// Lanes 4 i, 4 i + 2, 4 i + 1, 4 i + 3.
BLOCKATTN_INLINE vi even_then_odd(vi x) { return __builtin_shufflevector(x, x, 0, 2, 1, 3); }
BLOCKATTN_INLINE float half_to_f32(std::uint16_t bits) { return f16_to_f32(bits); }
BLOCKATTN_INLINE vf load_f16(const std::uint16_t* p) { return f16_to_f32_by_bits(widen_halves(p)); }
BLOCKATTN_INLINE void store_f16(std::uint16_t* p, vf x) {
  for (int i = 0; i < lanes; ++i) p[i] = f32_to_f16(x[i]);
}
BLOCKATTN_INLINE vf multiply_add(vf a, vf b, vf c) { return a * b + c; }
BLOCKATTN_INLINE vf multiply_add_bf16(vi, vi, vf c) { return c; }
/// c + a[2i] * b[2i] + a[2i+1] * b[2i+1] over pairs of 16-bit integers.
#if defined(__x86_64__)
BLOCKATTN_INLINE vi dot_words(vi c, vi a, vi b) {
  return c + reinterpret_cast<vi>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
#else
BLOCKATTN_INLINE vi dot_words(vi c, vi a, vi b) { return c + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16); }
#endif
BLOCKATTN_INLINE vi multiply_bytes(vi u, vi) { return u; }
BLOCKATTN_INLINE vi dot_bytes(vi c, vi, vi) { return c; }
/// The largest, and the sum, of all lanes.
BLOCKATTN_INLINE float largest_of_lanes(vf v) {
  const float low = v[0] > v[1] ? v[0] : v[1], high = v[2] > v[3] ? v[2] : v[3];
  return low > high ? low : high;
}
BLOCKATTN_INLINE std::int32_t sum_of_lanes(vi v) { return (v[0] + v[1]) + (v[2] + v[3]); }
/// 32 integers from -128 to 127 -> bytes.
BLOCKATTN_INLINE void store_bytes(std::byte* p, const vi (&x)[8]) {
  for (int i = 0; i < 8; ++i) store_as(p + 4 * i, __builtin_convertvector(x[i], vb));
}
/// Bytes 0 to 15 -> levels of iq4_values + 128.
BLOCKATTN_INLINE vi iq4_levels(vi x) {
  std::uint8_t bytes[sizeof(vi)];
  store_as(bytes, x);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(iq4_values[byte] + 128);
  return load_as<vi>(bytes);
}
/// table[x] for each of 16 bytes x from 0 to 15.
BLOCKATTN_INLINE bytes_16 look_up(const std::int8_t* table, bytes_16 x) {
#if defined(__aarch64__)
  return reinterpret_cast<bytes_16>(vqtbl1q_s8(vld1q_s8(table), reinterpret_cast<uint8x16_t>(x)));
#else
  std::uint8_t bytes[16];
  store_as(bytes, x);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(table[byte]);
  return load_as<bytes_16>(bytes);
#endif
}
BLOCKATTN_INLINE void store_bf16(std::uint16_t* p, vf x) { store_bf16_by_bits(p, x); }

#include "blockattn/kernels/generic/kernels.inl.hpp"

}  // namespace blockattn::inline v0::detail::portable
