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
BLOCKATTN_INLINE void store_bf16(std::uint16_t* p, vf x) { store_bf16_by_bits(p, x); }

#include "blockattn/kernels/generic/kernels.inl.hpp"

}  // namespace blockattn::inline v0::detail::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
