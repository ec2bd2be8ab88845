// Attention of many rows on Hopper's tensor cores, after FlashAttention-3 (arXiv 2407.08608): one warp group fills a ring of tiles in shared memory, two multiply them,
// and barriers in shared memory are all that they wait for. A multiplying group owns 64 * Units rows of the query; the next scores are computed beside the weighted values
// of the last ones, and one group's softmax beside the other's products.
//
// A tile holds keys of any segments, one after the other: the rows of the query stay as they are, and the filling group turns each key by what its segment's rotation
// lacks, <R(p) q, R(o) k>, on its way. Keys and values are bfloat16, or blocks (q8_0, q4_0) that this group unpacks. Heads of 64 or 128.
#pragma once

#include <climits>

#include "blockattn/cuda/device/attention_tiles.cuh"
#include "blockattn/cuda/device/warp_group.cuh"

namespace blockattn::inline v0::cuda::detail {

inline constexpr int group_threads = 3 * 128;
template <int Dh>
inline constexpr int group_keys = Dh == 64 ? 96 : 80;  ///< of a tile: what registers leave room for

/// Shared memory of attend_groups, in bytes from a multiple of 1,024 on.
template <int Dh, int Units, bool Packed, int Keys = group_keys<Dh>>
struct group_layout {
  static constexpr int slots = 3;  ///< of the ring: a tile that is multiplied, one that is there, one that is being filled
  static constexpr int rows = 128 * Units;
  static constexpr int tile = Keys * Dh * 2, packed_row = Dh / 32 * 34;
  static constexpr int keys = rows * Dh * 2, values = keys + slots * tile;
  static constexpr int packed = values + slots * tile;  ///< [2, Keys] rows as they lie in device memory
  static constexpr int places = packed + (Packed ? 2 * Keys * packed_row : 0);
  static constexpr int pending = places + slots * Keys * 8, barriers = pending + Keys * 8;
  static constexpr int bytes = barriers + 3 * slots * 8 + 1024;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Byte offset of 16-byte chunk `chunk` of row `row` in tiles of 64 columns, `Rows` rows each.
template <int Rows>
__device__ inline std::uint32_t group_place(int row, int chunk) {
  return static_cast<std::uint32_t>(chunk / 8 * (Rows * 128) + row * 128 + ((chunk % 8 ^ (row & 7)) << 4));
}

/// What a thread block works on: rows at positions low to high, and the items of its split.
struct group_work {
  int kv_head, first_row, low, high, item, last_item;

  /// The keys of item w in segment s that some row sees: from x up to y.
  __device__ int2 seen(const attend_arguments& a, const work_item& w, int position) const {
    return make_int2(a.window > 0 ? max(w.begin, low - a.window + 1 - position) : w.begin, min(w.end, high - position + 1));
  }

  /// How many keys that makes in all; for a whole warp.
  __device__ int count(const attend_arguments& a) const {
    int keys = 0;
    for (int i = item + static_cast<int>(threadIdx.x % 32); i < last_item; i += 32) {
      const work_item w = a.items[i];
      const int2 part = seen(a, w, a.segments[w.segment].position);
      keys += max(0, part.y - part.x);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) keys += __shfl_xor_sync(0xffffffffU, keys, offset);
    return __shfl_sync(0xffffffffU, keys, 0);  // so that the compiler knows that a warp's threads agree
  }
};

/// Finds keys by their number among those of the block's work, in rising order.
struct key_cursor {
  group_work work;
  int begin = 0, end = 0;  ///< numbers of the segment's keys
  int position = 0, rotation = -1;
  const std::uint8_t *keys = nullptr, *values = nullptr;

  __device__ bool seek(const attend_arguments& a, int key) {
    while (key >= end) {
      if (work.item == work.last_item) return false;
      const work_item w = a.items[work.item++];
      const device_segment s = a.segments[w.segment];
      const int2 part = work.seen(a, w, s.position);
      if (part.x >= part.y) continue;
      begin = end, end += part.y - part.x;
      position = s.position + part.x, rotation = a.channels > 0 ? s.rotation : -1;
      keys = kv_row(a, s, 0, work.kv_head, part.x), values = kv_row(a, s, 1, work.kv_head, part.x);
    }
    return true;
  }

  __device__ const std::uint8_t* row(const attend_arguments& a, int half, int key) const { return (half == 0 ? keys : values) + (key - begin) * static_cast<int>(a.row_bytes[half]); }
};

/// Turns 8 channels from 8 * chunk on, and the 8 that lie Dh / 2 further.
template <int Dh>
struct key_turn {
  int chunk, rotation = -1;
  float cosine[8], sine[8];

  __device__ void prepare(const attend_arguments& a, int wanted) {
    if (wanted == rotation) return;
    rotation = wanted;
    const std::int64_t from = static_cast<std::int64_t>(wanted) * (Dh / 2) + chunk * (a.halves ? 8 : 4);
    const int further = a.halves ? 4 : Dh / 4;  // adjacent pairs: 4 of the first chunk, 4 of the other one
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      *reinterpret_cast<float4*>(cosine + i) = *reinterpret_cast<const float4*>(a.cosine + from + i / 4 * further);
      *reinterpret_cast<float4*>(sine + i) = *reinterpret_cast<const float4*>(a.sine + from + i / 4 * further);
    }
  }

  __device__ static void turn(float& x, float& y, float c, float s) {
    const float u = x * c - y * s;
    y = x * s + y * c;
    x = u;
  }

  __device__ void apply(bool halves, float (&x)[8], float (&y)[8]) const {
    if (halves) {
#pragma unroll
      for (int i = 0; i < 8; ++i) turn(x[i], y[i], cosine[i], sine[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) turn(x[2 * i], x[2 * i + 1], cosine[i], sine[i]), turn(y[2 * i], y[2 * i + 1], cosine[4 + i], sine[4 + i]);
    }
  }
};

__device__ inline void unpack_eight(const uint4& raw, float (&x)[8]) {
  const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) x[2 * i] = __uint_as_float(words[i] << 16), x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
}

__device__ inline uint4 pack_eight(const float (&x)[8]) {
  return make_uint4(pair_of<bf16>(x[0], x[1]), pair_of<bf16>(x[2], x[3]), pair_of<bf16>(x[4], x[5]), pair_of<bf16>(x[6], x[7]));
}

/// Eight numbers of a quantised row as they lie: bytes, or half-bytes of which `shift` picks one, and their scale.
struct packed_eight {
  std::uint32_t words[2];
  int bias;
  float scale;

  /// Chunk `chunk` of `row` in shared memory, which is aligned to 4 bytes.
  __device__ void load(dtype type, const std::uint8_t* row, int chunk) {
    const bool wide = type == dtype::q8_0;
    const int block = chunk / 4 * (wide ? 34 : 18), at = block + 2 + (wide ? chunk % 4 : chunk % 2) * 8;
    scale = __half2float(*reinterpret_cast<const __half*>(row + block));
    const auto* from = reinterpret_cast<const std::uint32_t*>(row + at / 4 * 4);
    const int skipped = at % 4 * 8;  // 0 or 16
    const std::uint32_t middle = from[1];
    words[0] = __funnelshift_r(from[0], middle, skipped), words[1] = __funnelshift_r(middle, skipped > 0 ? from[2] : 0, skipped);
    bias = wide ? 128 : 8;
    const int shift = chunk % 4 < 2 ? 0 : 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) words[i] = wide ? words[i] ^ 0x80808080U : (words[i] >> shift) & 0x0f0f0f0fU;
  }

  __device__ void unpack(float (&x)[8]) const {
    const float base = static_cast<float>(0x800000 + bias);  // a byte below the exponent of 2^23 is that many more
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = (__uint_as_float(__byte_perm(words[i / 4], 0x4b000000U, 0x7540U + i % 4)) - base) * scale;
  }
};

/// The ring's barriers: a slot's keys are there, its values are there, nobody reads it any more.
template <int Slots>
struct ring_barriers {
  std::uint32_t address;
  __device__ std::uint32_t keys(int slot) const { return address + 8 * slot; }
  __device__ std::uint32_t values(int slot) const { return address + 8 * (Slots + slot); }
  __device__ std::uint32_t empty(int slot) const { return address + 8 * (2 * Slots + slot); }
};

/// Parity of a ring's slot in its `turn`-th use, from 0 on.
__device__ inline std::uint32_t parity_of(int turn) { return static_cast<std::uint32_t>(turn & 1); }

/// Fills the ring with bfloat16 keys and values: a thread has 16 channels of every 16th key, copies them two tiles ahead and turns them where they lie.
template <class Layout, int Dh, int Keys>
__device__ inline void fill_tiles(const attend_arguments& a, const group_work& work, int tiles, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  constexpr int chunks = Dh / 16, step = 128 / chunks, slots = Layout::slots;
  static_assert(Keys % step == 0);
  const int chunk = static_cast<int>(threadIdx.x) % chunks, lane_row = static_cast<int>(threadIdx.x % 128) / chunks;
  key_cursor cursor{work};
  key_turn<Dh> turn{chunk};
  const auto* nothing = reinterpret_cast<const std::uint8_t*>(a.queries);  // an address to copy 0 bytes from
  for (int tile = -2; tile < tiles; ++tile) {
    if (tile >= 0) {
      const int slot = tile % slots;
      wait_copies<1>();
      __syncwarp();
      publish_shared();
      barrier_arrive(ring.values(slot));
      std::uint8_t* keys = memory + Layout::keys + slot * Layout::tile;
      const auto* places = reinterpret_cast<const int2*>(memory + Layout::places) + slot * Keys;
#pragma unroll 1
      for (int row = lane_row; row < Keys; row += step) {
        const int rotation = places[row].y;
        if (rotation < 0) continue;
        turn.prepare(a, rotation);
        auto *low = reinterpret_cast<uint4*>(keys + group_place<Keys>(row, chunk)), *high = reinterpret_cast<uint4*>(keys + group_place<Keys>(row, chunk + chunks));
        float x[8], y[8];
        unpack_eight(*low, x);
        unpack_eight(*high, y);
        turn.apply(a.halves, x, y);
        *low = pack_eight(x), *high = pack_eight(y);
      }
      publish_shared();
      barrier_arrive(ring.keys(slot));
    }
    const int next = tile + 2, slot = next % slots;
    if (next < tiles) {
      if (next >= slots) barrier_wait(ring.empty(slot), parity_of(next / slots - 1));
      const std::uint32_t keys = shared + Layout::keys + slot * Layout::tile, values = shared + Layout::values + slot * Layout::tile;
      auto* places = reinterpret_cast<int2*>(memory + Layout::places) + slot * Keys;
#pragma unroll 1
      for (int row = lane_row; row < Keys; row += step) {
        const int key = next * Keys + row;
        const bool there = cursor.seek(a, key);
        if (chunk == 0) places[row] = there ? make_int2(cursor.position + key - cursor.begin, cursor.rotation) : make_int2(INT_MAX, -1);
#pragma unroll
        for (int c = chunk; c < Dh / 8; c += chunks) {
          copy_async(keys + group_place<Keys>(row, c), there ? cursor.row(a, 0, key) + c * 16 : nothing, there);
          copy_async(values + group_place<Keys>(row, c), there ? cursor.row(a, 1, key) + c * 16 : nothing, there);
        }
      }
    }
    commit_copies();
  }
}

template <int Bytes>
__device__ inline void copy_piece(std::uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(Bytes));
}

/// Fills the ring with what it unpacks: rows come to shared memory as they lie, each a tile ahead, and belong to the threads that unpack them.
template <class Layout, int Dh, int Keys>
__device__ inline void unpack_tiles(const attend_arguments& a, const group_work& work, int tiles, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  constexpr int chunks = Dh / 16, step = 128 / chunks, slots = Layout::slots, passes = Keys / step, piece = Dh / 16;
  static_assert(Keys % step == 0);
  const int chunk = static_cast<int>(threadIdx.x) % chunks, lane_row = static_cast<int>(threadIdx.x % 128) / chunks;
  key_cursor cursor{work};
  key_turn<Dh> turn{chunk};
  auto* pending = reinterpret_cast<int2*>(memory + Layout::pending);
  const auto copy = [&](int tile, int row, int half) {
    const int key = tile * Keys + row;
    if (tile < tiles && cursor.seek(a, key)) {
      const std::uint8_t* from = cursor.row(a, half, key);
      const std::uint32_t to = shared + Layout::packed + (half * Keys + row) * Layout::packed_row;
      for (int at = chunk * piece; at < static_cast<int>(a.row_bytes[half]); at += chunks * piece) copy_piece<piece>(to + at, from + at);
      if (chunk == 0) pending[row] = make_int2(cursor.position + key - cursor.begin, cursor.rotation);
    } else if (chunk == 0) {
      pending[row] = make_int2(INT_MAX, -1);
    }
    commit_copies();
  };
#pragma unroll 1
  for (int i = 0; i < 2 * passes; ++i) copy(0, i / 2 * step + lane_row, i % 2);
  for (int tile = 0; tile < tiles; ++tile) {
    const int slot = tile % slots;
    if (tile >= slots) barrier_wait(ring.empty(slot), parity_of(tile / slots - 1));
    auto* places = reinterpret_cast<int2*>(memory + Layout::places) + slot * Keys;
#pragma unroll 1
    for (int i = 0; i < 2 * passes; ++i) {
      const int half = i % 2, row = i / 2 * step + lane_row;
      wait_copies<2 * passes - 1>();
      __syncwarp();
      packed_eight low, high;
      const std::uint8_t* from = memory + Layout::packed + (half * Keys + row) * Layout::packed_row;
      low.load(a.kv[half], from, chunk);
      high.load(a.kv[half], from, chunk + chunks);
      const int2 place = half == 0 ? pending[row] : places[row];
      __syncwarp();
      if (half == 0 && chunk == 0) places[row] = place;
      copy(tile + 1, row, half);
      float x[8], y[8];
      low.unpack(x);
      high.unpack(y);
      if (half == 0 && place.y >= 0) {
        turn.prepare(a, place.y);
        turn.apply(a.halves, x, y);
      }
      const bool there = place.x != INT_MAX;  // else the row is what lay there before
      const uint4 zero = make_uint4(0, 0, 0, 0);
      std::uint8_t* to = memory + (half == 0 ? Layout::keys : Layout::values) + slot * Layout::tile;
      *reinterpret_cast<uint4*>(to + group_place<Keys>(row, chunk)) = there ? pack_eight(x) : zero;
      *reinterpret_cast<uint4*>(to + group_place<Keys>(row, chunk + chunks)) = there ? pack_eight(y) : zero;
    }
    publish_shared();
    barrier_arrive(ring.keys(slot));
    barrier_arrive(ring.values(slot));
  }
}

/// 2^x to about 2 units in the last place; 2^-inf is 0.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// To about 1e-6.
__device__ inline float tanh_of(float x) { return 1.0F - __fdividef(2.0F, 1.0F + power_of_two(2.88539008177792681F * x)); }

/// The rows of the query that a multiplying group owns, as bfloat16 in shared memory: Units tiles of 64 rows.
template <int Dh, int Units>
__device__ inline void place_queries(const attend_arguments& a, int kv_head, int first_row, int rows, std::uint8_t* to) {
  const int group = a.heads / a.kv_heads;
  for (int i = static_cast<int>(threadIdx.x % 128); i < 64 * Units * (Dh / 8); i += 128) {
    const int row = i / (Dh / 8), chunk = i % (Dh / 8), r = first_row + row;
    alignas(16) float x[8] = {};
    if (r < rows) {
      const auto* from = reinterpret_cast<const float4*>(a.queries + r / group * a.row_stride + (kv_head * group + r % group) * Dh + chunk * 8);
      reinterpret_cast<float4*>(x)[0] = from[0], reinterpret_cast<float4*>(x)[1] = from[1];
    }
    *reinterpret_cast<uint4*>(to + row / 64 * (64 * Dh * 2) + group_place<64>(row % 64, chunk)) = pack_eight(x);
  }
}

/// Scores of a tile that some rows don't see become -inf there. `row`: the warp's first one.
template <int Keys>
__device__ inline void hide_scores(const attend_arguments& a, const int2* places, int row, float (&s)[Keys / 2]) {
  const int lane = static_cast<int>(threadIdx.x % 32), group = a.heads / a.kv_heads;
  const int own[2] = {a.position + (row + lane / 4) / group, a.position + (row + lane / 4 + 8) / group};
#pragma unroll
  for (int i = 0; i < Keys / 2; ++i) {
    const int key = places[i / 4 * 8 + lane % 4 * 2 + i % 2].x, mine = own[i % 4 / 2];
    if (key > mine || (a.window > 0 && key <= mine - a.window)) s[i] = -INFINITY;
  }
}

/// Scores -> weights relative to the running maximum, base 2; `shrink` is what the sums so far are to be multiplied with.
template <int Keys>
__device__ inline void soften_group(float scale, float (&s)[Keys / 2], float (&top)[2], float (&total)[2], float (&shrink)[2]) {
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
__device__ inline void start_scores(float (&s)[Keys / 2], std::uint32_t queries, std::uint32_t keys) {
#pragma unroll
  for (int k = 0; k < Dh / 16; ++k) multiply_tiles(s, tile_descriptor(queries + k / 4 * (64 * 128) + k % 4 * 32, 16), tile_descriptor(keys + k / 4 * (Keys * 128) + k % 4 * 32, 16), k > 0);
}

template <int Dh, int Keys>
__device__ inline void start_values(float (&sums)[Dh / 2], const std::uint32_t (&p)[Keys / 16][4], std::uint32_t values) {
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k) multiply_weights(sums, p[k], tile_descriptor(values + k * 2048, Keys * 128));
}

/// Half h of the sums, which is a quarter of row `row`'s: the normalised output, or this split's part.
template <int Dh>
__device__ inline void write_sums(const attend_arguments& a, int kv_head, int split, int row, int rows, int h, const float (&sums)[Dh / 2], float top, float total) {
  if (row >= rows) return;
  const int group = a.heads / a.kv_heads, c = static_cast<int>(threadIdx.x % 4) * 2;
  if (a.splits > 1) {
    float* to = a.partial + ((static_cast<std::int64_t>(split) * a.kv_heads + kv_head) * rows + row) * (Dh + 2);
#pragma unroll
    for (int d = 0; d < Dh / 8; ++d) *reinterpret_cast<float2*>(to + d * 8 + c) = make_float2(sums[4 * d + 2 * h], sums[4 * d + 2 * h + 1]);
    if (c == 0) *reinterpret_cast<float2*>(to + Dh) = make_float2(top, total);
    return;
  }
  auto* to = static_cast<bf16*>(a.out) + (static_cast<std::int64_t>(row / group) * a.heads + kv_head * group + row % group) * Dh + c;
  const float factor = 1.0F / total;
#pragma unroll
  for (int d = 0; d < Dh / 8; ++d) *reinterpret_cast<std::uint32_t*>(to + d * 8) = pair_of<bf16>(sums[4 * d + 2 * h] * factor, sums[4 * d + 2 * h + 1] * factor);
}

/// A multiplying group's work: all tiles against its rows.
template <class Layout, int Dh, int Units, int Keys>
__device__ inline void multiply_all(const attend_arguments& a, const group_work& work, int tiles, int split, std::uint8_t* memory, std::uint32_t shared,
                                    ring_barriers<Layout::slots> ring) {
  constexpr int slots = Layout::slots;
  constexpr float log2e = 1.44269504088896341F;
  const int number = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / 128, 0), lane = static_cast<int>(threadIdx.x % 32), rows = a.tokens * (a.heads / a.kv_heads);
  const int first_row = work.first_row + number * 64 * Units, row = first_row + static_cast<int>(threadIdx.x % 128) / 32 * 16;
  constexpr int unit_bytes = 64 * Dh * 2;
  place_queries<Dh, Units>(a, work.kv_head, first_row, rows, memory + number * Units * unit_bytes);
  publish_shared();
  asm volatile("bar.sync %0, 128;" ::"r"(1 + number) : "memory");
  const std::uint32_t queries = shared + number * Units * unit_bytes;
  const float scale = a.cap > 0 ? log2e : a.scale * log2e;
  float sums[Units][Dh / 2] = {}, scores[Keys / 2], top[Units][2], total[Units][2] = {}, shrink[2];
  std::uint32_t weights[Keys / 16][4];
#pragma unroll
  for (int u = 0; u < Units; ++u) top[u][0] = top[u][1] = -INFINITY;
  const auto key_tile = [&](int slot) { return shared + Layout::keys + slot * Layout::tile; };
  int slot = 0;
  std::uint32_t parity = 0;
  if (tiles > 0) {
    barrier_wait(ring.keys(0), 0);
    group_begin();
    start_scores<Dh, Keys>(scores, queries, key_tile(0));
    group_commit();
    group_wait<0>();
  }
#ifdef PINGPONG
  if (number == 1) asm volatile("bar.arrive %0, 256;" ::"r"(3) : "memory");
#endif
  for (int tile = 0; tile < tiles; ++tile) {
    const auto* places = reinterpret_cast<const int2*>(memory + Layout::places) + slot * Keys;
    bool hidden = false;
#pragma unroll
    for (int i = 0; i < Keys; i += 32) {
      const int key = i + lane < Keys ? places[i + lane].x : places[0].x;
      hidden = hidden || key > work.low || (a.window > 0 && key <= work.high - a.window);
    }
    hidden = __any_sync(0xffffffffU, hidden);
#pragma unroll
    for (int u = 0; u < Units; ++u) {
      if (a.cap > 0) {
#pragma unroll
        for (int i = 0; i < Keys / 2; ++i) scores[i] = a.cap * tanh_of(scores[i] * (a.scale / a.cap));
      }
      if (hidden) hide_scores<Keys>(a, places, row + u * 64, scores);
      soften_group<Keys>(scale, scores, top[u], total[u], shrink);
#pragma unroll
      for (int i = 0; i < Dh / 2; ++i) sums[u][i] *= shrink[i % 4 / 2];
      pack_weights<Keys>(scores, weights);
      barrier_wait(ring.values(slot), parity);
      const int here = slot;
      if (u + 1 == Units && tile + 1 < tiles) {  // in the last turn the next scores are those of the same tile, and nobody uses them: one piece of code for all turns
        if (++slot == slots) slot = 0, parity ^= 1;
        barrier_wait(ring.keys(slot), parity);
      }
#ifdef PINGPONG
      asm volatile("bar.sync %0, 256;" ::"r"(3 + number) : "memory");
#endif
      group_begin();
      start_values<Dh, Keys>(sums[u], weights, shared + Layout::values + here * Layout::tile);
      start_scores<Dh, Keys>(scores, queries + (u + 1) % Units * unit_bytes, key_tile(slot));
      group_commit();
#ifdef PINGPONG
      asm volatile("bar.arrive %0, 256;" ::"r"(4 - number) : "memory");
#endif
      group_wait<0>();
      if (u + 1 == Units && lane == 0) barrier_arrive(ring.empty(here));
    }
  }
#pragma unroll
  for (int u = 0; u < Units; ++u)
#pragma unroll
    for (int h = 0; h < 2; ++h) write_sums<Dh>(a, work.kv_head, split, row + u * 64 + lane / 4 + 8 * h, rows, h, sums[u], top[u][h] * scale, quad_sum(total[u][h]));
}

template <int Dh, int Units, bool Packed>
__device__ inline void attend_groups_body(const attend_arguments& a) {
  extern __shared__ std::uint8_t raw[];
  using layout = group_layout<Dh, Units, Packed>;
  constexpr int keys = group_keys<Dh>, slots = layout::slots;
  std::uint8_t* memory = raw + (1024 - static_cast<int>(__cvta_generic_to_shared(raw)) % 1024) % 1024;
  const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(memory));
  const ring_barriers<slots> ring{shared + layout::barriers};
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < slots; ++slot) {
      barrier_init(ring.keys(slot), 128);
      barrier_init(ring.values(slot), 128);
      barrier_init(ring.empty(slot), 8);  // a thread of each warp that multiplies
    }
    publish_shared();
  }
  __syncthreads();
  wait_for_inputs();
  const int group = a.heads / a.kv_heads, rows = a.tokens * group, split = static_cast<int>(blockIdx.z);
  group_work work;
  work.kv_head = static_cast<int>(blockIdx.y);
  work.first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * layout::rows;  // the last rows see most: they start first
  work.low = a.position + work.first_row / group, work.high = a.position + (min(work.first_row + layout::rows, rows) - 1) / group;
  work.item = a.split_begin[split], work.last_item = a.split_begin[split + 1];
  const int tiles = (work.count(a) + keys - 1) / keys;
  if (threadIdx.x >= 256) {
    give_registers<72>();
    if constexpr (Packed)
      unpack_tiles<layout, Dh, keys>(a, work, tiles, memory, shared, ring);
    else
      fill_tiles<layout, Dh, keys>(a, work, tiles, memory, shared, ring);
  } else {
    take_registers<216>();
    multiply_all<layout, Dh, Units, keys>(a, work, tiles, split, memory, shared, ring);
  }
}

#endif

/// Grid: (row tiles, Hkv, splits). `Packed`: keys and values are both quantised; else both bfloat16.
template <int Dh, int Units, bool Packed>
__global__ void __launch_bounds__(group_threads, 1) attend_groups(attend_arguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  attend_groups_body<Dh, Units, Packed>(a);
#endif
}

}  // namespace blockattn::inline v0::cuda::detail
