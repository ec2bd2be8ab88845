// Kernels for AVX-512 with BF16 products (and VNNI, which every processor with them has): vectors of 16 floats, 32 products an instruction.
#pragma once

#include <immintrin.h>

#include "blockattn/kernels/generic/prelude.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c")
#endif

namespace blockattn::inline v0::detail::avx512_bf16 {

inline constexpr isa level = isa::avx512_bf16;
inline constexpr int lanes = 16;
inline constexpr int tile_rows = 12;
inline constexpr bool has_bf16 = true;
inline constexpr dot byte_dot = dot::full;
inline constexpr bool signed_units = false;
inline constexpr int integer_tile_rows = 4;

#include "blockattn/kernels/generic/vector.inl.hpp"

// The zero-masked forms with all lanes on are the plain ones without the compiler's false warning of uninitialised
// lanes.
BLOCKATTN_INLINE vf widen_bytes(vub x) {
  return __builtin_convertvector(reinterpret_cast<vi>(_mm512_maskz_cvtepu8_epi32(0xffff, reinterpret_cast<__m128i>(x))),
                                 vf);
}
BLOCKATTN_INLINE vf widen_signed(const std::byte* p) {
  return __builtin_convertvector(
      reinterpret_cast<vi>(_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))),
      vf);
}
BLOCKATTN_INLINE vu widen_halves(const std::uint16_t* p) {
  return reinterpret_cast<vu>(
      _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
/// a0 b0 a1 b1 … of the lower halves, and of the upper ones.
BLOCKATTN_INLINE vi interleave_low(vi a, vi b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
BLOCKATTN_INLINE vi interleave_high(vi a, vi b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
/// Lanes 4 i, 4 i + 2, 4 i + 1, 4 i + 3.
BLOCKATTN_INLINE vi even_then_odd(vi x) { return __builtin_shufflevector(x, x, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15); }
BLOCKATTN_INLINE float half_to_f32(std::uint16_t bits) { return _cvtsh_ss(bits); }
BLOCKATTN_INLINE vf load_f16(const std::uint16_t* p) {
  return reinterpret_cast<vf>(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
BLOCKATTN_INLINE void store_f16(std::uint16_t* p, vf x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT));
}
BLOCKATTN_INLINE vf multiply_add(vf a, vf b, vf c) {
  return reinterpret_cast<vf>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
}
/// c + a[2i] * b[2i] + a[2i+1] * b[2i+1] over pairs of bfloat16.
BLOCKATTN_INLINE vf multiply_add_bf16(vi a, vi b, vf c) {
  return reinterpret_cast<vf>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(c), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}
/// c + a[2i] * b[2i] + a[2i+1] * b[2i+1] over pairs of 16-bit integers, and the same over four bytes, unsigned and signed.
BLOCKATTN_INLINE vi dot_words(vi c, vi a, vi b) {
  return reinterpret_cast<vi>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(c), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
BLOCKATTN_INLINE vi dot_bytes(vi c, vi u, vi s) {
  return reinterpret_cast<vi>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(c), reinterpret_cast<__m512i>(u), reinterpret_cast<__m512i>(s)));
}
BLOCKATTN_INLINE vi multiply_bytes(vi u, vi) { return u; }
/// The largest, and the sum, of all lanes.
BLOCKATTN_INLINE float largest_of_lanes(vf v) {
  float x[lanes];
  store(x, v);
  __m256 y = _mm256_max_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8));
  y = _mm256_max_ps(y, _mm256_permute2f128_ps(y, y, 1));
  y = _mm256_max_ps(y, _mm256_permute_ps(y, 0x4e));
  return _mm256_cvtss_f32(_mm256_max_ps(y, _mm256_permute_ps(y, 0xb1)));
}
BLOCKATTN_INLINE std::int32_t sum_of_lanes(vi v) {
  std::int32_t x[lanes];
  store_as(x, v);
  __m256i y = _mm256_add_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 8)));
  y = _mm256_add_epi32(y, _mm256_permute2x128_si256(y, y, 1));
  y = _mm256_add_epi32(y, _mm256_shuffle_epi32(y, 0x4e));
  return _mm256_cvtsi256_si32(_mm256_add_epi32(y, _mm256_shuffle_epi32(y, 0xb1)));
}
/// 32 integers from -128 to 127 -> bytes.
BLOCKATTN_INLINE void store_bytes(std::byte* p, const vi (&x)[2]) {
  for (int i = 0; i < 2; ++i)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16 * i), _mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(x[i])));
}
/// Bytes 0 to 15 -> levels of iq4_values + 128.
BLOCKATTN_INLINE vi iq4_levels(vi x) {
  const __m512i table = _mm512_maskz_broadcast_i32x4(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(iq4_values.data())));
  return reinterpret_cast<vi>(_mm512_xor_si512(_mm512_shuffle_epi8(table, reinterpret_cast<__m512i>(x)), _mm512_set1_epi8(-128)));
}
/// table[x] for each of 16 bytes x from 0 to 15.
BLOCKATTN_INLINE bytes_16 look_up(const std::int8_t* table, bytes_16 x) {
  return reinterpret_cast<bytes_16>(_mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)), reinterpret_cast<__m128i>(x)));
}
BLOCKATTN_INLINE void store_bf16(std::uint16_t* p, vf x) {
  const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
  __builtin_memcpy(p, &rounded, sizeof(rounded));
}

#include "blockattn/kernels/generic/kernels.inl.hpp"

}  // namespace blockattn::inline v0::detail::avx512_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
