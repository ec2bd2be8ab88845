// Attention of many rows on Hopper's tensor cores. As attention_tiles.cuh, with these differences: a warp group of 128 threads owns 64 rows, two of them a thread block's;
// the rows stay in registers once they are rotated for a segment (and in shared memory as half precision before); the next tile's scores are computed beside the weighted
// values of the last one (after FlashAttention-3, arXiv 2407.08608); tiles come in a ring. Keys and values are bfloat16 or q8_0; heads of 64 or 128.
#pragma once

#include "blockattn/cuda/device/attention_tiles.cuh"
#include "blockattn/cuda/device/warp_group.cuh"

namespace blockattn::inline v0::cuda::detail {

inline constexpr int group_threads = 256;
inline constexpr int group_rows = 128;
/// Tiles in the ring: all but two are on their way while one is computed.
template <int Dh, int Keys>
constexpr int group_stages = Keys * Dh <= 64 * 128 ? 5 : (Keys * Dh <= 80 * 128 ? 4 : 3);

template <int Dh, int Keys>
constexpr int group_memory() {
  return group_stages<Dh, Keys> * 2 * Keys * Dh * 2 + group_rows * Dh * 2 + 1024;  // atoms are aligned to 1,024 bytes
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Byte offset of 16-byte chunk `chunk` of row `row` in tiles of 64 columns, `Keys` rows each.
template <int Keys>
__device__ inline std::uint32_t group_place(int row, int chunk) {
  return static_cast<std::uint32_t>(chunk / 8 * (Keys * 128) + row * 128 + ((chunk % 8 ^ (row & 7)) << 4));
}

/// Moves to the next tile of `Keys` keys; as tile_cursor, without a copy of the segment, but with where the tile's keys and values lie.
struct group_cursor {
  int item, last_item, kv_head;
  int begin = 0, end = 0;
  int segment = -1, position = 0;
  int low, high;
  const std::uint8_t *keys = nullptr, *values = nullptr;

  template <int Keys>
  __device__ bool next(const attend_arguments& a, bool first) {
    if (!first) {
      begin += Keys, keys += Keys * a.row_bytes[0], values += Keys * a.row_bytes[1];
      if (begin < end) return true;
      ++item;
    }
    for (; item < last_item; ++item) {
      const work_item w = a.items[item];
      segment = w.segment;
      const device_segment s = a.segments[segment];
      position = s.position;
      end = min(w.end, high - position + 1);
      begin = w.begin;
      if (a.window > 0) begin = max(begin, (low - a.window + 1 - position) / Keys * Keys);
      if (begin >= end) continue;
      keys = kv_row(a, s, 0, kv_head, begin), values = kv_row(a, s, 1, kv_head, begin);
      return true;
    }
    return false;
  }
};

template <int Dh, int Keys>
__device__ inline void load_group_tile(const attend_arguments& a, const group_cursor& at, int half, std::uint32_t to, std::uint8_t* generic) {
  constexpr int chunks = Dh / 8, step = group_threads / chunks;
  const int chunk = static_cast<int>(threadIdx.x) % chunks;
  int row = static_cast<int>(threadIdx.x) / chunks;
  const std::uint8_t* from = half == 0 ? at.keys : at.values;
  if (!is_narrow(a.kv[half])) {
    for (; row < Keys; row += step) {
      std::uint32_t packed[4] = {};
      if (at.begin + row < at.end) unpack_chunk<bf16>(a.kv[half], from + row * a.row_bytes[half], chunk, packed);
      *reinterpret_cast<uint4*>(generic + group_place<Keys>(row, chunk)) = *reinterpret_cast<const uint4*>(packed);
    }
    return;
  }
  const int left = at.end - at.begin;
#pragma unroll
  for (int i = 0; i < (Keys + step - 1) / step; ++i, row += step) {
    if (Keys % step != 0 && row >= Keys) break;
    copy_async(to + group_place<Keys>(row, chunk), row < left ? from + row * (Dh * 2) + chunk * 16 : from, row < left);
  }
}

/// A thread's rows of the query in fragments: unit k holds channels 16 k + 2 (lane % 4) + {0, 1} of rows r and r + 8, then those 8 channels on. Each register of the
/// fragments lies at its number * group_threads + thread: a thread reads only what it wrote.
template <int Dh>
__device__ inline void gather_query(const attend_arguments& a, int kv_head, int row, int rows, std::uint32_t* q) {
  const int group = a.heads / a.kv_heads, lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = row + lane / 4 + i % 2 * 8;
    const float* from = a.queries + r / group * a.row_stride + (kv_head * group + r % group) * Dh + lane % 4 * 2 + i / 2 * 8;
#pragma unroll
    for (int k = 0; k < Dh / 16; ++k) {
      const float2 v = r < rows ? *reinterpret_cast<const float2*>(from + 16 * k) : make_float2(0, 0);
      q[(4 * k + i) * group_threads + threadIdx.x] = pair_of<__half>(v.x, v.y);
    }
  }
}

__device__ inline float2 halves_of(std::uint32_t x) { return __half22float2(*reinterpret_cast<const __half2*>(&x)); }

/// The fragments rotated back by the segment's offset, as bfloat16. RoPE over all Dh channels, or over none.
template <int Dh>
__device__ inline void rotate_query(const attend_arguments& a, int rotation, const std::uint32_t* q, std::uint32_t (&turned)[Dh / 16][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const auto base = [q](int k, int i) { return halves_of(q[(4 * k + i) * group_threads + threadIdx.x]); };
  if (rotation < 0 || a.channels == 0) {
#pragma unroll
    for (int k = 0; k < Dh / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) turned[k][i] = pair_of<bf16>(base(k, i).x, base(k, i).y);
    return;
  }
  const float* cosine = a.cosine + static_cast<std::int64_t>(rotation) * (Dh / 2);
  const float* sine = a.sine + static_cast<std::int64_t>(rotation) * (Dh / 2);
  if (a.halves) {
#pragma unroll
    for (int k = 0; k < Dh / 32; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int c = 16 * k + lane % 4 * 2 + i / 2 * 8;
        const float2 cs = *reinterpret_cast<const float2*>(cosine + c), sn = *reinterpret_cast<const float2*>(sine + c);
        const float2 x = base(k, i), y = base(k + Dh / 32, i);
        turned[k][i] = pair_of<bf16>(x.x * cs.x + y.x * sn.x, x.y * cs.y + y.y * sn.y);
        turned[k + Dh / 32][i] = pair_of<bf16>(y.x * cs.x - x.x * sn.x, y.y * cs.y - x.y * sn.y);
      }
  } else {
#pragma unroll
    for (int k = 0; k < Dh / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int pair = 8 * k + lane % 4 + i / 2 * 4;
        const float2 x = base(k, i);
        turned[k][i] = pair_of<bf16>(x.x * cosine[pair] + x.y * sine[pair], x.y * cosine[pair] - x.x * sine[pair]);
      }
  }
}

/// 2^x to about 2 units in the last place; 2^-inf is 0.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Scores of a tile -> weights relative to the running maximum, base 2; returns in `shrink` what the sums so far are to be multiplied with.
template <int Keys, bool Capped>
__device__ inline void soften_group(const attend_arguments& a, const group_cursor& at, float (&s)[Keys / 2], int row, float (&top)[2], float (&total)[2], float (&shrink)[2]) {
  constexpr float log2e = 1.44269504088896341F;
  const int lane = static_cast<int>(threadIdx.x % 32), group = a.heads / a.kv_heads;
  const bool masked = at.begin + Keys > min(at.end, at.low - at.position + 1) || (a.window > 0 && at.begin <= at.high - a.window - at.position);
  float scale = a.scale * log2e;
  if constexpr (Capped) {
#pragma unroll
    for (int i = 0; i < Keys / 2; ++i) s[i] = a.cap * tanhf(s[i] * (a.scale / a.cap));
    scale = log2e;
  }
  if (masked) {
#pragma unroll
    for (int i = 0; i < Keys / 2; ++i) {
      const int key = at.begin + i / 4 * 8 + lane % 4 * 2 + i % 2;
      const int own = a.position + (row + lane / 4 + i % 4 / 2 * 8) / group - at.position;
      if (key >= at.end || key > own || (a.window > 0 && key <= own - a.window)) s[i] = -INFINITY;
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float higher = top[h];
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n) higher = fmaxf(higher, fmaxf(s[4 * n + 2 * h], s[4 * n + 2 * h + 1]));
    higher = fmaxf(higher, __shfl_xor_sync(0xffffffffU, higher, 1));
    higher = fmaxf(higher, __shfl_xor_sync(0xffffffffU, higher, 2));
    const float base = higher == -INFINITY ? 0.0F : higher * scale;
    shrink[h] = power_of_two(top[h] * scale - base);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n)
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        s[4 * n + i] = power_of_two(s[4 * n + i] * scale - base);
        sum += s[4 * n + i];
      }
    total[h] = total[h] * shrink[h] + sum;
    top[h] = higher;
  }
}

template <int Keys>
__device__ inline void pack_weights(const float (&s)[Keys / 2], std::uint32_t (&p)[Keys / 16][4]) {
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) p[k][i] = pair_of<bf16>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}

template <int Dh, int Keys>
__device__ inline void start_scores(float (&s)[Keys / 2], const std::uint32_t (&q)[Dh / 16][4], std::uint32_t keys) {
#pragma unroll
  for (int k = 0; k < Dh / 16; ++k) multiply_group<false>(s, q[k], tile_descriptor(keys + k / 4 * (Keys * 128) + k % 4 * 32, 16), k > 0);
}

template <int Dh, int Keys>
__device__ inline void start_values(float (&sums)[Dh / 2], const std::uint32_t (&p)[Keys / 16][4], std::uint32_t values) {
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k) multiply_group<true>(sums, p[k], tile_descriptor(values + k * 2048, Keys * 128), true);
}

/// Grid: (row tiles, Hkv, splits).
template <int Dh, int Keys, bool Capped>
__device__ inline void attend_groups_body(const attend_arguments& a) {
  extern __shared__ std::uint8_t raw[];
  wait_for_inputs();
  constexpr int tile_bytes = Keys * Dh * 2;
  std::uint8_t* tiles = raw + (1024 - static_cast<int>(__cvta_generic_to_shared(raw)) % 1024) % 1024;
  const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(tiles));
  const int group = a.heads / a.kv_heads, rows = a.tokens * group, lane = static_cast<int>(threadIdx.x % 32);
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * group_rows;
  const int kv_head = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.z);
  const int row = first_row + static_cast<int>(threadIdx.x / 32) * 16;
  std::uint32_t turned[Dh / 16][4], weights[Keys / 16][4];
  float sums[Dh / 2] = {}, scores[Keys / 2];
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {}, shrink[2];
  auto* query = reinterpret_cast<std::uint32_t*>(tiles + group_stages<Dh, Keys> * 2 * tile_bytes);
  gather_query<Dh>(a, kv_head, row, rows, query);
  group_cursor ahead;
  ahead.kv_head = kv_head, ahead.item = a.split_begin[split], ahead.last_item = a.split_begin[split + 1];
  ahead.low = a.position + first_row / group, ahead.high = a.position + (min(first_row + group_rows, rows) - 1) / group;
  const auto fetch = [&](const group_cursor& tile, int stage) {
    load_group_tile<Dh, Keys>(a, tile, 0, shared + 2 * stage * tile_bytes, tiles + 2 * stage * tile_bytes);
    load_group_tile<Dh, Keys>(a, tile, 1, shared + (2 * stage + 1) * tile_bytes, tiles + (2 * stage + 1) * tile_bytes);
  };
  // `ahead` is the tile being fetched; `now` the one whose scores are computed, in stage `at`; the one before it still has to weigh its values.
  constexpr int stages = group_stages<Dh, Keys>;
  group_cursor now = ahead;
  bool more = ahead.template next<Keys>(a, true);
#pragma unroll
  for (int s = 0; s < stages - 2; ++s) {
    if (more) fetch(ahead, s);
    commit_copies();
    if (more) more = ahead.template next<Keys>(a, false);
  }
  // The first turn weighs values of the tile at hand with zeros: one piece of code for all turns, since code that runs once costs more than it does.
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[k][i] = 0;
  int at = 0, before = 0, turned_for = -1;
  for (bool there = now.template next<Keys>(a, true); there; there = now.template next<Keys>(a, false)) {
    if (now.segment != turned_for) rotate_query<Dh>(a, a.segments[now.segment].rotation, query, turned);
    turned_for = now.segment;
    wait_copies<stages - 3>();
    publish_shared();
    __syncthreads();  // the tile has come, and nobody reads the stage any more that the next one goes to
    if (more) fetch(ahead, (at + stages - 2) % stages);
    commit_copies();
    if (more) more = ahead.template next<Keys>(a, false);
    group_begin();
    start_scores<Dh, Keys>(scores, turned, shared + 2 * at * tile_bytes);
    group_commit();
    start_values<Dh, Keys>(sums, weights, shared + (2 * before + 1) * tile_bytes);
    group_commit();
    group_wait<1>();
    soften_group<Keys, Capped>(a, now, scores, row, top, total, shrink);
    group_wait<0>();
#pragma unroll
    for (int i = 0; i < Dh / 2; ++i) sums[i] *= shrink[i % 4 / 2];
    pack_weights<Keys>(scores, weights);
    before = at;
    at = at + 1 == stages ? 0 : at + 1;
  }
  if (turned_for >= 0) {
    group_begin();
    start_values<Dh, Keys>(sums, weights, shared + (2 * before + 1) * tile_bytes);
    group_commit();
    group_wait<0>();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float whole = quad_sum(total[h]);
    constexpr float log2e = 1.44269504088896341F;
    const float base2 = top[h] * (Capped ? log2e : a.scale * log2e);
#pragma unroll
    for (int d = 0; d < Dh / 8; ++d)
      write_row<bf16, Dh>(a, kv_head, split, row + lane / 4 + 8 * h, rows, d * 8 + lane % 4 * 2, sums[4 * d + 2 * h], sums[4 * d + 2 * h + 1], base2, whole);
  }
}

#endif

template <int Dh, int Keys, bool Capped>
__global__ void __launch_bounds__(group_threads, 1) attend_groups(attend_arguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  attend_groups_body<Dh, Keys, Capped>(a);
#endif
}

}  // namespace blockattn::inline v0::cuda::detail
