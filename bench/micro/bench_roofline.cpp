// What the machine itself can do, for the share that the kernels reach: integer and bfloat16 products an instruction after the other from registers, and
// reads of memory. No part of the library but the names of the levels. With --benchmark_filter=roofline; each for one thread and for all.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <thread>

#include "operands.hpp"

namespace {

using namespace blockattn_bench;

#if defined(__x86_64__)

constexpr int chains = 12;  // enough to fill the latency of one product with the others

/// A register's worth that the compiler can't see through.
#define BLOCKATTN_OPAQUE(v) asm volatile("" : "+v"(v))

/// The smallest loop that AVX2 has for bytes: products summed in pairs in 16 bits, and added up there. 2 * 32 operations.
__attribute__((target("avx2"))) void bytes_avx2(std::int64_t rounds) {
  __m256i sums[chains / 2] = {}, a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(1);
  for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) {
      BLOCKATTN_OPAQUE(a);  // else one product would serve all sums
      __m256i& sum = sums[c / 2];
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b));
      BLOCKATTN_OPAQUE(sum);
    }
  }
}
__attribute__((target("avxvnni,avx2"))) void bytes_avx_vnni(std::int64_t rounds) {
  __m256i sums[chains] = {}, a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(1);
  for (std::int64_t r = 0; r < rounds; ++r) {
    BLOCKATTN_OPAQUE(a);
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) {
      sums[c] = _mm256_dpbusd_avx_epi32(sums[c], a, b);
      BLOCKATTN_OPAQUE(sums[c]);
    }
  }
}
__attribute__((target("avx512vnni,avx512f"))) void bytes_avx512_vnni(std::int64_t rounds) {
  __m512i sums[chains] = {}, a = _mm512_set1_epi32(0x01010101), b = a;
  for (std::int64_t r = 0; r < rounds; ++r) {
    BLOCKATTN_OPAQUE(a);
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) {
      sums[c] = _mm512_dpbusd_epi32(sums[c], a, b);
      BLOCKATTN_OPAQUE(sums[c]);
    }
  }
}
__attribute__((target("avx512bf16,avx512f"))) void halves_avx512(std::int64_t rounds) {
  __m512 sums[chains] = {};
  __m512i a = _mm512_set1_epi32(0x3f803f80);
  for (std::int64_t r = 0; r < rounds; ++r) {
    BLOCKATTN_OPAQUE(a);
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) {
      sums[c] = _mm512_dpbf16_ps(sums[c], reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(a));
      BLOCKATTN_OPAQUE(sums[c]);
    }
  }
}
__attribute__((target("avx2,fma"))) void floats_avx2(std::int64_t rounds) {
  __m256 sums[chains] = {}, a = _mm256_set1_ps(1);
  for (std::int64_t r = 0; r < rounds; ++r) {
    BLOCKATTN_OPAQUE(a);
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) {
      sums[c] = _mm256_fmadd_ps(a, a, sums[c]);
      BLOCKATTN_OPAQUE(sums[c]);
    }
  }
}

struct alignas(64) tile_shapes {
  std::uint8_t palette = 1, start = 0, reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
/// Tiles of 16 by 16 sums over 64 bytes (or 32 bfloat16) of depth.
template <bool Bytes>
__attribute__((target("amx-tile,amx-int8,amx-bf16"))) void tiles(std::int64_t rounds) {
  const tile_shapes shapes;
  _tile_loadconfig(&shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (std::int64_t r = 0; r < rounds; ++r) {
    if constexpr (Bytes) {
      _tile_dpbusd(0, 4, 5);
      _tile_dpbusd(1, 4, 5);
      _tile_dpbusd(2, 4, 5);
      _tile_dpbusd(3, 4, 5);
    } else {
      _tile_dpbf16ps(0, 4, 5);
      _tile_dpbf16ps(1, 4, 5);
      _tile_dpbf16ps(2, 4, 5);
      _tile_dpbf16ps(3, 4, 5);
    }
  }
  _tile_release();
}

void products(benchmark::State& state, void (*loop)(std::int64_t), double operations_a_round) {
  constexpr std::int64_t rounds = 20000;
  for (auto _ : state) loop(rounds);
  state.counters["op/s"] = benchmark::Counter(operations_a_round * rounds, static_cast<benchmark::Counter::Flags>(benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kAvgThreads));
}

#endif

/// Sums of 64-bit words of 256 MiB, each thread its own part.
void reads(benchmark::State& state) {
  static const std::vector<std::uint64_t> memory(std::size_t{32} << 20, 1);
  const std::size_t part = memory.size() / static_cast<std::size_t>(state.threads());
  const std::uint64_t* from = memory.data() + part * static_cast<std::size_t>(state.thread_index());
  for (auto _ : state) {
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i + 8 <= part; i += 8)
      for (std::size_t j = 0; j < 8; ++j) sums[j] += from[i + j];
    for (std::uint64_t& sum : sums) benchmark::DoNotOptimize(sum);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(part * 8));
}

#if defined(__x86_64__)
void add(const char* name, bool has, void (*loop)(std::int64_t), double operations_a_round) {
  if (!has) return;
  const int all = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  for (const int threads : {1, all})
    if (threads == 1 || all > 1)
      benchmark::RegisterBenchmark((std::string("roofline/") + name).c_str(), products, loop, operations_a_round)->Threads(threads)->UseRealTime()->MinTime(0.2);
}

#endif

const bool registered = [] {
#if defined(__x86_64__)
  const blockattn::cpu_features& f = blockattn::features();
  add("int8/avx2", f.avx2, bytes_avx2, 64 * chains);
  add("int8/avx_vnni", f.avx_vnni, bytes_avx_vnni, 64 * chains);
  add("int8/avx512_vnni", f.avx512_vnni, bytes_avx512_vnni, 128 * chains);
  add("int8/amx", f.amx_int8, tiles<true>, 4.0 * 2 * 16 * 16 * 64);
  add("bf16/avx512", f.avx512_bf16, halves_avx512, 64 * chains);
  add("bf16/amx", f.amx_bf16, tiles<false>, 4.0 * 2 * 16 * 16 * 32);
  add("f32/avx2", f.avx2 && f.fma, floats_avx2, 16 * chains);
#endif
  const int all = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  benchmark::RegisterBenchmark("roofline/read", reads)->Threads(1)->UseRealTime()->MinTime(0.3);
  if (all > 1) benchmark::RegisterBenchmark("roofline/read", reads)->Threads(all)->UseRealTime()->MinTime(0.3);
  return true;
}();

}  // namespace
