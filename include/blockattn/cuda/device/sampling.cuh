// The highest logits of a row (core/candidates.hpp), found on the device.
//
// A logit and its id become one 64-bit rank: the order of ranks is that of candidates, and all of them differ. A thread block takes a slice of them into shared memory
// and finds the rank of its last wanted one digit by digit (256 buckets); what isn't lower is handed on, and the next round's slices are of those, until one is left.
#pragma once

#include <cstdint>

#include "blockattn/cuda/device/numbers.cuh"

namespace blockattn::inline v0::cuda::detail {

inline constexpr int select_threads = 256;
inline constexpr int select_slice = 4096;  ///< ranks of a thread block; at most half as many are kept

/// 0 for what is no number above -infinity.
__device__ inline std::uint64_t rank_of(float logit, int id) {
  if (!(logit > -INFINITY)) return 0;
  const std::uint32_t bits = __float_as_uint(logit == 0 ? 0.0F : logit);  // one zero: -0 equals it
  const std::uint32_t order = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return (static_cast<std::uint64_t>(order) << 32) | (0xffffffffU - static_cast<std::uint32_t>(id));
}
__device__ inline std::uint64_t rank_of(std::uint64_t rank, int) { return rank; }

/// Logits of tokens that a repetition penalty applies to.
__global__ void penalise_tokens(float* logits, const token_id* ids, int count, float penalty) {
  wait_for_inputs();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  float& logit = logits[ids[i]];
  logit = logit > 0 ? logit / penalty : logit * penalty;
}

struct select_state {
  int histogram[256];
  int before[select_threads / 32];  ///< of the warps: ranks in their buckets
  int digit, above, within, kept;
};

/// The bucket in which the wanted-th highest rank lies, counted from the highest one; digit -1 if there are fewer.
__device__ inline void find_bucket(select_state& s, int wanted) {
  const int t = static_cast<int>(threadIdx.x), own = s.histogram[255 - t];
  int sum = own;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffU, sum, step);
    if (t % 32 >= step) sum += other;
  }
  if (t % 32 == 31) s.before[t / 32] = sum;
  if (t == 0) s.digit = -1;
  __syncthreads();
  for (int w = 0; w < t / 32; ++w) sum += s.before[w];
  if (sum >= wanted && sum - own < wanted) s.digit = 255 - t, s.above = sum - own, s.within = own;
  __syncthreads();
}

/// out[block, 0 .. count) = the highest of each slice of `from` [total], in no order, the rest 0. T: float (logits) or std::uint64_t (ranks).
template <class T>
__global__ void __launch_bounds__(select_threads) select_highest(const T* from, int total, int count, std::uint64_t* out) {
  __shared__ std::uint64_t ranks[select_slice];
  __shared__ select_state s;
  wait_for_inputs();
  const int t = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.x) * select_slice, size = min(select_slice, total - first);
  for (int i = t; i < size; i += select_threads) ranks[i] = rank_of(from[first + i], first + i);
  if (t == 0) s.kept = 0;
  std::uint64_t lowest = 0, mask = 0;
  int wanted = count;
  for (int shift = 56; shift >= 0; shift -= 8) {
    s.histogram[t] = 0;
    __syncthreads();
    for (int i = t; i < size; i += select_threads)
      if (ranks[i] != 0 && (ranks[i] & mask) == lowest) atomicAdd(&s.histogram[(ranks[i] >> shift) & 255], 1);
    __syncthreads();
    find_bucket(s, wanted);
    if (s.digit < 0) break;  // fewer than wanted: all of them
    lowest |= static_cast<std::uint64_t>(s.digit) << shift, mask |= std::uint64_t{255} << shift;
    wanted -= s.above;
    if (s.within == wanted) break;  // the whole bucket
    __syncthreads();
  }
  std::uint64_t* to = out + static_cast<std::int64_t>(blockIdx.x) * count;
  for (int i = t; i < size; i += select_threads)
    if (ranks[i] != 0 && ranks[i] >= lowest) to[atomicAdd(&s.kept, 1)] = ranks[i];
  __syncthreads();
  for (int i = s.kept + t; i < count; i += select_threads) to[i] = 0;
}

}  // namespace blockattn::inline v0::cuda::detail
