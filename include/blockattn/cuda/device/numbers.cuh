// Numbers on the device: conversions, sums over a warp, and one value of every stored type.
//
// decode_value<Type> gives what core/dtype_decode.hpp gives for the same bytes, bit for bit; the formats are described there.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/dtype_decode.hpp"

namespace blockattn::inline v0::cuda::detail {

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

template <class T>
__device__ inline T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) return x;
  else if constexpr (std::is_same_v<T, bf16>) return __float2bfloat16(x);
  else return __float2half(x);
}

/// Where a request's tokens stand. It changes from one generated token to the next where nothing else does, so it lies in memory and isn't among kernels' arguments.
struct request_place {
  std::int64_t first;     ///< row of the first token in the tail
  std::int32_t position;  ///< of the first token
  std::int32_t pad;
};

/// Two values of type T (bfloat16 or half) in one register, x in the low half.
template <class T>
__device__ inline std::uint32_t pair_of(float x, float y) {
  if constexpr (std::is_same_v<T, bf16>) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const std::uint32_t*>(&v);
  } else {
    const __half2 v = __floats2half2_rn(x, y);
    return *reinterpret_cast<const std::uint32_t*>(&v);
  }
}

/// Lets the next kernel of the stream be prepared (programmatic dependent launch, CUDA C++ Programming Guide). What it then does before wait_for_previous, it may do beside
/// this kernel and the ones before.
__device__ inline void let_next_prepare() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/// Waits until the kernels before have finished: to be called before anything that another kernel touches is read or written.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void wait_for_inputs() {
  let_next_prepare();
  wait_for_previous();
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffU, x, offset));
  return x;
}

/// Sum over a thread block of up to 1024 threads; `shared` has room for 32 floats. Every thread gets it.
__device__ inline float block_sum(float x, float* shared) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  const int warps = (static_cast<int>(blockDim.x) + 31) / 32;
  const float total = warp_sum(static_cast<int>(threadIdx.x % 32) < warps ? shared[threadIdx.x % 32] : 0.0F);
  __syncthreads();
  return total;
}

__device__ inline float half_bits(const std::uint8_t* p) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(p[0] | p[1] << 8)));
}

__device__ inline int nibble_of(const std::uint8_t* q, int i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }

/// The levels of iq4_nl and iq4_xs (core/dtype_decode.hpp) without an array in memory.
__device__ inline float iq4_level(int n) {
  constexpr std::uint64_t low = 0xf6eaddcfbfad9881ULL, high = 0x7159453526190d01ULL;
  return static_cast<float>(static_cast<std::int8_t>((n < 8 ? low : high) >> (8 * (n % 8))));
}

/// d * quant without the fused operations that a compiler may choose for the sum after it.
__device__ inline float scaled(float d, int quant) { return __fmul_rn(d, static_cast<float>(quant)); }

/// Value i of a 256-value block: group g = i / 32, value j = i % 32 in it.
template <dtype Type>
__device__ inline float decode_large(const std::uint8_t* b, int i) {
  const int g = i / 32, j = i % 32;
  if constexpr (Type == dtype::q2_k) {
    const int scale = b[2 * g + j / 16];
    const int quant = (b[16 + 32 * (g / 4) + j] >> (2 * (g % 4))) & 3;
    return __fmaf_rn(scaled(half_bits(b + 80), scale & 15), static_cast<float>(quant), -scaled(half_bits(b + 82), scale >> 4));
  } else if constexpr (Type == dtype::q3_k) {
    const int quant = ((b[32 + 32 * (g / 4) + j] >> (2 * (g % 4))) & 3) - (((b[j] >> g) & 1) != 0 ? 0 : 4);
    return __fmul_rn(scaled(half_bits(b + 108), q3_k_scale(b + 96, 2 * g + j / 16)), static_cast<float>(quant));
  } else if constexpr (Type == dtype::q4_k || Type == dtype::q5_k) {
    constexpr bool five = Type == dtype::q5_k;
    const auto [scale, minimum] = q4_k_scale(b + 4, g);
    const int nibble = (b[(five ? 48 : 16) + 32 * (g / 2) + j] >> (4 * (g % 2))) & 15;
    const int bit = five ? (b[16 + j] >> g) & 1 : 0;
    return __fmaf_rn(scaled(half_bits(b), scale), static_cast<float>(nibble + 16 * bit), -scaled(half_bits(b + 2), minimum));
  } else if constexpr (Type == dtype::q6_k) {
    const int low = b[64 * (g / 4) + 32 * (g % 2) + j];
    const int quant = ((g % 4 < 2 ? low & 15 : low >> 4) | ((b[128 + 32 * (g / 4) + j] >> (2 * (g % 4))) & 3) << 4) - 32;
    return __fmul_rn(scaled(half_bits(b + 208), static_cast<std::int8_t>(b[192 + 2 * g + j / 16])), static_cast<float>(quant));
  } else {
    static_assert(Type == dtype::iq4_xs);
    const auto scales = static_cast<std::uint16_t>(b[2] | b[3] << 8);
    return __fmul_rn(scaled(half_bits(b), iq4_xs_scale(scales, b + 4, g)), iq4_level(nibble_of(b + 8 + 16 * g, j)));
  }
}

/// Value i of the storage block at `p`.
template <dtype Type>
__device__ inline float decode_value(const std::uint8_t* p, int i) {
  if constexpr (Type == dtype::f32) return *reinterpret_cast<const float*>(p);
  else if constexpr (Type == dtype::f16) return __half2float(*reinterpret_cast<const __half*>(p));
  else if constexpr (Type == dtype::bf16) return __bfloat162float(*reinterpret_cast<const bf16*>(p));
  else if constexpr (Type == dtype::q8_0) return scaled(half_bits(p), static_cast<std::int8_t>(p[2 + i]));
  else if constexpr (Type == dtype::q4_0) return scaled(half_bits(p), nibble_of(p + 2, i) - 8);
  else if constexpr (Type == dtype::q4_1) return __fmaf_rn(half_bits(p), static_cast<float>(nibble_of(p + 4, i)), half_bits(p + 2));
  else if constexpr (Type == dtype::q5_0) return scaled(half_bits(p), (nibble_of(p + 6, i) | ((p[2 + i / 8] >> (i % 8)) & 1) << 4) - 16);
  else if constexpr (Type == dtype::q5_1)
    return __fmaf_rn(half_bits(p), static_cast<float>(nibble_of(p + 8, i) | ((p[4 + i / 8] >> (i % 8)) & 1) << 4), half_bits(p + 2));
  else if constexpr (Type == dtype::iq4_nl) return __fmul_rn(half_bits(p), iq4_level(nibble_of(p + 2, i)));
  else return decode_large<Type>(p, i);
}

/// Calls function.operator()<Type>() for the type that `type` is at run time.
template <class Function>
void with_dtype(dtype type, const Function& function) {
  switch (type) {
    case dtype::f32: return function.template operator()<dtype::f32>();
    case dtype::f16: return function.template operator()<dtype::f16>();
    case dtype::bf16: return function.template operator()<dtype::bf16>();
    case dtype::q8_0: return function.template operator()<dtype::q8_0>();
    case dtype::q4_0: return function.template operator()<dtype::q4_0>();
    case dtype::q4_1: return function.template operator()<dtype::q4_1>();
    case dtype::q5_0: return function.template operator()<dtype::q5_0>();
    case dtype::q5_1: return function.template operator()<dtype::q5_1>();
    case dtype::q2_k: return function.template operator()<dtype::q2_k>();
    case dtype::q3_k: return function.template operator()<dtype::q3_k>();
    case dtype::q4_k: return function.template operator()<dtype::q4_k>();
    case dtype::q5_k: return function.template operator()<dtype::q5_k>();
    case dtype::q6_k: return function.template operator()<dtype::q6_k>();
    case dtype::iq4_nl: return function.template operator()<dtype::iq4_nl>();
    case dtype::iq4_xs: return function.template operator()<dtype::iq4_xs>();
    case dtype::q5_h:
    case dtype::q4_h: return;  // refused before (model.hpp)
  }
}

}  // namespace blockattn::inline v0::cuda::detail
