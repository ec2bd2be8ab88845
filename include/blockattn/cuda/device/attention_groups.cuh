// Attention of many rows on Hopper's tensor cores, after FlashAttention-3 (arXiv 2407.08608): two warp groups fill a ring of tiles, two multiply them, and barriers in shared memory
// are all that they wait for. A multiplying group owns 64 * Units rows of the query; while its values are summed it softens the scores that come next.
//
// A tile holds keys of any segments, one after the other: the rows of the query stay as they are, and each key is turned by what its segment's rotation lacks,
// <R(p) q, R(o) k>, on its way into the tile. Keys and values are bfloat16, multiplied as that, or blocks (q8_0, q4_0), unpacked to half precision. Heads of 64 or 128.
// Of the groups that fill, bfloat16: one has everything copied, the other turns the keys; packed: one unpacks and turns the keys, the other unpacks the values and has everything copied.
#pragma once

#include <climits>

#include "blockattn/cuda/device/attention_tiles.cuh"
#include "blockattn/cuda/device/warp_group.cuh"

namespace blockattn::inline v0::cuda::detail {

inline constexpr int group_threads = 4 * 128;
template <int Dh>
inline constexpr int group_keys = 8192 / Dh;  ///< of a tile: what registers leave room for
/// Registers of a thread that multiplies, and of one that fills: in all four groups as many as there are.
template <int Units>
inline constexpr int multiplying_registers = Units == 2 ? 208 : 168;
template <int Units>
inline constexpr int filling_registers = 256 - multiplying_registers<Units>;

/// Shared memory of attend_groups, in bytes from a multiple of 1,024 on.
template <int Dh, int Units, bool Packed, int Keys = group_keys<Dh>>
struct group_layout {
  static constexpr int slots = Packed ? 3 : 5;  ///< of the ring
  static constexpr int rows = 128 * Units;
  static constexpr int tile = Keys * Dh * 2;
  static constexpr int packed_row = (Dh / 32 * 34 + 24 + 15) / 16 * 16;                       ///< a row's room: one that is copied alone brings up to 12 bytes more at both ends
  static constexpr int buffers = Packed ? 3 : 0;                                              ///< of packed keys, and as many of values
  static constexpr int keys = rows * Dh * 2, values = keys + slots * tile;                    ///< [slots, Keys, Dh] each, after the queries
  static constexpr int packed = values + slots * tile;                                        ///< [2, buffers, Keys] rows as they lie in device memory, runs of them without gaps
  static constexpr int places = packed + 2 * buffers * Keys * packed_row;                     ///< [slots, Keys] key_place
  static constexpr int pending = places + slots * Keys * 8;                                   ///< [buffers, Keys] packed_place, then [buffers, Keys] where values lie
  static constexpr int barriers = pending + buffers * Keys * (16 + 4);                        ///< ring_barriers
  static constexpr int arrived = barriers + 4 * slots * 8;                                    ///< copies are there: [2, buffers], then [2, buffers] unpacked; bfloat16: [slots]
  static constexpr int hidden = arrived + (Packed ? 4 * buffers : slots) * 8;                 ///< [slots, 4] whether some row doesn't see some of the keys that a filling warp has looked at
  static constexpr int work = (hidden + slots * 4 + 15) / 16 * 16;                            ///< group_work
  static constexpr int bytes = work + 32;
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

  /// Whether some row doesn't see a key at this position.
  __device__ bool hides(const attend_arguments& a, int key) const { return key > low || (a.window > 0 && key <= high - a.window); }

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

/// Finds keys by their number among those of the block's work, in rising order: rows of `Halves` halves from `half` on (0: keys, 1: values).
template <int Halves>
struct key_cursor {
  const group_work& work;  ///< in shared memory
  int half = 0;
  int item = work.first_item;
  int begin = 0, end = 0;  ///< numbers of the segment's keys
  int position = 0, rotation = -1;
  const std::uint8_t* rows[Halves] = {};

  __device__ bool seek(const attend_arguments& a, int key) {
    while (key >= end) {
      if (item == work.last_item) return false;
      const work_item w = a.items[item++];
      const int2 part = work.seen(a, w);
      if (part.x >= part.y) continue;
      const device_segment s = a.segments[w.segment];
      begin = end, end += part.y - part.x;
      position = w.position + part.x, rotation = a.channels > 0 ? s.rotation : -1;
#pragma unroll
      for (int i = 0; i < Halves; ++i) rows[i] = kv_row(a, s, half + i, work.kv_head, part.x);
    }
    return true;
  }

  __device__ const std::uint8_t* row(const attend_arguments& a, int i, int key) const { return rows[i] + (key - begin) * static_cast<int>(a.row_bytes[half + i]); }
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

/// Turns a tile's bfloat16 keys where they lie: a thread 4 channels and the 4 that lie Dh / 2 further.
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

/// The ring's barriers, of keys (half 0) and of values: a slot's tile is there; nobody reads it any more.
template <int Slots>
struct ring_barriers {
  std::uint32_t address;
  __device__ std::uint32_t full(int half, int slot) const { return address + 8 * (half * Slots + slot); }
  __device__ std::uint32_t empty(int half, int slot) const { return address + 8 * ((2 + half) * Slots + slot); }
  /// Waits until the slot is free for the tile.
  __device__ void wait_empty(int half, int tile) const {
    if (tile >= Slots) barrier_wait(empty(half, tile % Slots), static_cast<std::uint32_t>(tile / Slots - 1) & 1);
  }
};

/// Has bfloat16 keys and values of all tiles copied to the ring: a thread 16 channels of every `step`-th row. The other group turns the keys (turn_tiles).
template <class Layout, int Dh, int Keys>
__device__ inline void copy_tiles(const attend_arguments& a, const group_work& work, int tiles, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  constexpr unsigned chunks = Dh / 16, step = 128 / chunks;
  constexpr int slots = Layout::slots;
  static_assert(Keys % step == 0);
  const unsigned chunk = threadIdx.x % chunks, lane_row = threadIdx.x % 128 / chunks;
  const auto* nothing = reinterpret_cast<const std::uint8_t*>(a.queries);  // an address to copy 0 bytes from
  key_cursor<2> cursor{work};
  int slot = 0;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    ring.wait_empty(0, tile);
    ring.wait_empty(1, tile);
    const std::uint32_t to = shared + Layout::keys + slot * Layout::tile;
#pragma unroll 1
    for (unsigned row = lane_row; row < Keys; row += step) {
      const int key = tile * Keys + static_cast<int>(row);
      const bool there = cursor.seek(a, key);
      if (chunk == 0) reinterpret_cast<key_place*>(memory + Layout::places)[slot * Keys + row] = there ? cursor.place(key) : key_place{INT_MAX, -1};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint8_t* from = there ? cursor.row(a, half, key) + chunk * 16 : nothing;
        copy_async(to + half * (Layout::values - Layout::keys) + group_place<Keys>(row, chunk), from, there);
        copy_async(to + half * (Layout::values - Layout::keys) + group_place<Keys>(row, chunk + chunks), there ? from + Dh : nothing, there);
      }
    }
    barrier_arrive_after_copies(shared + Layout::arrived + 8 * slot);
    barrier_arrive(shared + Layout::arrived + 8 * slot);  // the places
    if (++slot == slots) slot = 0;
  }
}

/// Turns the keys that copy_tiles brings, and hands tiles on.
template <class Layout, int Dh, int Keys, bool Halves>
__device__ inline void turn_tiles(const attend_arguments& a, const group_work& work, int tiles, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  key_turner<Dh, Keys, Halves> turner;
  int slot = 0;
  std::uint32_t parity = 0;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const auto* places = reinterpret_cast<const key_place*>(memory + Layout::places) + slot * Keys;
    const unsigned thread = threadIdx.x % 128;
    barrier_wait(shared + Layout::arrived + 8 * slot, parity);
    publish_shared();
    barrier_arrive(ring.full(1, slot));
    const bool hidden = __any_sync(0xffffffffU, thread < Keys && work.hides(a, places[thread < Keys ? thread : 0].position));
    if (thread % 32 == 0) memory[Layout::hidden + slot * 4 + thread / 32] = hidden ? 1 : 0;
    turner.turn(a, memory + Layout::keys + slot * Layout::tile, places);
    publish_shared();
    barrier_arrive(ring.full(0, slot));
    if (++slot == Layout::slots) slot = 0, parity ^= 1;
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
  int rotation = INT_MIN;
  __half2 cosine[4], sine[4];

  /// For a whole warp, whose threads may want different ones; -1: none.
  __device__ void prepare(const attend_arguments& a, int wanted, unsigned chunk) {
    if (__all_sync(0xffffffffU, wanted == rotation)) [[likely]] return;
    alignas(16) float c[8], s[8];
    if (wanted >= 0) load_angles<Dh, Halves>(a, wanted, chunk, c, s);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      cosine[i] = wanted >= 0 ? __floats2half2_rn(c[2 * i], c[2 * i + 1]) : __float2half2_rn(1);
      sine[i] = wanted >= 0 ? __floats2half2_rn(s[2 * i], s[2 * i + 1]) : __float2half2_rn(0);
    }
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
  for (int i = work.first_item * 2 * lines + static_cast<int>(threadIdx.x % 128); i < work.last_item * 2 * lines; i += 128) {
    const int rotation = a.segments[a.items[i / (2 * lines)].segment].rotation;
    if (rotation >= 0) strange = strange || (i % 2 == 0 ? a.cosine : a.sine)[static_cast<std::int64_t>(rotation) * (Dh / 2) + i / 2 % lines * 32] > 2;
  }
  return strange;
}

/// A packed key of a tile: its position (INT_MAX: there is none) and rotation, and the byte at which it begins among the packed rows (-1: there is none).
struct alignas(16) packed_place {
  int position, rotation, at, unused;
};

/// Where packed rows wait: a ring of its own for keys (half 0) and values.
template <class Layout, int Keys>
struct packed_ring {
  std::uint8_t* memory;
  std::uint32_t shared;

  [[nodiscard]] __device__ static std::uint32_t rows(int half, int buffer) { return Layout::packed + (half * Layout::buffers + buffer) * Keys * Layout::packed_row; }
  [[nodiscard]] __device__ packed_place* keys(int buffer) const { return reinterpret_cast<packed_place*>(memory + Layout::pending) + buffer * Keys; }
  [[nodiscard]] __device__ int* values(int buffer) const { return reinterpret_cast<int*>(memory + Layout::pending + Layout::buffers * Keys * 16) + buffer * Keys; }
  [[nodiscard]] __device__ std::uint32_t arrived(int half, int buffer) const { return shared + Layout::arrived + 8 * (half * Layout::buffers + buffer); }
  [[nodiscard]] __device__ std::uint32_t unpacked(int half, int buffer) const { return arrived(2 + half, buffer); }
};

/// Has rows copied as they lie, a piece of a segment at once, some tiles before they are unpacked. A warp copies keys alone, or values.
template <class Layout, int Keys>
struct packed_copier {
  static constexpr int ahead = Layout::buffers - 1;
  const attend_arguments& a;
  packed_ring<Layout, Keys> ring;
  key_cursor<1> cursor;

  /// For a whole warp. A copy begins and ends at multiples of 16 bytes around its piece.
  __device__ void copy(int tile) {
    const int buffer = tile % Layout::buffers, half = cursor.half, tile_begin = tile * Keys;
    const auto row_bytes = static_cast<int>(a.row_bytes[half]);
    if (tile >= Layout::buffers) barrier_wait(ring.unpacked(half, buffer), static_cast<std::uint32_t>(tile / Layout::buffers - 1) & 1);
#pragma unroll 1
    for (int row = static_cast<int>(threadIdx.x % 32); row < Keys; row += 32) {
      const int key = tile_begin + row;
      packed_place place{INT_MAX, -1, -1, 0};
      if (cursor.seek(a, key)) {
        const int first = max(cursor.begin, tile_begin), to = (first - tile_begin) * Layout::packed_row;
        const std::uint8_t* from = cursor.row(a, 0, first);
        const int before = static_cast<int>(reinterpret_cast<std::uintptr_t>(from) % 16);
        if (key == first) {
          const int bytes = (before + (min(cursor.end, tile_begin + Keys) - first) * row_bytes + 15) / 16 * 16;
          barrier_expect(ring.arrived(half, buffer), bytes);
          copy_bulk(ring.shared + ring.rows(half, buffer) + to, from - before, bytes, ring.arrived(half, buffer));
        }
        place = {cursor.place(key).position, cursor.rotation, to + before + (key - first) * row_bytes, 0};
      }
      if (half == 0) *reinterpret_cast<int4*>(ring.keys(buffer) + row) = *reinterpret_cast<const int4*>(&place);
      else ring.values(buffer)[row] = place.at;
    }
    barrier_arrive(ring.arrived(half, buffer));
  }
};

/// The work of the group that unpacks keys (Half 0) or values; the latter has everything copied.
template <class Layout, int Dh, int Keys, int Half, bool Wide, bool Halves>
__device__ inline void unpack_tiles(const attend_arguments& a, const group_work& work, int tiles, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  using eight = packed_eight<Wide>;
  constexpr unsigned chunks = Dh / 16, step = 128 / chunks, passes = Keys / step, further = Dh / 64 * eight::block_bytes;
  static_assert(Keys % step == 0 && Keys <= 128 && step % 8 == 0);  // so a thread's chunks lie at the same place in all of its rows
  const unsigned warp = threadIdx.x / 32 % 4, chunk = threadIdx.x % chunks, part = threadIdx.x % 32 / chunks;
  const unsigned lane_row = Dh == 128 ? warp + 4 * part : 8 * (part / 2) + (2 * warp + part % 2 * 5) % 8;  // a warp's rows are such that what they read and write lies in different banks
  const packed_ring<Layout, Keys> packed{memory, shared};
  packed_copier<Layout, Keys> copier{a, packed, {work, static_cast<int>(warp % 2)}};
  constexpr int ahead = packed_copier<Layout, Keys>::ahead;
  static_assert(ahead == 2);  // two warps for each half: every other tile is theirs
  if constexpr (Half == 1) {
    prepare_bulk();
    if (static_cast<int>(warp) / 2 < min(tiles, ahead)) copier.copy(static_cast<int>(warp) / 2);
  }
  if (Half == 0 && touch_angles<Dh>(a, work)) return;
  packed_turner<Dh, Halves> turner;
  const unsigned block = chunk / 4 * eight::block_bytes, first = block + 2 + (Wide ? chunk % 4 : chunk % 2) * 8, shift = chunk % 4 < 2 ? 0 : 4;
  const unsigned skipped = first % 4 * 8, far_skipped = further % 4 == 0 ? skipped : (first + further) % 4 * 8;
  const unsigned beyond = further % 4 == 0 ? further : (first + further) / 4 * 4 - first / 4 * 4;
  const unsigned to_first = (Half == 0 ? Layout::keys : Layout::values) + group_place<Keys>(lane_row, chunk);
  const unsigned across = Dh == 128 ? Keys * 128 : group_place<Keys>(lane_row, chunk + chunks) - group_place<Keys>(lane_row, chunk);
  int slot = 0, buffer = 0;
  std::uint32_t parity = 0;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    if constexpr (Half == 1) {
      if (tile + ahead < tiles && static_cast<int>(warp) / 2 == tile % 2) copier.copy(tile + ahead);
    }
    barrier_wait(packed.arrived(Half, buffer), parity);
    ring.wait_empty(Half, tile);
    if constexpr (Half == 0) {
      const unsigned row = threadIdx.x % 128;
      bool hidden = false;
      if (row < Keys) {
        const int4 place = *reinterpret_cast<const int4*>(packed.keys(buffer) + row);
        reinterpret_cast<key_place*>(memory + Layout::places)[slot * Keys + row] = {place.x, place.y};
        hidden = work.hides(a, place.x);
      }
      hidden = __any_sync(0xffffffffU, hidden);
      if (threadIdx.x % 32 == 0) memory[Layout::hidden + slot * 4 + warp] = hidden ? 1 : 0;
    }
    const std::uint8_t* blocks = memory + packed.rows(Half, buffer) + block;
    const std::uint8_t* words = memory + packed.rows(Half, buffer) + first / 4 * 4;
    std::uint8_t* to = memory + to_first + slot * Layout::tile;
#pragma unroll 1
    for (unsigned pass = 0; pass < passes; ++pass) {
      const unsigned row = lane_row + pass * step;
      int at, rotation = -1;
      if constexpr (Half == 0) {
        const int4 place = *reinterpret_cast<const int4*>(packed.keys(buffer) + row);  // a packed_place
        rotation = place.y, at = place.z;
      } else {
        at = packed.values(buffer)[row];
      }
      const bool there = at >= 0;  // else what lies here is an earlier row
      at = max(at, 0);
      eight low, high;
      low.load(blocks + at, words + at, skipped, shift);
      high.load(blocks + at + further, words + at + beyond, far_skipped, shift);
      if (!there) low.scale = high.scale = __float2half2_rn(0);
      alignas(16) __half2 x[4], y[4];
      low.unpack(x);
      high.unpack(y);
      if constexpr (Half == 0) {
        turner.prepare(a, rotation, chunk);
        turner.turn(x, y);
      }
      *reinterpret_cast<uint4*>(to + pass * step * 128) = *reinterpret_cast<const uint4*>(x);
      *reinterpret_cast<uint4*>(to + pass * step * 128 + across) = *reinterpret_cast<const uint4*>(y);
    }
    publish_shared();
    barrier_arrive(ring.full(Half, slot));
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(packed.unpacked(Half, buffer));
    if (++slot == Layout::slots) slot = 0;
    if (++buffer == Layout::buffers) buffer = 0, parity ^= 1;
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

/// The rows of the query that a multiplying group owns, in shared memory: Units tiles of 64 rows. Rows beyond the last one are copies of it, and nobody reads what comes of them.
template <class T, int Dh, int Units>
__device__ inline void place_queries(const attend_arguments& a, int kv_head, int first_row, int rows, std::uint8_t* to) {
  constexpr int chunks = Dh / 8, count = 64 * Units * chunks / 128, together = count < 8 ? count : 8;
  const int group = a.heads / a.kv_heads, chunk = static_cast<int>(threadIdx.x) % chunks;
#pragma unroll 1
  for (int i = 0; i < count; i += together) {
    float4 x[together][2];
#pragma unroll
    for (int n = 0; n < together; ++n) {
      const int r = min(first_row + (static_cast<int>(threadIdx.x % 128) + (i + n) * 128) / chunks, rows - 1);
      const auto* from = reinterpret_cast<const float4*>(a.queries + r / group * a.row_stride + (kv_head * group + r % group) * Dh + chunk * 8);
      x[n][0] = from[0], x[n][1] = from[1];
    }
#pragma unroll
    for (int n = 0; n < together; ++n) {
      const int row = (static_cast<int>(threadIdx.x % 128) + (i + n) * 128) / chunks;
      *reinterpret_cast<uint4*>(to + row / 64 * (64 * Dh * 2) + group_place<64>(row % 64, chunk)) =
          make_uint4(pair_of<T>(x[n][0].x, x[n][0].y), pair_of<T>(x[n][0].z, x[n][0].w), pair_of<T>(x[n][1].x, x[n][1].y), pair_of<T>(x[n][1].z, x[n][1].w));
    }
  }
}

/// Keeps the compiler from computing these later.
template <int N>
__device__ inline void settle(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}

/// Scores of keys that a row doesn't see become -inf. `row`: the warp's first one; `position`: of the query's first token.
template <int Keys>
__device__ inline void hide_scores(const attend_arguments& a, int position, const key_place* places, int row, float (&s)[Keys / 2]) {
  const int lane = static_cast<int>(threadIdx.x % 32), group = a.heads / a.kv_heads;
  const int own[2] = {position + (row + lane / 4) / group, position + (row + lane / 4 + 8) / group};
  const int before[2] = {a.window > 0 ? own[0] - a.window : INT_MIN, a.window > 0 ? own[1] - a.window : INT_MIN};
#pragma unroll
  for (int n = 0; n < Keys / 8; ++n) {
    const int4 two = *reinterpret_cast<const int4*>(places + n * 8 + lane % 4 * 2);  // key_place
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (const int key = i % 2 == 0 ? two.x : two.z; key > own[i / 2] || key <= before[i / 2]) s[4 * n + i] = -INFINITY;
  }
}

/// Scores -> weights relative to `top`, base 2, for a whole warp. A row's top is raised to its maximum only where a weight would exceed 2^8: that it mostly stays as it is costs no
/// precision, and saves the warp to agree on it. True: some top was raised, and the sums so far are to be multiplied with `shrink`.
template <int Keys>
__device__ inline bool soften_group(float scale, float (&s)[Keys / 2], float (&top)[2], float (&total)[2], float (&shrink)[2]) {
  float highest[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float chains[2] = {s[2 * h], s[2 * h + 1]};
#pragma unroll
    for (int n = 1; n < Keys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) chains[i] = fmaxf(chains[i], s[4 * n + 2 * h + i]);
    highest[h] = fmaxf(chains[0], chains[1]) * scale;
  }
  const bool raised = __any_sync(0xffffffffU, highest[0] > top[0] + 8 || highest[1] > top[1] + 8);
  if (raised) [[unlikely]] {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float higher = fmaxf(highest[h], __shfl_xor_sync(0xffffffffU, highest[h], 1));
      higher = fmaxf(higher, __shfl_xor_sync(0xffffffffU, higher, 2));
      shrink[h] = 1;
      if (higher > top[h] + 8) shrink[h] = power_of_two(top[h] - higher), top[h] = higher;
      total[h] *= shrink[h];
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float base = top[h] == -INFINITY ? 0.0F : top[h];
    float sum = 0;
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n)
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        s[4 * n + i] = power_of_two(s[4 * n + i] * scale - base);
        sum += s[4 * n + i];
      }
    total[h] += sum;
  }
  return raised;
}

template <class T, int Keys>
__device__ inline void pack_weights(const float (&s)[Keys / 2], std::uint32_t (&p)[Keys / 16][4]) {
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) p[k][i] = pair_of<T>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}

/// Descriptors' beginnings (tile_start) stand for the unit's queries, a slot's keys and its values.
template <class T, int Dh, int Keys>
__device__ inline void start_scores(float (&s)[Keys / 2], std::uint32_t queries, std::uint32_t keys) {
#pragma unroll
  for (int k = 0; k < Dh / 16; ++k) {
    const std::uint64_t q = tile_descriptor(queries + (k / 4 * (64 * 128) + k % 4 * 32) / 16), t = tile_descriptor(keys + (k / 4 * (Keys * 128) + k % 4 * 32) / 16);
    k == 0 ? begin_tiles(T{}, s, q, t) : multiply_tiles(T{}, s, q, t);
  }
}

template <class T, int Dh, int Keys>
__device__ inline void start_values(float (&sums)[Dh / 2], const std::uint32_t (&p)[Keys / 16][4], std::uint32_t values) {
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k) multiply_weights(T{}, sums, p[k], tile_descriptor(values + k * 2048 / 16));
}

/// Half h of a thread's sums, a quarter of row `row`'s: the normalised output, or this split's part.
template <int Dh>
__device__ inline void write_sums(const attend_arguments& a, int kv_head, int split, int row, int rows, int h, const float (&sums)[Dh / 2], float top, float total) {
  if (row >= rows) return;
  const int c = static_cast<int>(threadIdx.x % 4) * 2;
  if (a.partial != nullptr) {
    const std::int64_t at = (static_cast<std::int64_t>(split) * a.kv_heads + kv_head) * rows + row, all = static_cast<std::int64_t>(a.splits) * a.kv_heads * rows;
#pragma unroll
    for (int d = 0; d < Dh / 8; ++d) *reinterpret_cast<float2*>(a.partial + at * Dh + d * 8 + c) = make_float2(sums[4 * d + 2 * h], sums[4 * d + 2 * h + 1]);
    if (c == 0) *reinterpret_cast<float2*>(a.partial + all * Dh + at * 2) = make_float2(top, total);
    return;
  }
  bf16* to = row_output<bf16>(a, kv_head, row) + c;
  const float factor = 1.0F / total;
#pragma unroll
  for (int d = 0; d < Dh / 8; ++d) *reinterpret_cast<std::uint32_t*>(to + d * 8) = pair_of<bf16>(sums[4 * d + 2 * h] * factor, sums[4 * d + 2 * h + 1] * factor);
}

/// A multiplying group's work: all tiles against its rows.
template <class Layout, class T, int Dh, int Units, int Keys>
__device__ inline void multiply_all(const attend_arguments& a, const group_work& work, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  constexpr int slots = Layout::slots, unit_bytes = 64 * Dh * 2;
  constexpr float log2e = 1.44269504088896341F;
  const int number = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / 128, 0), lane = static_cast<int>(threadIdx.x % 32), rows = a.tokens * (a.heads / a.kv_heads);
  const int first_row = work.first_row + number * 64 * Units, row = first_row + static_cast<int>(threadIdx.x % 128) / 32 * 16;
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
  const auto places_of = [&](int slot) { return reinterpret_cast<const key_place*>(memory + Layout::places) + slot * Keys; };
  // scores of unit u -> weights relative to its top, in place
  const auto soften = [&](int u, int position, bool special, const key_place* places) {
    if (special) [[unlikely]] {
      if (a.cap > 0) {
#pragma unroll
        for (int i = 0; i < Keys / 2; ++i) scores[i] = a.cap * tanh_of(scores[i] * (a.scale / a.cap));
      }
      hide_scores<Keys>(a, position, places, row + u * 64, scores);
    }
    return soften_group<Keys>(scale, scores, top[u], total[u], shrink);
  };
  const std::uint32_t query_tiles = tile_start(queries, 16), key_tiles = tile_start(shared + Layout::keys, 16), value_tiles = tile_start(shared + Layout::values, Keys * 128);
  int slot = 0;  // of the tile whose scores are computed
  std::uint32_t parity = 0;
  bool special = false;  // scores are capped, or some aren't seen
  const auto any_hidden = [&](int which) { return *reinterpret_cast<const std::uint32_t*>(memory + Layout::hidden + which * 4) != 0; };
  const auto free_slot = [&](int half, int which) {
    if (lane == 0) barrier_arrive(ring.empty(half, which));
  };
  if (tiles > 0) {
    barrier_wait(ring.full(0, 0), 0);
    group_begin();
    start_scores<T, Dh, Keys>(scores, query_tiles, key_tiles);
    group_commit();
    special = a.cap > 0 || any_hidden(0);
    group_wait<0>();
    (void)soften(0, work.position, special, places_of(0));
    if (Units == 1) free_slot(0, 0);
    pack_weights<T, Keys>(scores, weights);
  }
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
    for (int u = 0; u < Units; ++u) {  // its weights are there; while the values are summed, the next scores become weights
      const int here = slot, next = (u + 1) % Units;
      const bool last = next == 0 && tile + 1 == tiles;  // the next scores are those of the same tile, all hidden: one piece of code for all turns
      if (u == 0) barrier_wait(ring.full(1, here), parity);
      if (next == 0 && !last) {
        if (++slot == slots) slot = 0, parity ^= 1;
        barrier_wait(ring.full(0, slot), parity);
      }
      if (next == 0) special = last || a.cap > 0 || any_hidden(slot);
      group_begin();
      start_scores<T, Dh, Keys>(scores, query_tiles + next * (unit_bytes / 16), key_tiles + slot * (Layout::tile / 16));
      group_commit();
      start_values<T, Dh, Keys>(sums[u], weights, value_tiles + here * (Layout::tile / 16));
      group_commit();
      group_wait<1>();
      const bool raised = soften(next, last ? INT_MIN / 2 : work.position, special, places_of(slot));
      if (next + 1 == Units && !last) free_slot(0, slot);
      settle(scores);
      group_wait<0>();
      if (raised) [[unlikely]] {
#pragma unroll
        for (int i = 0; i < Dh / 2; ++i) sums[next][i] *= shrink[i % 4 / 2];
      }
      if (next == 0) free_slot(1, here);
      pack_weights<T, Keys>(scores, weights);
    }
  }
#pragma unroll
  for (int u = 0; u < Units; ++u)
#pragma unroll
    for (int h = 0; h < 2; ++h) write_sums<Dh>(a, work.kv_head, static_cast<int>(blockIdx.z), row + u * 64 + lane / 4 + 8 * h, rows, h, sums[u], top[u][h], quad_sum(total[u][h]));
}

/// A filling group's work.
template <class Layout, int Dh, int Keys, bool Packed, int Group, bool Halves>
__device__ inline void fill_all(const attend_arguments& a, const group_work& work, std::uint8_t* memory, std::uint32_t shared, ring_barriers<Layout::slots> ring) {
  const int tiles = (work.count(a) + Keys - 1) / Keys;
  wait_for_previous();
  if constexpr (Packed) {
    if (a.kv[Group] == dtype::q8_0) unpack_tiles<Layout, Dh, Keys, Group, true, Halves>(a, work, tiles, memory, shared, ring);
    else unpack_tiles<Layout, Dh, Keys, Group, false, Halves>(a, work, tiles, memory, shared, ring);
  } else if constexpr (Group == 0) {
    turn_tiles<Layout, Dh, Keys, Halves>(a, work, tiles, memory, shared, ring);
  } else {
    copy_tiles<Layout, Dh, Keys>(a, work, tiles, memory, shared, ring);
  }
}

template <int Dh, int Units, bool Packed>
__device__ inline void attend_groups_body(const attend_arguments& a) {
  extern __shared__ __align__(1024) std::uint8_t group_memory[];  // the block's only shared memory, so it begins aligned
  std::uint8_t* memory = group_memory;
  using layout = group_layout<Dh, Units, Packed>;
  constexpr int keys = group_keys<Dh>, slots = layout::slots;
  const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(memory));
  const ring_barriers<slots> ring{shared + layout::barriers};
  static_assert(sizeof(group_work) <= 32);
  group_work& work = *reinterpret_cast<group_work*>(memory + layout::work);
  let_next_prepare();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < slots; ++slot) {
      for (int half = 0; half < 2; ++half) {
        barrier_init(ring.full(half, slot), 128);
        barrier_init(ring.empty(half, slot), 8);  // a thread of each warp that multiplies
      }
    }
    for (int i = 0; !Packed && i < slots; ++i) barrier_init(shared + layout::arrived + 8 * i, 2 * 128);
    for (int i = 0; i < 2 * layout::buffers; ++i) barrier_init(shared + layout::arrived + 8 * i, 32), barrier_init(shared + layout::arrived + 8 * (2 * layout::buffers + i), 4);
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
    take_registers<multiplying_registers<Units>>();
    multiply_all<layout, std::conditional_t<Packed, __half, bf16>, Dh, Units, keys>(a, work, memory, shared, ring);
  } else {
    const auto fill = [&]<int Group>() { a.halves ? fill_all<layout, Dh, keys, Packed, Group, true>(a, work, memory, shared, ring) : fill_all<layout, Dh, keys, Packed, Group, false>(a, work, memory, shared, ring); };
    if (role == 2) {
      give_registers<filling_registers<Units>>();
      fill.template operator()<0>();
    } else {
      give_registers<filling_registers<Units>>();
      fill.template operator()<1>();
    }
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
