// Attention of many rows on Hopper's tensor cores, after FlashAttention-3 (arXiv 2407.08608): two warp groups fill a ring of tiles in turn, two multiply them, and barriers in
// shared memory are all that they wait for. A multiplying group owns 64 * Units rows of the query; while it softens scores, the other one multiplies.
//
// A tile holds keys of any segments, one after the other: the rows of the query stay as they are, and each key is turned by what its segment's rotation lacks,
// <R(p) q, R(o) k>, on its way into the tile. Keys and values are bfloat16, multiplied as that, or blocks (q8_0, q4_0), unpacked to half precision. Heads of 64 or 128.
#pragma once

#include <climits>

#include "blockattn/cuda/device/attention_tiles.cuh"
#include "blockattn/cuda/device/warp_group.cuh"

namespace blockattn::inline v0::cuda::detail {

inline constexpr int group_threads = 4 * 128;
template <int Dh>
inline constexpr int group_keys = Dh == 64 ? 96 : 64;  ///< of a tile: what registers leave room for

/// Shared memory of attend_groups, in bytes from a multiple of 1,024 on.
template <int Dh, int Units, bool Packed, int Keys = group_keys<Dh>>
struct group_layout {
  static constexpr int slots = Packed || Dh == 64 ? 3 : 4;  ///< of the ring
  static constexpr int rows = 128 * Units;
  static constexpr int tile = Keys * Dh * 2;
  static constexpr int packed_row = (Dh / 32 * 34 + 24 + 15) / 16 * 16;             ///< a row's room: one that is copied alone brings up to 12 bytes more at both ends
  static constexpr int keys = rows * Dh * 2, values = keys + slots * tile;
  static constexpr int packed = values + slots * tile;                              ///< [2 groups, 2, Keys] rows as they lie in device memory, runs of them without gaps
  static constexpr int places = packed + (Packed ? 4 * Keys * packed_row : 0);      ///< [slots, Keys] key_place
  static constexpr int pending = places + slots * Keys * 8;                         ///< [2 groups, 2, Keys] packed_place
  static constexpr int barriers = pending + (Packed ? 4 * Keys * 16 : 0);
  static constexpr int arrived = barriers + 2 * slots * 8;                          ///< [2 groups, 2] the packed rows are there
  static constexpr int bytes = arrived + (Packed ? 4 * 8 : 0) + 1024;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Byte offset of 16-byte chunk `chunk` of row `row` in tiles of 64 columns, `Rows` rows each.
template <int Rows>
__device__ inline std::uint32_t group_place(unsigned row, unsigned chunk) {
  return chunk / 8 * (Rows * 128) + row * 128 + ((chunk % 8 ^ (row & 7)) << 4);
}

/// What a thread block works on: rows at positions low to high, and the items of its split.
struct group_work {
  int kv_head, first_row, position, low, high, first_item, last_item;

  /// The item's keys that some row sees: from x up to y.
  __device__ int2 seen(const attend_arguments& a, const work_item& w) const {
    return make_int2(a.window > 0 ? max(w.begin, low - a.window + 1 - w.position) : w.begin, min(w.end, high - w.position + 1));
  }

  /// How many keys that makes in all; for a whole warp.
  __device__ int count(const attend_arguments& a) const {
    int keys = 0;
    for (int i = first_item + static_cast<int>(threadIdx.x % 32); i < last_item; i += 32) {
      const work_item w = a.items[i];
      const int2 part = seen(a, w);
      if (a.segments[w.segment].rotation >= -1) keys += max(0, part.y - part.x);  // always; it brings the segment to the L1 cache
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) keys += __shfl_xor_sync(0xffffffffU, keys, offset);
    return __shfl_sync(0xffffffffU, keys, 0);  // so that the compiler knows that a warp's threads agree
  }
};

/// A key of a tile: its position in the prompt (INT_MAX: there is none), and its segment's rotation.
struct key_place {
  int position, rotation;
};

/// Finds keys by their number among those of the block's work, in rising order.
struct key_cursor {
  const group_work& work;  ///< in shared memory
  int item = work.first_item;
  int begin = 0, end = 0;  ///< numbers of the segment's keys
  int position = 0, rotation = -1;
  const std::uint8_t *keys = nullptr, *values = nullptr;

  __device__ bool seek(const attend_arguments& a, int key) {
    while (key >= end) {
      if (item == work.last_item) return false;
      const work_item w = a.items[item++];
      const int2 part = work.seen(a, w);
      if (part.x >= part.y) continue;
      const device_segment s = a.segments[w.segment];
      begin = end, end += part.y - part.x;
      position = w.position + part.x, rotation = a.channels > 0 ? s.rotation : -1;
      keys = kv_row(a, s, 0, work.kv_head, part.x), values = kv_row(a, s, 1, work.kv_head, part.x);
    }
    return true;
  }

  __device__ const std::uint8_t* row(const attend_arguments& a, int half, int key) const { return (half == 0 ? keys : values) + (key - begin) * static_cast<int>(a.row_bytes[half]); }
  __device__ key_place place(int key) const { return {position + key - begin, rotation}; }
};

/// Cosines and sines of a rotation for N channels from N * part on, and the N that lie Dh / 2 further. Adjacent pairs: half of them for the former, half for the latter.
template <int Dh, bool Halves, int N>
__device__ inline void load_angles(const attend_arguments& a, int rotation, unsigned part, float (&cosine)[N], float (&sine)[N]) {
  const std::int64_t from = static_cast<std::int64_t>(rotation) * (Dh / 2) + part * (Halves ? N : N / 2);
  constexpr int further = Halves ? N / 2 : Dh / 4;
  using piece = std::conditional_t<N == 8, float4, float2>;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    *reinterpret_cast<piece*>(cosine + i * (N / 2)) = *reinterpret_cast<const piece*>(a.cosine + from + i * further);
    *reinterpret_cast<piece*>(sine + i * (N / 2)) = *reinterpret_cast<const piece*>(a.sine + from + i * further);
  }
}

__device__ inline void turn_pair(float& x, float& y, float c, float s) {
  const float u = x * c - y * s;
  y = x * s + y * c;
  x = u;
}

/// Turns a tile's bfloat16 keys where they lie: a warp those that it has copied, a thread 4 channels and the 4 that lie Dh / 2 further.
template <int Dh, int Keys, bool Halves>
struct key_turner {
  int rotation = -1;
  alignas(16) float cosine[4], sine[4];

  /// Rows `row`, row + step, … of them, all with the rotation at hand.
  template <int Rows>
  __device__ void turn_rows(std::uint8_t* tile, unsigned row, unsigned step, unsigned part) const {
    uint2* at[Rows][2];
    uint2 raw[Rows][2];
#pragma unroll
    for (int r = 0; r < Rows; ++r)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        at[r][i] = reinterpret_cast<uint2*>(tile + group_place<Keys>(row + r * step, part / 2 + i * (Dh / 16)) + part % 2 * 8);
        raw[r][i] = *at[r][i];
      }
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      float x[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        x[i][0] = __uint_as_float(raw[r][i].x << 16), x[i][1] = __uint_as_float(raw[r][i].x & 0xffff0000U);
        x[i][2] = __uint_as_float(raw[r][i].y << 16), x[i][3] = __uint_as_float(raw[r][i].y & 0xffff0000U);
      }
#pragma unroll
      for (int n = 0; n < 4; ++n)
        if constexpr (Halves) turn_pair(x[0][n], x[1][n], cosine[n], sine[n]);
        else turn_pair(x[n / 2][n % 2 * 2], x[n / 2][n % 2 * 2 + 1], cosine[n], sine[n]);
#pragma unroll
      for (int i = 0; i < 2; ++i) *at[r][i] = make_uint2(pair_of<bf16>(x[i][0], x[i][1]), pair_of<bf16>(x[i][2], x[i][3]));
    }
  }

  __device__ void prepare(const attend_arguments& a, int wanted, unsigned part) {
    if (wanted != rotation) load_angles<Dh, Halves>(a, wanted, part, cosine, sine), rotation = wanted;
  }

  __device__ void turn(const attend_arguments& a, std::uint8_t* tile, const key_place* places) {
    constexpr unsigned lanes = Dh / 8, step = 128 / (Dh / 16), between = step / 8;  // a warp's rows of a pass: two turns
    const unsigned part = threadIdx.x % lanes;
#pragma unroll 1
    for (unsigned row = threadIdx.x % 128 / 32 * (2 * between) + threadIdx.x % 32 / lanes; row < Keys; row += step) {
      const int first = places[row].rotation, second = places[row + between].rotation;
      if (first == second) {
        if (first < 0) continue;
        prepare(a, first, part);
        turn_rows<2>(tile, row, between, part);
      } else {
        if (first >= 0) prepare(a, first, part), turn_rows<1>(tile, row, 0, part);
        if (second >= 0) prepare(a, second, part), turn_rows<1>(tile, row + between, 0, part);
      }
    }
  }
};

/// The ring's barriers: a slot's tile is there; nobody reads it any more.
template <int Slots>
struct ring_barriers {
  std::uint32_t address;
  __device__ std::uint32_t full(int slot) const { return address + 8 * slot; }
  __device__ std::uint32_t empty(int slot) const { return address + 8 * (Slots + slot); }
  /// Waits until the slot is free for the tile.
  __device__ void wait_empty(int tile) const {
    if (tile >= Slots) barrier_wait(empty(tile % Slots), static_cast<std::uint32_t>(tile / Slots - 1) & 1);
  }
};

/// Fills the ring's slots for tiles first, first + 2, … with bfloat16 keys and values: a thread copies 16 channels of every `step`-th row.
template <class Layout, int Dh, int Keys, bool Halves>
__device__ inline void copy_tiles(const attend_arguments& a, const group_work& work, int first, int tiles, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  constexpr unsigned chunks = Dh / 16, step = 128 / chunks;
  constexpr int slots = Layout::slots;
  static_assert(Keys % step == 0);
  const unsigned chunk = threadIdx.x % chunks, lane_row = threadIdx.x % 128 / chunks;
  const auto* nothing = reinterpret_cast<const std::uint8_t*>(a.queries);  // an address to copy 0 bytes from
  key_cursor cursor{work};
  key_turner<Dh, Keys, Halves> turner;
  for (int tile = first - 2; tile < tiles; tile += 2) {
    if (tile >= 0) {
      const int slot = tile % slots;
      wait_copies<0>();
      __syncwarp();
      turner.turn(a, memory + Layout::keys + slot * Layout::tile, reinterpret_cast<const key_place*>(memory + Layout::places) + slot * Keys);
      publish_shared();
      barrier_arrive(ring.full(slot));
    }
    const int next = tile + 2, slot = next % slots;
    if (next >= tiles) break;
    ring.wait_empty(next);
    const std::uint32_t to = shared + Layout::keys + slot * Layout::tile;
#pragma unroll 1
    for (unsigned row = lane_row; row < Keys; row += step) {
      const int key = next * Keys + static_cast<int>(row);
      const bool there = cursor.seek(a, key);
      if (chunk == 0) reinterpret_cast<key_place*>(memory + Layout::places)[slot * Keys + row] = there ? cursor.place(key) : key_place{INT_MAX, -1};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint8_t* from = there ? cursor.row(a, half, key) + chunk * 16 : nothing;
        copy_async(to + half * (Layout::values - Layout::keys) + group_place<Keys>(row, chunk), from, there);
        copy_async(to + half * (Layout::values - Layout::keys) + group_place<Keys>(row, chunk + chunks), there ? from + Dh : nothing, there);
      }
    }
    commit_copies();
  }
}

/// Eight numbers of a row of q8_0 (`Wide`) or q4_0 as they lie: unsigned bytes, 128 or 8 too high, and their scale.
template <bool Wide>
struct packed_eight {
  static constexpr unsigned block_bytes = Wide ? 34 : 18;
  std::uint32_t words[2];
  __half2 scale;

  /// Of the block at `block`, those that begin `skipped` bits, 0 or 16, after `words`, which is aligned to 4 bytes; `shift`: of the half-bytes.
  __device__ void load(const std::uint8_t* block, const std::uint8_t* words_at, unsigned skipped, unsigned shift) {
    scale = __half2half2(*reinterpret_cast<const __half*>(block));
    const auto* from = reinterpret_cast<const std::uint32_t*>(words_at);
    const std::uint32_t middle = from[1];
    words[0] = __funnelshift_r(from[0], middle, skipped), words[1] = __funnelshift_r(middle, from[2], skipped);
#pragma unroll
    for (int i = 0; i < 2; ++i) words[i] = Wide ? words[i] ^ 0x80808080U : (words[i] >> shift) & 0x0f0f0f0fU;
  }

  __device__ void unpack(__half2 (&x)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t two = __byte_perm(words[i / 2], 0x64646464U, i % 2 == 0 ? 0x4140U : 0x4342U);  // a byte below the exponent of 1024 is that many more
      x[i] = __hmul2(__hsub2(*reinterpret_cast<const __half2*>(&two), __float2half2_rn(Wide ? 1024 + 128 : 1024 + 8)), scale);
    }
  }
};

/// The angles of 8 channels and the 8 that lie Dh / 2 further, in half precision.
template <int Dh, bool Halves>
struct packed_turner {
  int rotation = -1;
  __half2 cosine[4], sine[4];

  __device__ void prepare(const attend_arguments& a, int wanted, unsigned chunk) {
    if (wanted == rotation) return;
    alignas(16) float c[8], s[8];
    load_angles<Dh, Halves>(a, wanted, chunk, c, s);
#pragma unroll
    for (int i = 0; i < 4; ++i) cosine[i] = __floats2half2_rn(c[2 * i], c[2 * i + 1]), sine[i] = __floats2half2_rn(s[2 * i], s[2 * i + 1]);
    rotation = wanted;
  }

  /// A pair of neighbouring channels: (x, y) c + (y, x) (-s, s).
  __device__ static void turn_adjacent(__half2& x, __half2 c, __half2 s) {
    const std::uint32_t signs = *reinterpret_cast<const std::uint32_t*>(&s) ^ 0x8000U;
    x = __hfma2(x, c, __hmul2(__lowhigh2highlow(x), *reinterpret_cast<const __half2*>(&signs)));
  }

  __device__ void turn(__half2 (&x)[4], __half2 (&y)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (Halves) {
        const __half2 u = __hfma2(x[i], cosine[i], __hneg2(__hmul2(y[i], sine[i])));
        y[i] = __hfma2(x[i], sine[i], __hmul2(y[i], cosine[i]));
        x[i] = u;
      } else {
        const auto of = [i](const __half2& two) { return i % 2 == 0 ? __low2half2(two) : __high2half2(two); };
        turn_adjacent(x[i], of(cosine[i / 2]), of(sine[i / 2]));
        turn_adjacent(y[i], of(cosine[2 + i / 2]), of(sine[2 + i / 2]));
      }
    }
  }
};

/// Brings the angles of the work's segments to the L1 cache. True: never.
template <int Dh>
__device__ inline bool touch_angles(const attend_arguments& a, const group_work& work) {
  constexpr int lines = Dh / 64;  // of 128 bytes, in a row of angles
  bool strange = false;
  if (a.channels == 0) return strange;
#pragma unroll 1
  for (int i = work.first_item * 2 * lines + static_cast<int>(threadIdx.x % 256); i < work.last_item * 2 * lines; i += 256) {
    const int rotation = a.segments[a.items[i / (2 * lines)].segment].rotation;
    if (rotation >= 0) strange = strange || (i % 2 == 0 ? a.cosine : a.sine)[static_cast<std::int64_t>(rotation) * (Dh / 2) + i / 2 % lines * 32] > 2;
  }
  return strange;
}

/// The value, which the compiler then keeps instead of computing it anew wherever registers are few.
__device__ inline unsigned kept(unsigned value) {
  asm volatile("" : "+r"(value));
  return value;
}

/// A packed row of a tile: its key's position (INT_MAX: there is none) and rotation, and the byte at which it begins among the packed rows.
struct alignas(16) packed_place {
  int position, rotation, at, unused;
};

/// The same with rows that lie packed. Keys of a segment, and values, are one piece of device memory: a warp has it copied as it lies, while the group unpacks what came before.
template <class Layout, int Dh, int Keys, bool Halves, bool WideKeys, bool WideValues>
struct tile_unpacker {
  static constexpr unsigned chunks = Dh / 16, step = 128 / chunks, passes = Keys / step;
  static_assert(Keys % step == 0);
  const attend_arguments& a;
  const int tiles;
  const unsigned group = threadIdx.x / 128 % 2, warp = threadIdx.x / 32 % 4, chunk = threadIdx.x % chunks, lane_row = first_row();
  std::uint8_t* memory;
  std::uint32_t shared;
  key_cursor cursor;
  packed_turner<Dh, Halves> turner;

  /// The thread's row of each pass. A warp's rows are such that what they read and write lies in different banks.
  static __device__ unsigned first_row() {
    const unsigned warp = threadIdx.x / 32 % 4, part = threadIdx.x % 32 / chunks;
    return Dh == 128 ? warp + 4 * part : 8 * (part / 2) + (2 * warp + part % 2 * 5) % 8;
  }
  [[nodiscard]] __device__ std::uint32_t packed(unsigned half) const { return Layout::packed + (2 * group + half) * Keys * Layout::packed_row; }
  [[nodiscard]] __device__ packed_place* pending(unsigned half) const { return reinterpret_cast<packed_place*>(memory + Layout::pending) + (2 * group + half) * Keys; }
  [[nodiscard]] __device__ std::uint32_t arrived(unsigned half) const { return shared + Layout::arrived + 8 * (2 * group + half); }

  /// Waits for the group: all have read what the next copy overwrites.
  __device__ void meet() const {
    __syncwarp();
    asm volatile("bar.sync %0, 128;" ::"r"(5 + group) : "memory");
  }

  /// Starts the copies of the tile's keys (half 0) or values, a piece of each segment; for a whole warp. A copy begins and ends at multiples of 16 bytes around the piece.
  __device__ void copy(unsigned half, int tile) {
    if (tile >= tiles) return;
    const int tile_begin = tile * Keys;
    const auto row_bytes = static_cast<int>(a.row_bytes[half]);
#pragma unroll 1
    for (int row = static_cast<int>(threadIdx.x % 32); row < Keys; row += 32) {
      const int key = tile_begin + row;
      packed_place place{INT_MAX, -1, 0, 0};
      if (cursor.seek(a, key)) {
        const int first = max(cursor.begin, tile_begin), to = (first - tile_begin) * Layout::packed_row;
        const std::uint8_t* from = cursor.row(a, half, first);
        const int before = static_cast<int>(reinterpret_cast<std::uintptr_t>(from) % 16);
        if (key == first) {
          const int bytes = (before + (min(cursor.end, tile_begin + Keys) - first) * row_bytes + 15) / 16 * 16;
          barrier_expect(arrived(half), bytes);
          copy_bulk(shared + packed(half) + to, from - before, bytes, arrived(half));
        }
        place = {cursor.place(key).position, cursor.rotation, to + before + (key - first) * row_bytes, 0};
      }
      *reinterpret_cast<int4*>(pending(half) + row) = *reinterpret_cast<const int4*>(&place);
    }
    barrier_arrive(arrived(half));
  }

  template <int Half, bool Wide>
  __device__ void unpack(int slot) {
    constexpr unsigned block_bytes = packed_eight<Wide>::block_bytes, further = Dh / 64 * block_bytes;
    const unsigned block = chunk / 4 * block_bytes, first = block + 2 + (Wide ? chunk % 4 : chunk % 2) * 8, shift = chunk % 4 < 2 ? 0 : 4;
    const unsigned skipped = first % 4 * 8, far_skipped = further % 4 == 0 ? skipped : (first + further) % 4 * 8;
    const std::uint8_t* blocks = memory + kept(packed(Half) + block);
    const std::uint8_t* words = memory + kept(packed(Half) + first / 4 * 4);
    const unsigned beyond = further % 4 == 0 ? further : (first + further) / 4 * 4 - first / 4 * 4;
    static_assert(step % 8 == 0 && Keys <= 128);  // so a thread's chunks lie at the same place in all of its rows
    if (const unsigned row = threadIdx.x % 128; Half == 0 && row < Keys) {
      const int4 place = *reinterpret_cast<const int4*>(pending(0) + row);
      reinterpret_cast<key_place*>(memory + Layout::places)[slot * Keys + row] = {place.x, place.y};
    }
    unsigned place_at = kept(Layout::pending + ((2 * group + Half) * Keys + lane_row) * static_cast<unsigned>(sizeof(packed_place)));
    unsigned to = kept((Half == 0 ? Layout::keys : Layout::values) + slot * Layout::tile + group_place<Keys>(lane_row, chunk));
    const unsigned across = Dh == 128 ? Keys * 128 : group_place<Keys>(lane_row, chunk + chunks) - group_place<Keys>(lane_row, chunk);
#pragma unroll(Half == 0 ? 1 : 2)
    for (unsigned pass = 0; pass < passes; ++pass) {
      const int4 place = *reinterpret_cast<const int4*>(memory + place_at);  // a packed_place
      packed_eight<Wide> low, high;
      low.load(blocks + place.z, words + place.z, skipped, shift);
      high.load(blocks + place.z + further, words + place.z + beyond, far_skipped, shift);
      alignas(16) __half2 x[4], y[4];
      low.unpack(x);
      high.unpack(y);
      if (Half == 0 && place.y >= 0) {
        turner.prepare(a, place.y, chunk);
        turner.turn(x, y);
      }
      if (place.x == INT_MAX) {  // there is no such key: what lies here is an earlier one
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = y[i] = __float2half2_rn(0);
      }
      *reinterpret_cast<uint4*>(memory + to) = *reinterpret_cast<const uint4*>(x);
      *reinterpret_cast<uint4*>(memory + (to + across)) = *reinterpret_cast<const uint4*>(y);
      place_at = kept(place_at + step * static_cast<unsigned>(sizeof(packed_place))), to = kept(to + step * 128);
    }
  }

  __device__ void run(int first, ring_barriers<Layout::slots> ring) {
    prepare_bulk();
    if (warp < 2) copy(warp, first);
    if (touch_angles<Dh>(a, cursor.work)) return;
    std::uint32_t parity = 0;
    for (int tile = first; tile < tiles; tile += 2, parity ^= 1) {
      const int slot = tile % Layout::slots;
      ring.wait_empty(tile);
      barrier_wait(arrived(0), parity);
      unpack<0, WideKeys>(slot);
      meet();
      if (warp == 0) copy(0, tile + 2);
      barrier_wait(arrived(1), parity);
      unpack<1, WideValues>(slot);
      publish_shared();
      barrier_arrive(ring.full(slot));
      meet();
      if (warp == 1) copy(1, tile + 2);
    }
  }
};

/// 2^x to about 2 units in the last place; 2^-inf is 0.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// To about 1e-6.
__device__ inline float tanh_of(float x) { return 1.0F - __fdividef(2.0F, 1.0F + power_of_two(2.88539008177792681F * x)); }

/// The rows of the query that a multiplying group owns, in shared memory: Units tiles of 64 rows.
template <class T, int Dh, int Units>
__device__ inline void place_queries(const attend_arguments& a, int kv_head, int first_row, int rows, std::uint8_t* to) {
  const int group = a.heads / a.kv_heads;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x % 128); i < 64 * Units * (Dh / 8); i += 128) {
    const int row = i / (Dh / 8), chunk = i % (Dh / 8), r = first_row + row;
    float4 x = make_float4(0, 0, 0, 0), y = x;
    if (r < rows) {
      const auto* from = reinterpret_cast<const float4*>(a.queries + r / group * a.row_stride + (kv_head * group + r % group) * Dh + chunk * 8);
      x = from[0], y = from[1];
    }
    *reinterpret_cast<uint4*>(to + row / 64 * (64 * Dh * 2) + group_place<64>(row % 64, chunk)) = make_uint4(pair_of<T>(x.x, x.y), pair_of<T>(x.z, x.w), pair_of<T>(y.x, y.y), pair_of<T>(y.z, y.w));
  }
}

/// Whether some row doesn't see some key of the tile; for a whole warp.
template <int Keys>
__device__ inline bool hides(const attend_arguments& a, const group_work& work, const key_place* places) {
  bool hidden = false;
#pragma unroll
  for (int i = 0; i < Keys; i += 32) {
    const int key = places[min(i + static_cast<int>(threadIdx.x % 32), Keys - 1)].position;
    hidden = hidden || key > work.low || (a.window > 0 && key <= work.high - a.window);
  }
  return __any_sync(0xffffffffU, hidden);
}

/// Scores of keys that a row doesn't see become -inf. `row`: the warp's first one; `position`: of the query's first token.
template <int Keys>
__device__ inline void hide_scores(const attend_arguments& a, int position, const key_place* places, int row, float (&s)[Keys / 2]) {
  const int lane = static_cast<int>(threadIdx.x % 32), group = a.heads / a.kv_heads;
  const int own[2] = {position + (row + lane / 4) / group, position + (row + lane / 4 + 8) / group};
#pragma unroll
  for (int i = 0; i < Keys / 2; ++i) {
    const int key = places[i / 4 * 8 + lane % 4 * 2 + i % 2].position, mine = own[i % 4 / 2];
    if (key > mine || (a.window > 0 && key <= mine - a.window)) s[i] = -INFINITY;
  }
}

/// Scores -> weights relative to `top`, base 2; `shrink` is what the sums so far are to be multiplied with. A row's top is raised to its maximum only where a weight would
/// exceed 2^8: that the sums stay as they are costs no precision and is the rule after the first tiles.
template <int Keys>
__device__ inline void soften_group(float scale, float (&s)[Keys / 2], float (&top)[2], float (&total)[2], float (&shrink)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float higher = s[2 * h];
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n) higher = fmaxf(higher, fmaxf(s[4 * n + 2 * h], s[4 * n + 2 * h + 1]));
    higher = fmaxf(higher, __shfl_xor_sync(0xffffffffU, higher, 1));
    higher = fmaxf(higher, __shfl_xor_sync(0xffffffffU, higher, 2)) * scale;
    shrink[h] = 1;
    if (higher > top[h] + 8) shrink[h] = power_of_two(top[h] - higher), top[h] = higher;
    const float base = top[h] == -INFINITY ? 0.0F : top[h];
    float sum = 0;
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n)
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        s[4 * n + i] = power_of_two(s[4 * n + i] * scale - base);
        sum += s[4 * n + i];
      }
    total[h] = total[h] * shrink[h] + sum;
  }
}

template <class T, int Keys>
__device__ inline void pack_weights(const float (&s)[Keys / 2], std::uint32_t (&p)[Keys / 16][4]) {
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) p[k][i] = pair_of<T>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}

template <class T, int Dh, int Keys>
__device__ inline void start_scores(float (&s)[Keys / 2], std::uint32_t queries, std::uint32_t keys) {
#pragma unroll
  for (int k = 0; k < Dh / 16; ++k) multiply_tiles(T{}, s, tile_descriptor(queries + k / 4 * (64 * 128) + k % 4 * 32, 16), tile_descriptor(keys + k / 4 * (Keys * 128) + k % 4 * 32, 16), k > 0);
}

template <class T, int Dh, int Keys>
__device__ inline void start_values(float (&sums)[Dh / 2], const std::uint32_t (&p)[Keys / 16][4], std::uint32_t values) {
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k) multiply_weights(T{}, sums, p[k], tile_descriptor(values + k * 2048, Keys * 128));
}

/// Half h of a thread's sums, a quarter of row `row`'s: the normalised output, or this split's part.
template <int Dh>
__device__ inline void write_sums(const attend_arguments& a, int kv_head, int split, int row, int rows, int h, const float (&sums)[Dh / 2], float top, float total) {
  if (row >= rows) return;
  const int group = a.heads / a.kv_heads, c = static_cast<int>(threadIdx.x % 4) * 2;
  if (a.partial != nullptr) {
    const std::int64_t at = (static_cast<std::int64_t>(split) * a.kv_heads + kv_head) * rows + row, all = static_cast<std::int64_t>(a.splits) * a.kv_heads * rows;
#pragma unroll
    for (int d = 0; d < Dh / 8; ++d) *reinterpret_cast<float2*>(a.partial + at * Dh + d * 8 + c) = make_float2(sums[4 * d + 2 * h], sums[4 * d + 2 * h + 1]);
    if (c == 0) *reinterpret_cast<float2*>(a.partial + all * Dh + at * 2) = make_float2(top, total);
    return;
  }
  auto* to = static_cast<bf16*>(a.out) + (static_cast<std::int64_t>(row / group) * a.heads + kv_head * group + row % group) * Dh + c;
  const float factor = 1.0F / total;
#pragma unroll
  for (int d = 0; d < Dh / 8; ++d) *reinterpret_cast<std::uint32_t*>(to + d * 8) = pair_of<bf16>(sums[4 * d + 2 * h] * factor, sums[4 * d + 2 * h + 1] * factor);
}

/// A multiplying group's work: all tiles against its rows. The two groups take turns at giving the tensor cores work.
template <class Layout, class T, int Dh, int Units, int Keys>
__device__ inline void multiply_all(const attend_arguments& a, const group_work& work, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  constexpr int slots = Layout::slots, unit_bytes = 64 * Dh * 2;
  constexpr float log2e = 1.44269504088896341F;
  const int number = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / 128, 0), lane = static_cast<int>(threadIdx.x % 32), rows = a.tokens * (a.heads / a.kv_heads);
  const int first_row = work.first_row + number * 64 * Units, row = first_row + static_cast<int>(threadIdx.x % 128) / 32 * 16;
  const auto meet = [](int barrier) { asm volatile("bar.sync %0, 256;" ::"r"(barrier) : "memory"); };
  const auto let_pass = [](int barrier) { asm volatile("bar.arrive %0, 256;" ::"r"(barrier) : "memory"); };
  const int tiles = (work.count(a) + Keys - 1) / Keys;
  wait_for_previous();
  place_queries<T, Dh, Units>(a, work.kv_head, first_row, rows, memory + number * Units * unit_bytes);
  publish_shared();
  asm volatile("bar.sync %0, 128;" ::"r"(1 + number) : "memory");
  const std::uint32_t queries = shared + number * Units * unit_bytes;
  const float scale = a.cap > 0 ? log2e : a.scale * log2e;
  float sums[Units][Dh / 2] = {}, scores[Keys / 2], top[Units][2], total[Units][2] = {}, shrink[2];
  std::uint32_t weights[Keys / 16][4];
#pragma unroll
  for (int u = 0; u < Units; ++u) top[u][0] = top[u][1] = -INFINITY;
  int slot = 0;
  std::uint32_t parity = 0;
  if (tiles > 0) {
    barrier_wait(ring.full(0), 0);
    group_begin();
    start_scores<T, Dh, Keys>(scores, queries, shared + Layout::keys);
    group_commit();
    group_wait<0>();
    if (number == 1) let_pass(3);
  }
  for (int tile = 0; tile < tiles; ++tile) {
    const auto* places = reinterpret_cast<const key_place*>(memory + Layout::places) + slot * Keys;
    const bool hidden = hides<Keys>(a, work, places);
#pragma unroll
    for (int u = 0; u < Units; ++u) {
      if (a.cap > 0) {
#pragma unroll
        for (int i = 0; i < Keys / 2; ++i) scores[i] = a.cap * tanh_of(scores[i] * (a.scale / a.cap));
      }
      if (hidden) hide_scores<Keys>(a, work.position, places, row + u * 64, scores);
      soften_group<Keys>(scale, scores, top[u], total[u], shrink);
      if (__any_sync(0xffffffffU, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
        for (int i = 0; i < Dh / 2; ++i) sums[u][i] *= shrink[i % 4 / 2];
      }
      pack_weights<T, Keys>(scores, weights);
      const int here = slot;
      if (u + 1 == Units && tile + 1 < tiles) {  // in the last turn the next scores are those of the same tile, and nobody uses them: one piece of code for all turns
        if (++slot == slots) slot = 0, parity ^= 1;
        barrier_wait(ring.full(slot), parity);
      }
      meet(3 + number);
      group_begin();
      start_values<T, Dh, Keys>(sums[u], weights, shared + Layout::values + here * Layout::tile);
      start_scores<T, Dh, Keys>(scores, queries + (u + 1) % Units * unit_bytes, shared + Layout::keys + slot * Layout::tile);
      group_commit();
      let_pass(4 - number);
      group_wait<0>();
      if (u + 1 == Units && lane == 0) barrier_arrive(ring.empty(here));
    }
  }
#pragma unroll
  for (int u = 0; u < Units; ++u)
#pragma unroll
    for (int h = 0; h < 2; ++h) write_sums<Dh>(a, work.kv_head, static_cast<int>(blockIdx.z), row + u * 64 + lane / 4 + 8 * h, rows, h, sums[u], top[u][h], quad_sum(total[u][h]));
}

/// A filling group's work: every other tile, from `first` on.
template <class Layout, int Dh, int Keys, bool Packed, bool Halves>
__device__ inline void fill_all(const attend_arguments& a, const group_work& work, int first, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  const int tiles = (work.count(a) + Keys - 1) / Keys;
  wait_for_previous();
  if constexpr (Packed) {
    const auto run = [&]<bool WideKeys, bool WideValues>() { tile_unpacker<Layout, Dh, Keys, Halves, WideKeys, WideValues>{.a = a, .tiles = tiles, .memory = memory, .shared = shared, .cursor = {work}}.run(first, ring); };
    if (a.kv[0] == dtype::q8_0) a.kv[1] == dtype::q8_0 ? run.template operator()<true, true>() : run.template operator()<true, false>();
    else a.kv[1] == dtype::q8_0 ? run.template operator()<false, true>() : run.template operator()<false, false>();
  } else {
    copy_tiles<Layout, Dh, Keys, Halves>(a, work, first, tiles, memory, shared, ring);
  }
}

template <int Dh, int Units, bool Packed>
__device__ inline void attend_groups_body(const attend_arguments& a) {
  extern __shared__ std::uint8_t raw[];
  using layout = group_layout<Dh, Units, Packed>;
  constexpr int keys = group_keys<Dh>, slots = layout::slots;
  std::uint8_t* memory = raw + (1024 - static_cast<int>(__cvta_generic_to_shared(raw)) % 1024) % 1024;
  const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(memory));
  const ring_barriers<slots> ring{shared + layout::barriers};
  __shared__ group_work work;
  let_next_prepare();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < slots; ++slot) {
      barrier_init(ring.full(slot), 128);
      barrier_init(ring.empty(slot), 8);  // a thread of each warp that multiplies
    }
    for (int i = 0; Packed && i < 4; ++i) barrier_init(shared + layout::arrived + 8 * i, 32);  // a warp that copies
    publish_shared();
    // the tables were there before the first kernel that may run beside this one
    const int group = a.heads / a.kv_heads, rows = a.tokens * group, split = static_cast<int>(blockIdx.z);
    work.kv_head = static_cast<int>(blockIdx.y);
    work.first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * layout::rows;  // the last rows see most: they start first
    work.position = a.position();
    work.low = work.position + work.first_row / group, work.high = work.position + (min(work.first_row + layout::rows, rows) - 1) / group;
    work.first_item = a.split_begin[split], work.last_item = a.split_begin[split + 1];
  }
  __syncthreads();
  const int role = static_cast<int>(threadIdx.x) / 128;
  if (role < 2) {
    take_registers<Packed ? 200 : 208>();
    multiply_all<layout, std::conditional_t<Packed, __half, bf16>, Dh, Units, keys>(a, work, memory, shared, ring);
  } else {
    give_registers<Packed ? 56 : 48>();
    if (a.halves) fill_all<layout, Dh, keys, Packed, true>(a, work, role - 2, memory, shared, ring);
    else fill_all<layout, Dh, keys, Packed, false>(a, work, role - 2, memory, shared, ring);
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
