// Weights on the device: unpacked for a matrix product of many tokens, or streamed once for a few.
#pragma once

#include "blockattn/cuda/device/numbers.cuh"

namespace blockattn::inline v0::cuda::detail {

/// `count` values from `first` on of rows of `columns` values each -> out, one thread a value. Rows lie `row_bytes` apart.
template <dtype Type, class Out>
__global__ void unpack_weights(const std::uint8_t* rows, std::int64_t row_bytes, std::int64_t columns, std::int64_t count, Out* out) {
  wait_for_inputs();
  constexpr int values = static_cast<int>(block_values(Type));
  constexpr int bytes = static_cast<int>(block_bytes(Type));
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < count; at += stride) {
    const std::int64_t row = at / columns, column = at % columns;
    const std::uint8_t* block = rows + row * row_bytes + column / values * bytes;
    out[at] = from_float<Out>(decode_value<Type>(block, static_cast<int>(column % values)));
  }
}

/// Rows ids[t] of the embedding -> x [tokens, columns], times `scale`. One thread block a token.
template <dtype Type>
__global__ void embed_tokens(const std::uint8_t* rows, std::int64_t row_bytes, int columns, const token_id* ids, float scale, float* x) {
  wait_for_inputs();
  constexpr int values = static_cast<int>(block_values(Type));
  constexpr int bytes = static_cast<int>(block_bytes(Type));
  const std::uint8_t* row = rows + ids[blockIdx.x] * row_bytes;
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x))
    x[static_cast<std::int64_t>(blockIdx.x) * columns + c] = decode_value<Type>(row + c / values * bytes, c % values) * scale;
}

/// Eight neighbouring weights of a row from column `c` on, a multiple of 8.
template <dtype Type>
__device__ inline void eight_weights(const std::uint8_t* row, int c, float (&w)[8]) {
  if constexpr (Type == dtype::bf16 || Type == dtype::f16) {
    using number = std::conditional_t<Type == dtype::bf16, bf16, __half>;
    const uint4 raw = __ldcs(reinterpret_cast<const uint4*>(row + 2 * c));
    const auto* v = reinterpret_cast<const number*>(&raw);
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = to_float(v[i]);
  } else if constexpr (Type == dtype::f32) {
    const float4 a = __ldcs(reinterpret_cast<const float4*>(row + 4 * c)), b = __ldcs(reinterpret_cast<const float4*>(row + 4 * c + 16));
    w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w, w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
  } else {
    constexpr int values = static_cast<int>(block_values(Type));
    const std::uint8_t* block = row + c / values * static_cast<int>(block_bytes(Type));
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = decode_value<Type>(block, c % values + i);
  }
}

/// y[t, n] = row n · x[t] (+ y if `add`) for `Tokens` tokens: a warp a row, each weight read once. columns % 8 == 0.
template <dtype Type, class In, class Out, int Tokens>
__global__ void __launch_bounds__(256) multiply_few(const std::uint8_t* rows, std::int64_t row_bytes, int columns, int count, const In* x, int tokens,
                                                    Out* y, std::int64_t stride, bool add) {
  const int n = static_cast<int>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
  if (n >= count) return wait_for_inputs();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::uint8_t* row = rows + n * row_bytes;
  float sum[Tokens] = {};
  wait_for_inputs();
#pragma unroll 4
  for (int c = lane * 8; c < columns; c += 256) {
    float w[8];
    eight_weights<Type>(row, c, w);
#pragma unroll
    for (int t = 0; t < Tokens; ++t) {
      if (t >= tokens) break;
      __align__(16) float v[8];
      if constexpr (sizeof(In) == 2) {
        const uint4 raw = *reinterpret_cast<const uint4*>(x + static_cast<std::int64_t>(t) * columns + c);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = to_float(reinterpret_cast<const In*>(&raw)[i]);
      } else {
        const auto* from = reinterpret_cast<const float4*>(x + static_cast<std::int64_t>(t) * columns + c);
        reinterpret_cast<float4*>(v)[0] = from[0], reinterpret_cast<float4*>(v)[1] = from[1];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[t] += w[i] * v[i];
    }
  }
#pragma unroll
  for (int t = 0; t < Tokens; ++t) {
    const float total = warp_sum(sum[t]);
    if (lane == 0 && t < tokens) {
      Out* to = y + t * stride + n;
      *to = from_float<Out>(add ? to_float(*to) + total : total);
    }
  }
}

}  // namespace blockattn::inline v0::cuda::detail
