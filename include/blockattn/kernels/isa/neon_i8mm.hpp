// Kernels for AArch64 with products of unsigned and signed bytes: those of neon_dotprod without moving weights of 8 bits.
#pragma once

#include <arm_neon.h>

#include "blockattn/kernels/isa/portable.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif

namespace blockattn::inline v0::detail::neon_i8mm {

using namespace portable;

inline constexpr dot byte_dot = dot::full;
inline constexpr bool signed_units = false;
inline constexpr int integer_tile_rows = 6;

/// c + a[2i] * b[2i] + a[2i+1] * b[2i+1] over pairs of 16-bit integers.
BLOCKATTN_INLINE vi dot_words(vi c, vi a, vi b) {
  const int16x8_t x = reinterpret_cast<int16x8_t>(a), y = reinterpret_cast<int16x8_t>(b);
  return c + reinterpret_cast<vi>(vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
BLOCKATTN_INLINE vi dot_bytes(vi c, vi u, vi s) {
  return reinterpret_cast<vi>(vusdotq_s32(reinterpret_cast<int32x4_t>(c), reinterpret_cast<uint8x16_t>(u), reinterpret_cast<int8x16_t>(s)));
}

#include "blockattn/kernels/generic/integer.inl.hpp"

inline constexpr kernel_table table = with_integers(portable::table, isa::neon_i8mm, integer_table);

}  // namespace blockattn::inline v0::detail::neon_i8mm

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
