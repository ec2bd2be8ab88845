// Kernels for AVX2 with FMA and F16C: vectors of 8 floats.
#pragma once

#include <immintrin.h>

#include "blockattn/kernels/generic/prelude.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace blockattn::inline v0::detail::avx2 {

inline constexpr isa level = isa::avx2;
inline constexpr int lanes = 8;
inline constexpr int tile_rows = 6;
inline constexpr bool has_bf16 = false;
inline constexpr dot byte_dot = dot::saturating;
inline constexpr bool signed_units = false;
inline constexpr int integer_tile_rows = 3;

#include "blockattn/kernels/generic/vector.inl.hpp"

BLOCKATTN_INLINE vf widen_bytes(vub x) {
  __m128i bytes = _mm_setzero_si128();
  __builtin_memcpy(&bytes, &x, sizeof(x));
  return reinterpret_cast<vf>(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
}
BLOCKATTN_INLINE vf widen_signed(const std::byte* p) {
  return reinterpret_cast<vf>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(p))));
}
BLOCKATTN_INLINE vu widen_halves(const std::uint16_t* p) {
  return reinterpret_cast<vu>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
/// a0 b0 a1 b1 … of the lower halves, and of the upper ones.
BLOCKATTN_INLINE vi interleave_low(vi a, vi b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
BLOCKATTN_INLINE vi interleave_high(vi a, vi b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
/// Lanes 4 i, 4 i + 2, 4 i + 1, 4 i + 3.
BLOCKATTN_INLINE vi even_then_odd(vi x) { return __builtin_shufflevector(x, x, 0, 2, 1, 3, 4, 6, 5, 7); }
BLOCKATTN_INLINE float half_to_f32(std::uint16_t bits) { return _cvtsh_ss(bits); }
BLOCKATTN_INLINE vf load_f16(const std::uint16_t* p) {
  return reinterpret_cast<vf>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
BLOCKATTN_INLINE void store_f16(std::uint16_t* p, vf x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
}
BLOCKATTN_INLINE vf multiply_add(vf a, vf b, vf c) {
  return reinterpret_cast<vf>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
}
BLOCKATTN_INLINE vf multiply_add_bf16(vi, vi, vf c) { return c; }
/// c + a[2i] * b[2i] + a[2i+1] * b[2i+1] over pairs of 16-bit integers.
BLOCKATTN_INLINE vi dot_words(vi c, vi a, vi b) {
  return c + reinterpret_cast<vi>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
/// Sums of two neighbouring products of unsigned and signed bytes, in 16 bits.
BLOCKATTN_INLINE vi multiply_bytes(vi u, vi s) {
  return reinterpret_cast<vi>(_mm256_maddubs_epi16(reinterpret_cast<__m256i>(u), reinterpret_cast<__m256i>(s)));
}
BLOCKATTN_INLINE vi dot_bytes(vi c, vi, vi) { return c; }
/// The largest, and the sum, of all lanes.
BLOCKATTN_INLINE float largest_of_lanes(vf v) {
  const __m256 x = reinterpret_cast<__m256>(v);
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
BLOCKATTN_INLINE std::int32_t sum_of_lanes(vi v) {
  const __m256i x = reinterpret_cast<__m256i>(v);
  __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}
/// 32 integers from -128 to 127 -> bytes.
BLOCKATTN_INLINE void store_bytes(std::byte* p, const vi (&x)[4]) {
  const __m256i low = _mm256_packs_epi32(reinterpret_cast<__m256i>(x[0]), reinterpret_cast<__m256i>(x[1]));
  const __m256i high = _mm256_packs_epi32(reinterpret_cast<__m256i>(x[2]), reinterpret_cast<__m256i>(x[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
}
/// Bytes 0 to 15 -> levels of iq4_values + 128.
BLOCKATTN_INLINE vi iq4_levels(vi x) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(iq4_values.data())));
  return reinterpret_cast<vi>(_mm256_xor_si256(_mm256_shuffle_epi8(table, reinterpret_cast<__m256i>(x)), _mm256_set1_epi8(-128)));
}
/// table[x] for each of 16 bytes x from 0 to 15.
BLOCKATTN_INLINE bytes_16 look_up(const std::int8_t* table, bytes_16 x) {
  return reinterpret_cast<bytes_16>(_mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)), reinterpret_cast<__m128i>(x)));
}
BLOCKATTN_INLINE void store_bf16(std::uint16_t* p, vf x) { store_bf16_by_bits(p, x); }

#include "blockattn/kernels/generic/kernels.inl.hpp"

}  // namespace blockattn::inline v0::detail::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
