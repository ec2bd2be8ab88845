// What is done to each token between the matrix products: norms, biases, RoPE, storing keys and values, activations, soft caps.
#pragma once

#include "blockattn/cuda/device/numbers.cuh"

namespace blockattn::inline v0::cuda::detail {

/// A token's row in registers: thread i holds groups of four i, i + threads, … ; up to four of them, the rest is read again.
struct row_part {
  static constexpr int kept = 4;
  float4 values[kept];

  /// Sum of squares of the thread's part of `row` [columns], columns % 4 == 0.
  __device__ float load(const float* row, int columns) {
    float square = 0;
#pragma unroll
    for (int i = 0; i < kept; ++i) {
      const int at = static_cast<int>(threadIdx.x + static_cast<unsigned>(i) * blockDim.x);
      values[i] = at < columns / 4 ? reinterpret_cast<const float4*>(row)[at] : make_float4(0, 0, 0, 0);
      square += values[i].x * values[i].x + values[i].y * values[i].y + values[i].z * values[i].z + values[i].w * values[i].w;
    }
    for (int at = static_cast<int>(threadIdx.x + kept * blockDim.x); at < columns / 4; at += static_cast<int>(blockDim.x)) {
      const float4 v = reinterpret_cast<const float4*>(row)[at];
      square += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    return square;
  }
};

template <class Out>
__device__ inline void store_four(Out* to, float4 v) {
  if constexpr (sizeof(Out) == 2)
    *reinterpret_cast<uint2*>(to) = make_uint2(pair_of<Out>(v.x, v.y), pair_of<Out>(v.z, v.w));
  else
    *reinterpret_cast<float4*>(to) = v;
}

__device__ inline float4 scaled_four(float4 v, float factor, float4 w) { return make_float4(v.x * factor * w.x, v.y * factor * w.y, v.z * factor * w.z, v.w * factor * w.w); }

/// y[t] = x[t] / sqrt(mean(x[t]²) + epsilon) * weight; one thread block a token; columns % 4 == 0. x and y may be the same.
template <class Out>
__global__ void rms_norm(const float* x, const float* weight, int columns, float epsilon, Out* y) {
  __shared__ float shared[32];
  wait_for_inputs();
  const float* row = x + static_cast<std::int64_t>(blockIdx.x) * columns;
  Out* to = y + static_cast<std::int64_t>(blockIdx.x) * columns;
  row_part part;
  const float square = part.load(row, columns);
  const float factor = 1.0F / sqrtf(block_sum(square, shared) / static_cast<float>(columns) + epsilon);
#pragma unroll
  for (int i = 0; i < row_part::kept; ++i) {
    const int at = static_cast<int>(threadIdx.x + static_cast<unsigned>(i) * blockDim.x);
    if (at < columns / 4) store_four(to + 4 * at, scaled_four(part.values[i], factor, reinterpret_cast<const float4*>(weight)[at]));
  }
  for (int at = static_cast<int>(threadIdx.x + row_part::kept * blockDim.x); at < columns / 4; at += static_cast<int>(blockDim.x))
    store_four(to + 4 * at, scaled_four(reinterpret_cast<const float4*>(row)[at], factor, reinterpret_cast<const float4*>(weight)[at]));
}

/// x += y, or x += norm(y) with a weight; y [T, columns]. One thread block a token.
__global__ inline void add_normed(float* x, const float* y, const float* weight, int columns, float epsilon) {
  __shared__ float shared[32];
  wait_for_inputs();
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * columns;
  float square = 0;
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x)) square += y[begin + c] * y[begin + c];
  const float factor = 1.0F / sqrtf(block_sum(square, shared) / static_cast<float>(columns) + epsilon);
  for (int c = static_cast<int>(threadIdx.x); c < columns; c += static_cast<int>(blockDim.x)) x[begin + c] += y[begin + c] * factor * weight[c];
}

/// Eight neighbouring numbers.
template <class T>
__device__ inline void load_eight(const T* from, float (&x)[8]) {
  if constexpr (sizeof(T) == 2) {
    const uint4 raw = *reinterpret_cast<const uint4*>(from);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = to_float(reinterpret_cast<const T*>(&raw)[i]);
  } else {
    const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  }
}

/// out [T, F] = activation(gate) * up, where `both` holds gate [F], then up [F] of a token; F % 8 == 0, count = T * F.
template <class In, class Out>
__global__ void gate_and_up(const In* both, std::int64_t width, std::int64_t count, bool gelu, Out* out) {
  wait_for_inputs();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x * 8;
  for (std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8; at < count; at += stride) {
    const In* token = both + at / width * 2 * width + at % width;
    float g[8], u[8];
    load_eight(token, g);
    load_eight(token + width, u);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float z = 0.79788456080286536F * (g[i] + 0.044715F * g[i] * g[i] * g[i]);
      g[i] = g[i] / (1.0F + __expf(gelu ? -2.0F * z : -g[i])) * u[i];
    }
    store_four(out + at, make_float4(g[0], g[1], g[2], g[3]));
    store_four(out + at + 4, make_float4(g[4], g[5], g[6], g[7]));
  }
}

/// x [count] as another type.
template <class Out>
__global__ void convert(const float* x, std::int64_t count, Out* y) {
  wait_for_inputs();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < count; at += stride) y[at] = from_float<Out>(x[at]);
}

/// Cosines and sines [count, pairs] of the angles (place's position + t) * frequency[i], times `magnitude`; of positions[t] * frequency[i] if that isn't nullptr. Double precision.
__global__ inline void make_angles(const double* frequency, int pairs, const request_place* place, const double* positions, int count, double magnitude, float* cosine, float* sine) {
  wait_for_inputs();
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= static_cast<std::int64_t>(count) * pairs) return;
  const std::int64_t t = at / pairs;
  double s, c;
  sincos((positions != nullptr ? positions[t] : static_cast<double>(place->position + t)) * frequency[at % pairs], &s, &c);
  cosine[at] = static_cast<float>(magnitude * c);
  sine[at] = static_cast<float>(magnitude * s);
}

__global__ inline void cap_values(float* x, std::int64_t count, float cap) {
  wait_for_inputs();
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at < count) x[at] = cap * tanhf(x[at] / cap);
}

/// What place_heads needs; pointers of one layer.
struct head_arguments {
  float* projected = nullptr;  ///< [T, (H + 2 Hkv) * Dh]: query, key, value of a token; queries are finished in place
  int heads = 0, kv_heads = 0, head_dim = 0;
  const float *query_bias = nullptr, *key_bias = nullptr, *value_bias = nullptr;
  const float *query_norm = nullptr, *key_norm = nullptr;
  bool norm_whole = false;
  float epsilon = 0;
  const float *cosine = nullptr, *sine = nullptr;  ///< [T, pairs], or nullptr: no RoPE
  int channels = 0;                                ///< that RoPE turns
  bool halves = false;
  std::uint8_t *keys = nullptr, *values = nullptr;  ///< of the layer in the tail: [Hkv, stride, Dh]
  std::int64_t key_row_bytes = 0, value_row_bytes = 0, stride = 0;
  const request_place* place = nullptr;
  dtype key_type = dtype::bf16, value_type = dtype::bf16;
  bool operator==(const head_arguments&) const = default;
};

/// Stores one head of 32 lanes' values; lane i has channels i, i + 32, …
__device__ inline void store_head(dtype type, const float* x, int head_dim, std::uint8_t* to) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int c = lane, group = 0; c < head_dim; c += 32, ++group) {
    if (type == dtype::f32) reinterpret_cast<float*>(to)[c] = x[c];
    else if (type == dtype::f16) reinterpret_cast<__half*>(to)[c] = __float2half(x[c]);
    else if (type == dtype::bf16) reinterpret_cast<bf16*>(to)[c] = __float2bfloat16(x[c]);
    else if (type == dtype::q4_0) {  // d is the value of the largest magnitude over -8
      const float largest = warp_max(fabsf(x[c]));
      const unsigned where = __ballot_sync(0xffffffffU, fabsf(x[c]) == largest);
      const float d = __shfl_sync(0xffffffffU, x[c], __ffs(static_cast<int>(where)) - 1) / -8.0F;
      const int quant = d != 0 ? min(15, static_cast<int>(x[c] / d + 8.5F)) : 8;
      const int high = __shfl_down_sync(0xffffffffU, quant, 16);
      std::uint8_t* block = to + group * 18;
      if (lane == 0) *reinterpret_cast<__half*>(block) = __float2half(d);
      if (lane < 16) block[2 + lane] = static_cast<std::uint8_t>(quant | high << 4);
    } else {  // q8_0, as core/dtype_decode.hpp has it: head_dim % 32 == 0, so the whole warp is here
      const float largest = warp_max(fabsf(x[c]));
      const float d = largest / 127.0F;
      const __half scale = __float2half(d);
      std::uint8_t* block = to + group * 34;
      if (lane == 0) *reinterpret_cast<__half*>(block) = scale;
      block[2 + lane] = static_cast<std::uint8_t>(static_cast<std::int8_t>(d > 0 ? __float2int_rn(x[c] / d) : 0));
    }
  }
}

/// Biases, norms and RoPE of one head in shared memory; a warp.
__device__ inline void finish_head(const head_arguments& a, float* x, const float* from, const float* bias, const float* norm, float whole, bool rotate) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float square = 0;
  for (int c = lane; c < a.head_dim; c += 32) {
    x[c] = from[c] + (bias != nullptr ? bias[c] : 0.0F);
    square += x[c] * x[c];
  }
  if (norm != nullptr) {
    const float mean = a.norm_whole ? whole : warp_sum(square) / static_cast<float>(a.head_dim);
    const float factor = 1.0F / sqrtf(mean + a.epsilon);
    for (int c = lane; c < a.head_dim; c += 32) x[c] *= factor * norm[c];
  }
  __syncwarp();
  if (!rotate || a.cosine == nullptr) return;
  const int pairs = a.channels / 2;
  for (int i = lane; i < pairs; i += 32) {
    const int low = a.halves ? i : 2 * i, high = a.halves ? i + pairs : 2 * i + 1;
    const float c = a.cosine[static_cast<std::int64_t>(blockIdx.x) * pairs + i], s = a.sine[static_cast<std::int64_t>(blockIdx.x) * pairs + i];
    const float u = x[low] * c - x[high] * s, v = x[low] * s + x[high] * c;
    x[low] = u;
    x[high] = v;
  }
  __syncwarp();
}

/// Mean square over all heads of a kind, biases added: for norms that go over the whole token.
__device__ inline float whole_mean(const float* from, const float* bias, int count, float* shared) {
  float square = 0;
  for (int c = static_cast<int>(threadIdx.x); c < count; c += static_cast<int>(blockDim.x)) {
    const float x = from[c] + (bias != nullptr ? bias[c] : 0.0F);
    square += x * x;
  }
  return block_sum(square, shared) / static_cast<float>(count);
}

/// Finishes query, key and value of each token and stores key and value. Grid: (tokens, heads in groups), a warp a head. Shared memory: [warps, Dh] floats.
__global__ inline void place_heads(head_arguments a) {
  extern __shared__ float heads[];
  __shared__ float shared[32];
  wait_for_inputs();
  const int warp = static_cast<int>(threadIdx.x / 32), warps = static_cast<int>(blockDim.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  float* x = heads + warp * a.head_dim;
  float* token = a.projected + static_cast<std::int64_t>(blockIdx.x) * (a.heads + 2 * a.kv_heads) * a.head_dim;
  const int query = a.heads * a.head_dim, key = a.kv_heads * a.head_dim;
  float query_mean = 0, key_mean = 0;
  if (a.norm_whole) {
    query_mean = whole_mean(token, a.query_bias, query, shared);
    key_mean = whole_mean(token + query, a.key_bias, key, shared);
  }
  const auto part = [](const float* p, int at) { return p != nullptr ? p + at : nullptr; };
  for (int h = warp + warps * static_cast<int>(blockIdx.y); h < a.heads + 2 * a.kv_heads; h += warps * static_cast<int>(gridDim.y)) {
    float* from = token + h * a.head_dim;
    if (h < a.heads) {
      finish_head(a, x, from, part(a.query_bias, h * a.head_dim), part(a.query_norm, a.norm_whole ? h * a.head_dim : 0), query_mean, true);
      for (int c = lane; c < a.head_dim; c += 32) from[c] = x[c];
      continue;
    }
    const bool is_key = h < a.heads + a.kv_heads;
    const int k = is_key ? h - a.heads : h - a.heads - a.kv_heads;
    if (is_key)
      finish_head(a, x, from, part(a.key_bias, k * a.head_dim), part(a.key_norm, a.norm_whole ? k * a.head_dim : 0), key_mean, true);
    else
      finish_head(a, x, from, part(a.value_bias, k * a.head_dim), nullptr, 0, false);
    const std::int64_t at = k * a.stride + a.place->first + blockIdx.x;
    if (is_key) store_head(a.key_type, x, a.head_dim, a.keys + at * a.key_row_bytes);
    else store_head(a.value_type, x, a.head_dim, a.values + at * a.value_row_bytes);
    __syncwarp();
  }
}

}  // namespace blockattn::inline v0::cuda::detail
