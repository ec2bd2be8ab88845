// Attention on tensor cores: tiles of 64 keys, online softmax in registers (FlashAttention-2, arXiv 2307.08691), over segments where they lie.
//
// Four warps. In the form for many rows each warp owns 16 * Units rows and sees all keys of a tile; in the form for few rows all warps share 16 rows and each
// takes 16 keys of a tile, so that memory is read as wide. The keys may be split over thread blocks (attend_arguments::items), whose results merge_splits or merge_scaled joins.
// The output is bfloat16. When the segment changes, the rows are rotated for it anew, from float32, into shared memory. Source of the fragment layouts: PTX ISA, mma.m16n8k16 and ldmatrix.
#pragma once

#include "blockattn/cuda/device/attention.cuh"

namespace blockattn::inline v0::cuda::detail {

inline constexpr int tile_keys = 64;
inline constexpr int tile_threads = 128;

/// Byte offset of 16-byte chunk `chunk` of row `row` in a tile whose chunks are swizzled, so that eight rows of one chunk lie in different banks.
template <int Dh>
__device__ inline std::uint32_t swizzled(int row, int chunk) {
  return static_cast<std::uint32_t>(row * Dh * 2 + ((chunk ^ (row & 7)) << 4));
}

__device__ inline void copy_async(std::uint32_t to, const void* from, bool whole) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(whole ? 16 : 0));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int Left>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left));
}

__device__ inline void load_matrices(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
__device__ inline void load_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

/// c += a · b, [16, 16] x [16, 8].
template <class T>
__device__ inline void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<T, bf16>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Which keys a thread block goes through: tiles of its items that some of its rows see.
struct tile_cursor {
  int item, last_item;
  int begin = 0, end = 0;  ///< keys of the item's segment left to do
  device_segment segment;
  int position;   ///< of the query's first token
  int low, high;  ///< positions of the block's first and last row

  /// Moves to the next tile; false at the end.
  __device__ bool next(const attend_arguments& a, bool first) {
    if (!first) {
      begin += tile_keys;
      if (begin < end) return true;
      ++item;
    }
    for (; item < last_item; ++item) {
      const work_item w = a.items[item];
      segment = a.segments[w.segment];
      end = min(w.end, high - segment.position + 1);
      begin = w.begin;
      if (a.window > 0) begin = max(begin, (low - a.window + 1 - segment.position) / tile_keys * tile_keys);
      if (begin < end) return true;
    }
    return false;
  }
};

/// Copies a tile of keys or values to shared memory: rows past `end` become zeros.
template <class T, int Dh>
__device__ inline void load_tile(const attend_arguments& a, const tile_cursor& at, int half, int kv_head, std::uint32_t to, std::uint8_t* generic) {
  constexpr int chunks = Dh / 8;
  if (!is_narrow(a.kv[half])) {
    for (int i = static_cast<int>(threadIdx.x); i < tile_keys * chunks; i += tile_threads) {
      const int row = i / chunks, chunk = i % chunks;
      std::uint32_t packed[4] = {};
      if (at.begin + row < at.end) unpack_chunk<T>(a.kv[half], kv_row(a, at.segment, half, kv_head, at.begin + row), chunk, packed);
      *reinterpret_cast<uint4*>(generic + swizzled<Dh>(row, chunk)) = *reinterpret_cast<const uint4*>(packed);
    }
    return;
  }
  const std::uint8_t* from = kv_row(a, at.segment, half, kv_head, at.begin);
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < tile_keys * chunks; i += tile_threads) {
    const int row = i / chunks, chunk = i % chunks;
    const bool there = at.begin + row < at.end;
    copy_async(to + swizzled<Dh>(row, chunk), there ? from + row * (Dh * 2) + chunk * 16 : from, there);
  }
}

/// Rows [first, first + count) of the KV head, rotated for the segment, to shared memory. Two neighbouring channels a thread. `kept`: a copy of them in shared
/// memory, or nullptr.
template <class T, int Dh>
__device__ inline void rotate_rows(const attend_arguments& a, const device_segment& s, int kv_head, int first, int count, int rows, const float* kept, std::uint8_t* to) {
  const int group = a.heads / a.kv_heads;
  for (int i = static_cast<int>(threadIdx.x); i < count * (Dh / 2); i += tile_threads) {
    const int row = i / (Dh / 2), c = i % (Dh / 2) * 2, r = first + row;
    float x = 0, y = 0;
    if (r < rows) {
      const float* q = kept != nullptr ? kept + row * Dh : a.queries + r / group * a.row_stride + (kv_head * group + r % group) * Dh;
      x = turned_channel(a, s, q, c);
      y = turned_channel(a, s, q, c + 1);
    }
    *reinterpret_cast<std::uint32_t*>(to + swizzled<Dh>(row, c / 8) + c % 8 * 2) = pair_of<T>(x, y);
  }
}

/// Sum over the four lanes that share a row of a fragment.
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffU, x, 1);
  return x + __shfl_xor_sync(0xffffffffU, x, 2);
}

/// The softmax state and sums of a warp's rows.
template <int Dh, int Units>
struct row_state {
  float sums[Units][Dh / 8][4] = {};
  float top[Units][2], total[Units][2];
};

/// scores of 16 rows -> weights relative to the running maximum; shrinks the sums.
template <int Dh, int Blocks>
__device__ inline void soften(float (&s)[Blocks][4], float (&sums)[Dh / 8][4], float (&top)[2], float (&total)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float higher = top[h];
#pragma unroll
    for (int n = 0; n < Blocks; ++n) higher = fmaxf(higher, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    higher = fmaxf(higher, __shfl_xor_sync(0xffffffffU, higher, 1));
    higher = fmaxf(higher, __shfl_xor_sync(0xffffffffU, higher, 2));
    const float base = higher == -INFINITY ? 0.0F : higher;
    const float shrink = exp2f(top[h] - base);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < Blocks; ++n) {
      s[n][2 * h] = exp2f(s[n][2 * h] - base);
      s[n][2 * h + 1] = exp2f(s[n][2 * h + 1] - base);
      sum += s[n][2 * h] + s[n][2 * h + 1];
    }
    total[h] = total[h] * shrink + sum;
    top[h] = higher;
#pragma unroll
    for (int d = 0; d < Dh / 8; ++d) sums[d][2 * h] *= shrink, sums[d][2 * h + 1] *= shrink;
  }
}

/// Scales, caps and hides scores of one unit of 16 rows; base 2 afterwards. `key` is the segment's key of block 0's first column.
template <int Blocks>
__device__ inline void finish_scores(const attend_arguments& a, const tile_cursor& at, float (&s)[Blocks][4], int row, int key, bool masked) {
  constexpr float log2e = 1.44269504088896341F;
  const int lane = static_cast<int>(threadIdx.x % 32), group = a.heads / a.kv_heads;
  const float scale = a.cap > 0 ? a.scale / a.cap : a.scale * log2e;
#pragma unroll
  for (int n = 0; n < Blocks; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float x = s[n][i] * scale;
      if (a.cap > 0) x = a.cap * log2e * tanhf(x);
      if (masked) {
        const int k = key + n * 8 + lane % 4 * 2 + i % 2;
        const int own = at.position + (row + lane / 4 + i / 2 * 8) / group - at.segment.position;
        if (k >= at.end || k > own || (a.window > 0 && k <= own - a.window) || k < 0) x = -INFINITY;
      }
      s[n][i] = x;
    }
}

/// One tile for a warp's rows: scores, softmax, weighted values.
template <class T, int Dh, int Units, bool Shared>
__device__ inline void process_tile(const attend_arguments& a, const tile_cursor& at, std::uint32_t q, std::uint32_t keys, std::uint32_t values, int first_row,
                                    row_state<Dh, Units>& state) {
  constexpr int blocks = Shared ? 2 : 8;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int key_at = Shared ? warp * 16 : 0, row_at = Shared ? 0 : warp * 16 * Units;
  float s[Units][blocks][4] = {};
#pragma unroll
  for (int k = 0; k < Dh / 16; ++k) {
    std::uint32_t x[Units][4];
#pragma unroll
    for (int u = 0; u < Units; ++u) load_matrices(x[u], q + swizzled<Dh>(row_at + u * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int n = 0; n < blocks; n += 2) {
      std::uint32_t y[4];
      load_matrices(y, keys + swizzled<Dh>(key_at + n * 8 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
      for (int u = 0; u < Units; ++u) {
        multiply<T>(s[u][n], x[u], y[0], y[1]);
        multiply<T>(s[u][n + 1], x[u], y[2], y[3]);
      }
    }
  }
  const bool masked = at.begin + tile_keys > min(at.end, at.low - at.segment.position + 1) || at.begin < 0 || (a.window > 0 && at.begin <= at.high - a.window - at.segment.position);
#pragma unroll
  for (int u = 0; u < Units; ++u) {
    finish_scores(a, at, s[u], first_row + row_at + u * 16, at.begin + key_at, masked);
    soften<Dh>(s[u], state.sums[u], state.top[u], state.total[u]);
  }
#pragma unroll
  for (int k = 0; k < blocks / 2; ++k) {
    std::uint32_t p[Units][4];
#pragma unroll
    for (int u = 0; u < Units; ++u) {
      p[u][0] = pair_of<T>(s[u][2 * k][0], s[u][2 * k][1]);
      p[u][1] = pair_of<T>(s[u][2 * k][2], s[u][2 * k][3]);
      p[u][2] = pair_of<T>(s[u][2 * k + 1][0], s[u][2 * k + 1][1]);
      p[u][3] = pair_of<T>(s[u][2 * k + 1][2], s[u][2 * k + 1][3]);
    }
#pragma unroll
    for (int d = 0; d < Dh / 16; ++d) {
      std::uint32_t y[4];
      load_transposed(y, values + swizzled<Dh>(key_at + k * 16 + lane % 16, 2 * d + lane / 16));
#pragma unroll
      for (int u = 0; u < Units; ++u) {
        multiply<T>(state.sums[u][2 * d], p[u], y[0], y[1]);
        multiply<T>(state.sums[u][2 * d + 1], p[u], y[2], y[3]);
      }
    }
  }
}

/// Writes a row's channels: the normalised output, or this split's part.
template <class Out, int Dh>
__device__ inline void write_row(const attend_arguments& a, int kv_head, int split, int row, int rows, int c, float x, float y, float top, float total) {
  if (row >= rows) return;
  if (a.partial != nullptr) {
    const std::int64_t at = (static_cast<std::int64_t>(split) * a.kv_heads + kv_head) * rows + row, all = static_cast<std::int64_t>(a.splits) * a.kv_heads * rows;
    *reinterpret_cast<float2*>(a.partial + at * Dh + c) = make_float2(x, y);
    if (c == 0) *reinterpret_cast<float2*>(a.partial + all * Dh + at * 2) = make_float2(top, total);
    return;
  }
  *reinterpret_cast<std::uint32_t*>(row_output<Out>(a, kv_head, row) + c) = pair_of<Out>(x / total, y / total);
}

/// Joins the four warps' states of the form for few rows; `memory` is free shared memory of [4][16][Dh + 2] floats.
template <class Out, int Dh>
__device__ inline void join_warps(const attend_arguments& a, int kv_head, int split, int first_row, int rows, const row_state<Dh, 1>& state, float* memory) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float* row = memory + (warp * 16 + lane / 4 + 8 * h) * (Dh + 2);
#pragma unroll
    for (int d = 0; d < Dh / 8; ++d) row[d * 8 + lane % 4 * 2] = state.sums[0][d][2 * h], row[d * 8 + lane % 4 * 2 + 1] = state.sums[0][d][2 * h + 1];
    const float total = quad_sum(state.total[0][h]);
    if (lane % 4 == 0) row[Dh] = state.top[0][h], row[Dh + 1] = total;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 16 * (Dh / 2); i += tile_threads) {
    const int row = i / (Dh / 2), c = i % (Dh / 2) * 2;
    float top = -INFINITY, x = 0, y = 0, total = 0;
    for (int w = 0; w < 4; ++w) top = fmaxf(top, memory[(w * 16 + row) * (Dh + 2) + Dh]);
    for (int w = 0; w < 4; ++w) {
      const float* from = memory + (w * 16 + row) * (Dh + 2);
      const float weight = top == -INFINITY ? 0.0F : exp2f(from[Dh] - top);
      x += from[c] * weight, y += from[c + 1] * weight, total += from[Dh + 1] * weight;
    }
    write_row<Out, Dh>(a, kv_head, split, first_row + row, rows, c, x, y, top, total);
  }
}

/// Tiles in flight and at work.
template <bool Shared>
constexpr int tile_stages = Shared ? 3 : 2;

/// Shared memory of attend_tiles.
template <int Dh, int Units, bool Shared>
constexpr int tile_memory() {
  const int tiles = ((Shared ? 16 : 64 * Units) + 2 * tile_stages<Shared> * tile_keys) * Dh * 2 + (Shared ? 16 * Dh * 4 : 0);
  const int joined = Shared ? 64 * (Dh + 2) * 4 : 0;
  return tiles > joined ? tiles : joined;
}

/// Grid: (row tiles, Hkv, splits). From compute capability 8.0 on.
template <class T, int Dh, int Units, bool Shared>
__global__ void __launch_bounds__(tile_threads) attend_tiles(attend_arguments a) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::uint8_t bytes[];
  wait_for_inputs();
  constexpr int tile_rows = Shared ? 16 : 64 * Units;
  constexpr int tile_bytes = tile_keys * Dh * 2;
  const int rows = a.tokens * (a.heads / a.kv_heads), group = a.heads / a.kv_heads;
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * tile_rows;  // the last rows see most: they start first
  const int kv_head = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.z);
  std::uint8_t* q = bytes;
  std::uint8_t* tiles = bytes + tile_rows * Dh * 2;  // [2 stages][keys, values]
  const auto shared_q = static_cast<std::uint32_t>(__cvta_generic_to_shared(q)), shared_tiles = static_cast<std::uint32_t>(__cvta_generic_to_shared(tiles));
  row_state<Dh, Units> state;
#pragma unroll
  for (int u = 0; u < Units; ++u) state.top[u][0] = state.top[u][1] = -INFINITY, state.total[u][0] = state.total[u][1] = 0;
  tile_cursor at;
  at.item = a.split_begin[split], at.last_item = a.split_begin[split + 1];
  at.position = a.position();
  at.low = at.position + first_row / group, at.high = at.position + (min(first_row + tile_rows, rows) - 1) / group;
  constexpr int stages = tile_stages<Shared>;
  tile_cursor ahead = at;
  const auto fetch = [&](const tile_cursor& tile, int into) {
    load_tile<T, Dh>(a, tile, 0, kv_head, shared_tiles + (2 * into) * tile_bytes, tiles + (2 * into) * tile_bytes);
    load_tile<T, Dh>(a, tile, 1, kv_head, shared_tiles + (2 * into + 1) * tile_bytes, tiles + (2 * into + 1) * tile_bytes);
  };
  bool more = ahead.next(a, true);
#pragma unroll
  for (int s = 0; s < stages - 1; ++s) {
    if (more) fetch(ahead, s);
    commit_copies();
    if (more) more = ahead.next(a, false);
  }
  float* kept = nullptr;
  if constexpr (Shared) {
    kept = reinterpret_cast<float*>(tiles + 2 * stages * tile_bytes);
    for (int i = static_cast<int>(threadIdx.x); i < 16 * Dh; i += tile_threads) {
      const int r = first_row + i / Dh;
      kept[i] = r < rows ? a.queries[r / group * a.row_stride + (kv_head * group + r % group) * Dh + i % Dh] : 0.0F;
    }
    __syncthreads();
  }
  int rotated_for = -1, stage = 0;
  for (bool there = at.next(a, true); there; there = at.next(a, false)) {
    if (at.item != rotated_for) {
      if (rotated_for >= 0) __syncthreads();  // the rows as they are may still be read
      rotate_rows<T, Dh>(a, at.segment, kv_head, first_row, tile_rows, rows, kept, q);
      rotated_for = at.item;
    }
    wait_copies<stages - 2>();
    __syncthreads();  // the tile and the rows are there, and nobody reads the stage any more that the next tile goes to
    if (more) fetch(ahead, (stage + stages - 1) % stages);
    commit_copies();
    if (more) more = ahead.next(a, false);
    process_tile<T, Dh, Units, Shared>(a, at, shared_q, shared_tiles + (2 * stage) * tile_bytes, shared_tiles + (2 * stage + 1) * tile_bytes, first_row, state);
    stage = (stage + 1) % stages;
  }
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  if constexpr (Shared) {
    wait_copies<0>();
    __syncthreads();
    join_warps<bf16, Dh>(a, kv_head, split, first_row, rows, state, reinterpret_cast<float*>(bytes));
  } else {
#pragma unroll
    for (int u = 0; u < Units; ++u)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float total = quad_sum(state.total[u][h]);
        const int row = first_row + warp * 16 * Units + u * 16 + lane / 4 + 8 * h;
#pragma unroll
        for (int d = 0; d < Dh / 8; ++d)
          write_row<bf16, Dh>(a, kv_head, split, row, rows, d * 8 + lane % 4 * 2, state.sums[u][d][2 * h], state.sums[u][d][2 * h + 1], state.top[u][h], total);
      }
  }
#endif
}

}  // namespace blockattn::inline v0::cuda::detail
