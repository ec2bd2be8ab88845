// What the attention kernels share, and the plain one: float32, every KV type, any head size; a warp a key.
//
// A query row is a token with one head. Cached keys are read where they lie; for each segment the query, which is rotated at its own position p, is
// rotated back by the segment's offset o: <R(p) q, R(o) k> = <R(-o) R(p) q, k>.
#pragma once

#include "blockattn/cuda/device/numbers.cuh"

namespace blockattn::inline v0::cuda::detail {

/// A segment on the device: cuda::segment without what differs by layer.
struct device_segment {
  const std::uint8_t* base;
  std::int64_t stride, first;
  std::int32_t tokens, position;
  std::int32_t rotation;  ///< row of the angle tables, -1: none
  std::int32_t pad;
};

/// Keys [begin, end) of a segment: a piece of a split's work. `position`: of the segment's first token.
struct work_item {
  std::int32_t segment, begin, end, position;
};

struct attend_arguments {
  const float* queries = nullptr;  ///< [T, row_stride]
  std::int64_t row_stride = 0;
  void* out = nullptr;  ///< [T, H * Dh]
  int tokens = 0, heads = 0, kv_heads = 0, head_dim = 0;
  const request_place* place = nullptr;
  int skipped = 0;  ///< tokens of the request before token 0
  float scale = 1, cap = 0;
  int window = 0;
  bool halves = false;
  int channels = 0;                                 ///< that RoPE turns; 0: none
  const float *cosine = nullptr, *sine = nullptr;  ///< [rotations, channels / 2]
  const device_segment* segments = nullptr;  ///< that this call goes over
  int segment_count = 0;
  int layer = 0;
  std::int64_t row_bytes[2] = {0, 0};  ///< of a key, of a value
  dtype kv[2] = {dtype::bf16, dtype::bf16};
  // of the tiled kernel: split s does items [split_begin[s], split_begin[s + 1])
  const work_item* items = nullptr;
  const std::int32_t* split_begin = nullptr;
  int splits = 1;
  /// Not nullptr: the results go here, to be joined: sums [splits, Hkv, rows, Dh], then maximum (of scores in base 2) and total [splits, Hkv, rows, 2]. A row that sees
  /// nothing has the maximum -inf and the total 0.
  float* partial = nullptr;
  bool operator==(const attend_arguments&) const = default;

  /// Position of token 0.
  [[nodiscard]] __device__ int position() const { return place->position + skipped; }
};

/// Row `t` of keys (half 0) or values (half 1) of a KV head.
__device__ inline const std::uint8_t* kv_row(const attend_arguments& a, const device_segment& s, int half, int head, int t) {
  const std::int64_t rows = a.kv_heads * s.stride;
  const std::int64_t layer = a.layer * rows * (a.row_bytes[0] + a.row_bytes[1]) + (half == 0 ? 0 : rows * a.row_bytes[0]);
  return s.base + layer + (head * s.stride + s.first + t) * a.row_bytes[half];
}

__device__ inline float kv_value(dtype type, const std::uint8_t* row, int c) {
  if (type == dtype::f32) return reinterpret_cast<const float*>(row)[c];
  if (type == dtype::f16) return __half2float(reinterpret_cast<const __half*>(row)[c]);
  if (type == dtype::bf16) return __bfloat162float(reinterpret_cast<const bf16*>(row)[c]);
  if (type == dtype::q8_0) return decode_value<dtype::q8_0>(row + c / 32 * 34, c % 32);
  return decode_value<dtype::q4_0>(row + c / 32 * 18, c % 32);
}

/// Channels 8 * chunk, … of a quantised row as four pairs of T.
template <class T>
__device__ inline void unpack_chunk(dtype type, const std::uint8_t* row, int chunk, std::uint32_t (&packed)[4]) {
  if (type == dtype::q8_0) {
    const std::uint8_t* block = row + chunk / 4 * 34;
    const float d = __half2float(*reinterpret_cast<const __half*>(block));
    const auto* quants = reinterpret_cast<const std::uint16_t*>(block + 2 + chunk % 4 * 8);
#pragma unroll
    for (int p = 0; p < 4; ++p)
      packed[p] = pair_of<T>(d * static_cast<float>(static_cast<std::int8_t>(quants[p])), d * static_cast<float>(static_cast<std::int8_t>(quants[p] >> 8)));
    return;
  }
  const std::uint8_t* block = row + chunk / 4 * 18;  // q4_0: the chunk is the low or the high nibbles of eight bytes
  const float d = __half2float(*reinterpret_cast<const __half*>(block));
  const int shift = chunk % 4 < 2 ? 0 : 4;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const std::uint32_t two = *reinterpret_cast<const std::uint16_t*>(block + 2 + chunk % 2 * 8 + 2 * p) >> shift;
    packed[p] = pair_of<T>(d * static_cast<float>(static_cast<int>(two & 15) - 8), d * static_cast<float>(static_cast<int>(two >> 8 & 15) - 8));
  }
}

/// Whether a type is copied to shared memory as it lies.
__device__ inline bool is_narrow(dtype type) { return type == dtype::bf16 || type == dtype::f16; }

/// Channel c of a query head, rotated back by the segment's offset.
__device__ inline float turned_channel(const attend_arguments& a, const device_segment& s, const float* q, int c) {
  if (s.rotation < 0 || c >= a.channels) return q[c];
  const int pairs = a.channels / 2;
  const bool low = a.halves ? c < pairs : c % 2 == 0;
  const int i = a.halves ? c % pairs : c / 2;
  const float partner = q[a.halves ? (low ? c + pairs : c - pairs) : (low ? c + 1 : c - 1)];
  const float cosine = a.cosine[static_cast<std::int64_t>(s.rotation) * pairs + i], sine = a.sine[static_cast<std::int64_t>(s.rotation) * pairs + i];
  return low ? q[c] * cosine + partner * sine : q[c] * cosine - partner * sine;
}

inline constexpr int plain_warps = 4;

/// Merges the warps' softmax states and writes the head, or its part. shared: [warps, Dh + 2].
template <class Out>
__device__ inline void merge_warps(const attend_arguments& a, int token, int head, const float* shared) {
  const int head_dim = a.head_dim, step = head_dim + 2, group = a.heads / a.kv_heads, rows = a.tokens * group;
  const std::int64_t at = static_cast<std::int64_t>(head / group) * rows + token * group + head % group, all = static_cast<std::int64_t>(a.kv_heads) * rows;
  auto* out = static_cast<Out*>(a.out) + (static_cast<std::int64_t>(token) * a.heads + head) * head_dim;
  float top = -INFINITY;
  for (int w = 0; w < plain_warps; ++w) top = fmaxf(top, shared[w * step + head_dim]);
  const float base = top == -INFINITY ? 0.0F : top;
  for (int c = static_cast<int>(threadIdx.x); c < head_dim; c += static_cast<int>(blockDim.x)) {
    float sum = 0, total = 0;
    for (int w = 0; w < plain_warps; ++w) {
      const float weight = expf(shared[w * step + head_dim] - base);
      sum += shared[w * step + c] * weight;
      total += shared[w * step + head_dim + 1] * weight;
    }
    if (a.partial == nullptr) {
      out[c] = from_float<Out>(sum / total);
      continue;
    }
    constexpr float log2e = 1.44269504088896341F;
    a.partial[at * head_dim + c] = sum;
    if (c == 0) *reinterpret_cast<float2*>(a.partial + all * head_dim + at * 2) = make_float2(top * log2e, total);
  }
}

/// One thread block a token and head, all keys in one split; head_dim <= 256. Shared memory: (warps * (Dh + 2) + Dh) floats.
template <class Out>
__global__ void __launch_bounds__(32 * plain_warps) attend_plain(attend_arguments a) {
  extern __shared__ float memory[];
  wait_for_inputs();
  const int token = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y), kv_head = head / (a.heads / a.kv_heads);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  float* turned = memory + plain_warps * (a.head_dim + 2);
  const float* q = a.queries + token * a.row_stride + head * a.head_dim;
  const int own = a.position() + token;
  float sums[8] = {};
  float top = -INFINITY, total = 0;
  for (int i = 0; i < a.segment_count; ++i) {
    const device_segment s = a.segments[i];
    const int end = min(s.tokens, own - s.position + 1);
    const int begin = a.window > 0 ? max(0, own - a.window + 1 - s.position) : 0;
    if (begin >= end) continue;
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < a.head_dim; c += static_cast<int>(blockDim.x)) turned[c] = turned_channel(a, s, q, c) * a.scale;
    __syncthreads();
    for (int k = begin + warp; k < end; k += plain_warps) {
      const std::uint8_t* key = kv_row(a, s, 0, kv_head, k);
      float score = 0;
      for (int c = lane; c < a.head_dim; c += 32) score += turned[c] * kv_value(a.kv[0], key, c);
      score = warp_sum(score);
      if (a.cap > 0) score = a.cap * tanhf(score / a.cap);
      const float higher = fmaxf(top, score);
      const float shrink = expf(top - higher), p = expf(score - higher);
      total = total * shrink + p;
      top = higher;
      const std::uint8_t* value = kv_row(a, s, 1, kv_head, k);
      for (int c = lane, n = 0; c < a.head_dim; c += 32, ++n) sums[n] = sums[n] * shrink + p * kv_value(a.kv[1], value, c);
    }
  }
  float* mine = memory + warp * (a.head_dim + 2);
  for (int c = lane, n = 0; c < a.head_dim; c += 32, ++n) mine[c] = sums[n];
  if (lane == 0) mine[a.head_dim] = top, mine[a.head_dim + 1] = total;
  __syncthreads();
  merge_warps<Out>(a, token, head, memory);
}

inline constexpr int merge_rows = 8;

/// What the splits of an attention call left of a row: row `at` of `all` (KV heads and rows), Dh % 4 == 0. For a whole warp.
struct row_parts {
  const attend_arguments& a;
  const int all, at, lane = static_cast<int>(threadIdx.x % 32);
  const float2* states = reinterpret_cast<const float2*>(a.partial + static_cast<std::int64_t>(a.splits) * all * a.head_dim) + at;  ///< maximum, total

  __device__ float top() const {
    float top = -INFINITY;
    for (int s = lane; s < a.splits; s += 32) top = fmaxf(top, states[s * all].x);
    return warp_max(top);
  }

  /// Channels c to c + 3 of the weighted values, relative to 2^top; zeros if they aren't `there`. `total`: the sum of the weights.
  __device__ float4 join(float top, int c, bool there, float& total) const {
    float4 sum = make_float4(0, 0, 0, 0);
    float share = 0;
    for (int base = 0; base < a.splits; base += 32) {
      const int count = min(32, a.splits - base);
      const float2 part = lane < count ? states[(base + lane) * all] : make_float2(-INFINITY, 0);
      const float weight = exp2f(part.x - top);
      share += weight * part.y;
#pragma unroll 8
      for (int s = 0; s < count; ++s) {
        const float w = __shfl_sync(0xffffffffU, weight, s);
        const float4 v = there ? *reinterpret_cast<const float4*>(a.partial + (static_cast<std::int64_t>(base + s) * all + at) * a.head_dim + c) : make_float4(0, 0, 0, 0);
        sum.x += w * v.x, sum.y += w * v.y, sum.z += w * v.z, sum.w += w * v.w;
      }
    }
    total = warp_sum(share);
    return sum;
  }
};

/// Where row `row` of a KV head goes.
template <class Out>
__device__ inline Out* row_output(const attend_arguments& a, int kv_head, int row) {
  const int group = a.heads / a.kv_heads;
  return static_cast<Out*>(a.out) + (static_cast<std::int64_t>(row / group) * a.heads + kv_head * group + row % group) * a.head_dim;
}

/// Joins an attention call's splits: a warp a row, `merge_rows` of them a thread block, over [Hkv, rows].
template <class Out>
__global__ void __launch_bounds__(32 * merge_rows) merge_splits(attend_arguments a, int rows) {
  wait_for_inputs();
  const int at = static_cast<int>(blockIdx.x) * merge_rows + static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32), all = a.kv_heads * rows;
  if (at >= all) return;
  const row_parts parts{a, all, at};
  const float top = parts.top();
  auto* out = row_output<Out>(a, at / rows, at % rows);
  for (int c = lane * 4; c < (a.head_dim + 127) / 128 * 128; c += 128) {
    float total;
    const float4 sum = parts.join(top, c, c < a.head_dim, total);
    const float factor = 1.0F / total;
    if (c >= a.head_dim) continue;
    out[c] = from_float<Out>(sum.x * factor), out[c + 1] = from_float<Out>(sum.y * factor);
    out[c + 2] = from_float<Out>(sum.z * factor), out[c + 3] = from_float<Out>(sum.w * factor);
  }
}

/// The same for scaled segments and the others (see segment_scaling), each in parts of their own, even of one split: with L the logarithm of a group's total, the scaled ones
/// have the weight exp(power · L) beside exp(L) of the others; what a row sees nothing of has none.
template <class Out>
__global__ void __launch_bounds__(32 * merge_rows) merge_scaled(attend_arguments others, attend_arguments scaled, float power, int rows) {
  wait_for_inputs();
  const int at = static_cast<int>(blockIdx.x) * merge_rows + static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32), all = others.kv_heads * rows;
  if (at >= all) return;
  const row_parts other_parts{others, all, at}, scaled_parts{scaled, all, at};
  const auto seen = [](float top) { return top == -INFINITY ? 0.0F : top; };
  const float other_top = seen(other_parts.top()), scaled_top = seen(scaled_parts.top());
  auto* out = row_output<Out>(others, at / rows, at % rows);
  for (int c = lane * 4; c < (others.head_dim + 127) / 128 * 128; c += 128) {
    float other_total, scaled_total;
    const float4 x = other_parts.join(other_top, c, c < others.head_dim, other_total), y = scaled_parts.join(scaled_top, c, c < others.head_dim, scaled_total);
    if (c >= others.head_dim) continue;
    const float difference = other_top + log2f(other_total) - power * (scaled_top + log2f(scaled_total));
    const float weight = scaled_total == 0 ? 0.0F : other_total == 0 ? 1.0F : 1 / (1 + exp2f(difference));
    const float of_others = other_total == 0 ? 0.0F : (1 - weight) / other_total, of_scaled = scaled_total == 0 ? 0.0F : weight / scaled_total;
    out[c] = from_float<Out>(x.x * of_others + y.x * of_scaled), out[c + 1] = from_float<Out>(x.y * of_others + y.y * of_scaled);
    out[c + 2] = from_float<Out>(x.z * of_others + y.z * of_scaled), out[c + 3] = from_float<Out>(x.w * of_others + y.w * of_scaled);
  }
}

}  // namespace blockattn::inline v0::cuda::detail
