// What the kernels of every level share, outside of any instruction set: types and the one macro.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/dtype_decode.hpp"
#include "blockattn/kernels/interleave.hpp"
#include "blockattn/kernels/kernel_table.hpp"

/// A helper of a kernel: must become part of its caller, which alone carries the instruction set.
#define BLOCKATTN_INLINE __attribute__((always_inline)) inline

namespace blockattn::inline v0::detail {

/// What a level has for products of unsigned and signed bytes.
enum class dot : std::uint8_t {
  none,        ///< nothing: 16-bit words are multiplied
  saturating,  ///< sums of two products in 16 bits, which saturate
  full         ///< sums of four products in 32 bits
};

}  // namespace blockattn::inline v0::detail
