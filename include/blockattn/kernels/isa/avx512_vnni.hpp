// Kernels for AVX-512 with VNNI: those of avx512, but for integer products of four bytes.
#pragma once

#include "blockattn/kernels/isa/avx512.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

namespace blockattn::inline v0::detail::avx512_vnni {

using namespace avx512;

inline constexpr dot byte_dot = dot::full;

BLOCKATTN_INLINE vi dot_words(vi c, vi a, vi b) {
  return reinterpret_cast<vi>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(c), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
BLOCKATTN_INLINE vi dot_bytes(vi c, vi u, vi s) {
  return reinterpret_cast<vi>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(c), reinterpret_cast<__m512i>(u), reinterpret_cast<__m512i>(s)));
}

#include "blockattn/kernels/generic/integer.inl.hpp"

inline constexpr kernel_table table = with_integers(avx512::table, isa::avx512_vnni, integer_table);

}  // namespace blockattn::inline v0::detail::avx512_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
