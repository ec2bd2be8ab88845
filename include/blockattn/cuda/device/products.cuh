// Matrix products of up to 64 tokens with bfloat16 weights on Hopper: as fast as the weights can be read. A thread block owns 128 rows of the weights (or 64 of the gate and the
// same 64 of the up projection) and a share of the columns; a cluster of blocks adds up its shares in a fixed order. Weights don't depend on the kernel before, so the first
// tiles are on their way while that one still runs.
#pragma once

#include "blockattn/cuda/device/attention_tiles.cuh"
#include "blockattn/cuda/device/token.cuh"
#include "blockattn/cuda/device/warp_group.cuh"

namespace blockattn::inline v0::cuda::detail {

inline constexpr int product_rows = 128, product_tokens = 64, product_threads = 256, product_columns = 64, product_stages = 4;
inline constexpr int product_stage_bytes = (product_rows + product_tokens) * product_columns * 2;
inline constexpr int product_memory = product_stages * product_stage_bytes + 1024;

enum class product_end { store, add, gate };  ///< y = , y +=, y = activation(gate) * up

struct product_arguments {
  const bf16* weights = nullptr;  ///< [rows, columns]; columns % 64 == 0
  const bf16* x = nullptr;        ///< [tokens, columns]
  int rows = 0, columns = 0, tokens = 0;
  bool gelu = false;
  void* y = nullptr;  ///< [tokens, stride]: float32, or bfloat16 if gated
  std::int64_t stride = 0;
  // RMSNorm beside the products: the one that makes x leaves bfloat16(y * norm) and the sums of y's squares, the one that reads it divides by their root
  const float* norm = nullptr;       ///< [rows], of `add`: the weights of the norm that follows
  bf16* normed = nullptr;            ///< [tokens, rows]
  float* squares = nullptr;          ///< [row tiles, product_tokens]: of `add`, written
  const float* x_squares = nullptr;  ///< the same of x, nullptr: x is what is to be multiplied
  int x_tiles = 0;
  float epsilon = 0;
  bool operator==(const product_arguments&) const = default;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ inline void cluster_sync() { asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
/// Four floats in the shared memory of block `rank` of the cluster, at the place of `address` in this one's.
__device__ inline float4 peer_floats(std::uint32_t address, std::uint32_t rank) {
  float4 x;
  asm volatile("{ .reg .u32 a; mapa.shared::cluster.u32 a, %4, %5; ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [a]; }"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(address), "r"(rank)
               : "memory");
  return x;
}

template <product_end End>
__device__ inline void multiply_some_body(const product_arguments& a) {
  extern __shared__ std::uint8_t raw[];
  let_next_prepare();
  std::uint8_t* memory = raw + (1024 - static_cast<int>(__cvta_generic_to_shared(raw)) % 1024) % 1024;
  const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(memory));
  const int thread = static_cast<int>(threadIdx.x), splits = static_cast<int>(gridDim.y), split = static_cast<int>(blockIdx.y);
  const int steps_in_all = a.columns / product_columns, first = steps_in_all * split / splits, steps = steps_in_all * (split + 1) / splits - first;
  constexpr bool gate = End == product_end::gate;
  const int width = gate ? a.rows / 2 : a.rows, first_row = static_cast<int>(blockIdx.x) * (gate ? 64 : product_rows);
  constexpr int x_at = product_rows * product_columns * 2;
  const int chunk = thread % 8, lane_row = thread / 8;
  const auto copy_weights = [&](int step) {
    const std::uint32_t to = shared + step % product_stages * product_stage_bytes;
#pragma unroll
    for (int i = 0; i < product_rows / 32; ++i) {
      const int row = lane_row + 32 * i;
      const int from = first_row + (gate ? row % 64 : row);
      const bool there = from < width && step < steps;
      const bf16* source = a.weights + static_cast<std::int64_t>(there ? from + (gate && row >= 64 ? width : 0) : 0) * a.columns + (first + (there ? step : 0)) * product_columns + chunk * 8;
      copy_async(to + row / 64 * (64 * 128) + row % 64 * 128 + ((chunk ^ (row & 7)) << 4), source, there);
    }
  };
  const auto copy_x = [&](int step) {
    const std::uint32_t to = shared + step % product_stages * product_stage_bytes + x_at;
#pragma unroll
    for (int i = 0; i < product_tokens / 32; ++i) {
      const int row = lane_row + 32 * i;
      const bool there = row < a.tokens && step < steps;
      copy_async(to + row * 128 + ((chunk ^ (row & 7)) << 4), there ? a.x + static_cast<std::int64_t>(row) * a.columns + (first + step) * product_columns + chunk * 8 : a.x, there);
    }
  };
#pragma unroll
  for (int s = 0; s < product_stages - 1; ++s) copy_weights(s);
  wait_for_previous();
#pragma unroll
  for (int s = 0; s < product_stages - 1; ++s) {
    copy_x(s);
    commit_copies();
  }
  __shared__ float factors[product_tokens];
  if (thread < product_tokens) {
    float square = 0;
    if (a.x_squares != nullptr) {
#pragma unroll 8
      for (int i = 0; i < a.x_tiles; ++i) square += a.x_squares[i * product_tokens + thread];
    }
    factors[thread] = a.x_squares != nullptr ? 1.0F / sqrtf(square / static_cast<float>(a.columns) + a.epsilon) : 1.0F;
  }
  float sums[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) sums[i] = 0;
  const int group = __shfl_sync(0xffffffffU, thread / 128, 0);
  for (int step = 0; step < steps; ++step) {
    wait_copies<product_stages - 2>();
    publish_shared();
    __syncthreads();
    copy_weights(step + product_stages - 1);
    copy_x(step + product_stages - 1);
    commit_copies();
    const std::uint32_t stage = shared + step % product_stages * product_stage_bytes;
    group_begin();
#pragma unroll
    for (int k = 0; k < product_columns / 16; ++k)
      multiply_tiles(bf16{}, sums, tile_descriptor(tile_start(stage + group * (64 * 128) + k * 32, 16)), tile_descriptor(tile_start(stage + x_at + k * 32, 16)));
    group_commit();
    group_wait<0>();
  }
  wait_copies<0>();
  __syncthreads();
  // [tokens, 128 + 4] floats: a block's share
  constexpr int pitch = product_rows + 4;
  const auto gated = [&](float g, float u) {
    const float z = 0.79788456080286536F * (g + 0.044715F * g * g * g);
    return g / (1.0F + __expf(a.gelu ? -2.0F * z : -g)) * u;
  };
  auto* shares = reinterpret_cast<float*>(memory);
  const int lane = thread % 32, row = thread / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < 32; ++i) shares[(i / 4 * 8 + lane % 4 * 2 + i % 2) * pitch + row + i % 4 / 2 * 8] = sums[i];
  if (splits > 1) cluster_sync();
  else __syncthreads();
  // each block of the cluster finishes some of the tokens, four rows a thread
  const auto total = [&](int at, float factor) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
      const float4 v = splits > 1 ? peer_floats(shared + at * 4, s) : *reinterpret_cast<const float4*>(shares + at);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    return make_float4(sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor);
  };
  const int tokens_each = (a.tokens + splits - 1) / splits, last = min(a.tokens, (split + 1) * tokens_each);
  constexpr int fours = (gate ? 64 : product_rows) / 4;
  for (int i = split * tokens_each * fours + thread; i < last * fours; i += product_threads) {
    const int token = i / fours, r = i % fours * 4;
    const bool there = first_row + r < width;
    const std::int64_t to = token * a.stride + first_row + r;
    float4 sum = total(token * pitch + r, factors[token]);
    if constexpr (gate) {
      const float4 up = total(token * pitch + 64 + r, factors[token]);
      if (there)
        *reinterpret_cast<uint2*>(static_cast<bf16*>(a.y) + to) = make_uint2(pair_of<bf16>(gated(sum.x, up.x), gated(sum.y, up.y)), pair_of<bf16>(gated(sum.z, up.z), gated(sum.w, up.w)));
      continue;
    }
    auto* y = reinterpret_cast<float4*>(static_cast<float*>(a.y) + to);
    if (End == product_end::add && there) {
      const float4 old = *y;
      sum.x += old.x, sum.y += old.y, sum.z += old.z, sum.w += old.w;
    }
    if (there) *y = sum;
    if (End == product_end::add && a.norm != nullptr) {  // a warp has a token's rows of the tile
      const float square = warp_sum(there ? sum.x * sum.x + sum.y * sum.y + sum.z * sum.z + sum.w * sum.w : 0.0F);
      if (thread % 32 == 0) a.squares[static_cast<int>(blockIdx.x) * product_tokens + token] = square;
      if (there) store_four(a.normed + to, scaled_four(sum, 1, *reinterpret_cast<const float4*>(a.norm + first_row + r)));
    }
  }
  if (splits > 1) cluster_sync();  // nobody leaves while its shares are read
}

#endif

/// Grid: (row tiles, splits), a cluster: (1, splits).
template <product_end End>
__global__ void __launch_bounds__(product_threads, 2) multiply_some(product_arguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  multiply_some_body<End>(a);
#endif
}

}  // namespace blockattn::inline v0::cuda::detail
