// Kernels for the compiler's baseline: vectors of 4 floats, which every 64-bit processor has.
#pragma once

#include "blockattn/kernels/generic/prelude.hpp"

namespace blockattn::inline v0::detail::portable {

inline constexpr isa level = isa::portable;
inline constexpr int lanes = 4;
inline constexpr int tile_rows = 6;
inline constexpr bool has_bf16 = false;

#include "blockattn/kernels/generic/vector.inl.hpp"

BLOCKATTN_INLINE vf widen_bytes(vub x) { return __builtin_convertvector(__builtin_convertvector(x, vi), vf); }
BLOCKATTN_INLINE vf widen_signed(const std::byte* p) { return __builtin_convertvector(load_as<vb>(p), vf); }
BLOCKATTN_INLINE vu widen_halves(const std::uint16_t* p) { return __builtin_convertvector(load_as<vh>(p), vu); }
/// a0 b0 a1 b1 … of the lower halves, and of the upper ones.
BLOCKATTN_INLINE vi interleave_low(vi a, vi b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
BLOCKATTN_INLINE vi interleave_high(vi a, vi b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
BLOCKATTN_INLINE float half_to_f32(std::uint16_t bits) { return f16_to_f32(bits); }
BLOCKATTN_INLINE vf load_f16(const std::uint16_t* p) { return f16_to_f32_by_bits(widen_halves(p)); }
BLOCKATTN_INLINE void store_f16(std::uint16_t* p, vf x) {
  for (int i = 0; i < lanes; ++i) p[i] = f32_to_f16(x[i]);
}
BLOCKATTN_INLINE vf multiply_add(vf a, vf b, vf c) { return a * b + c; }
BLOCKATTN_INLINE vf multiply_add_bf16(vi, vi, vf c) { return c; }
BLOCKATTN_INLINE void store_bf16(std::uint16_t* p, vf x) { store_bf16_by_bits(p, x); }

#include "blockattn/kernels/generic/kernels.inl.hpp"

}  // namespace blockattn::inline v0::detail::portable
