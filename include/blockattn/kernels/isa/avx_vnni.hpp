// Kernels for AVX2 with AVX-VNNI: those of avx2, but for integer products of four bytes.
#pragma once

#include "blockattn/kernels/isa/avx2.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avxvnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avxvnni,avx2,fma,f16c")
#endif

namespace blockattn::inline v0::detail::avx_vnni {

using namespace avx2;

inline constexpr dot byte_dot = dot::full;

BLOCKATTN_INLINE vi dot_words(vi c, vi a, vi b) {
  return reinterpret_cast<vi>(_mm256_dpwssd_avx_epi32(reinterpret_cast<__m256i>(c), reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
BLOCKATTN_INLINE vi dot_bytes(vi c, vi u, vi s) {
  return reinterpret_cast<vi>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(c), reinterpret_cast<__m256i>(u), reinterpret_cast<__m256i>(s)));
}

#include "blockattn/kernels/generic/integer.inl.hpp"

inline constexpr kernel_table table = with_integers(avx2::table, isa::avx_vnni, integer_table);

}  // namespace blockattn::inline v0::detail::avx_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
