// Matrix products of a warp group on Hopper's tensor cores (wgmma), and the barriers between groups that fill tiles and groups that multiply them. For sm_90a only.
//
// Tiles lie in shared memory as rows of 128 bytes (64 bfloat16), 8 rows an atom of 1,024 bytes, 16-byte chunk c of row r at place c ^ (r % 8): the 128-byte swizzle of
// the PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout". Atoms must be aligned to 1,024 bytes. Wider rows are several such tiles.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace blockattn::inline v0::cuda::detail {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// What differs between descriptors of swizzled tiles: where one begins, as `address` / 16; it may be moved by multiples of 16 bytes, each 1 here. `leading`: bytes between neighbouring
/// 64-column tiles, where an instruction reads several.
__device__ inline std::uint32_t tile_start(std::uint32_t address, std::uint32_t leading) { return (address & 0x3ffffU) >> 4 | leading >> 4 << 16; }
__device__ inline std::uint64_t tile_descriptor(std::uint32_t start) { return start | std::uint64_t{1024 >> 4 | 1U << 30} << 32; }

__device__ inline void group_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Left>
__device__ inline void group_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
}
/// Makes this thread's writes to shared memory visible to wgmma.
__device__ inline void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Registers of each of the group's threads from here on; the block's groups must not want more in all than they began with.
template <int Count>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

// mbarrier: 8 bytes of shared memory that count arrivals; a phase is over with the last one, and the next one begins.

__device__ inline void barrier_init(std::uint32_t barrier, int arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory"); }
__device__ inline void barrier_arrive(std::uint32_t barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
/// The same once all cp.async of the thread so far have been made.
__device__ inline void barrier_arrive_after_copies(std::uint32_t barrier) { asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory"); }
/// The phase isn't over before copies have brought so many bytes more; to be called before the thread's own arrival.
__device__ inline void barrier_expect(std::uint32_t barrier, std::uint32_t bytes) { asm volatile("mbarrier.expect_tx.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory"); }
/// Copies from global to shared memory, beside all threads; the barrier counts the bytes. They are a multiple of 16, as both addresses are.
__device__ inline void copy_bulk(std::uint32_t to, const void* from, std::uint32_t bytes, std::uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
/// Lets this thread's copy_bulk read what kernels before have written, once it has waited for them.
__device__ inline void prepare_bulk() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
/// Waits until the phase with this parity (0: the first one) is over.
__device__ inline void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{ .reg .pred p; again_%=: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @p bra done_%=; bra again_%=; done_%=: }" ::"r"(barrier), "r"(parity)
      : "memory");
}

// What the instructions below have in common: the accumulators in their text, and as operands.
#define BLOCKATTN_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define BLOCKATTN_NAMES_64 \
  BLOCKATTN_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define BLOCKATTN_SUMS_8(at) "+f"(c[at]), "+f"(c[at + 1]), "+f"(c[at + 2]), "+f"(c[at + 3]), "+f"(c[at + 4]), "+f"(c[at + 5]), "+f"(c[at + 6]), "+f"(c[at + 7])
#define BLOCKATTN_SUMS_32 BLOCKATTN_SUMS_8(0), BLOCKATTN_SUMS_8(8), BLOCKATTN_SUMS_8(16), BLOCKATTN_SUMS_8(24)
#define BLOCKATTN_SUMS_64 BLOCKATTN_SUMS_32, BLOCKATTN_SUMS_8(32), BLOCKATTN_SUMS_8(40), BLOCKATTN_SUMS_8(48), BLOCKATTN_SUMS_8(56)
#define BLOCKATTN_NEW_8(at) "=f"(c[at]), "=f"(c[at + 1]), "=f"(c[at + 2]), "=f"(c[at + 3]), "=f"(c[at + 4]), "=f"(c[at + 5]), "=f"(c[at + 6]), "=f"(c[at + 7])
#define BLOCKATTN_NEW_32 BLOCKATTN_NEW_8(0), BLOCKATTN_NEW_8(8), BLOCKATTN_NEW_8(16), BLOCKATTN_NEW_8(24)
#define BLOCKATTN_NEW_64 BLOCKATTN_NEW_32, BLOCKATTN_NEW_8(32), BLOCKATTN_NEW_8(40), BLOCKATTN_NEW_8(48), BLOCKATTN_NEW_8(56)

/// multiply_tiles: c [64, N] += a [64, 16] · b [N, 16] transposed, a and b in shared memory; begin_tiles: the same without what c was. COUNT: N / 2; A, B: the operands after the sums.
#define BLOCKATTN_MULTIPLY_TILES(T, TYPE, N, COUNT, A, B)                                                                                               \
  __device__ inline void begin_tiles(T, float (&c)[COUNT], std::uint64_t a, std::uint64_t b) {                                                           \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" BLOCKATTN_NAMES_##COUNT       \
                 "}, %" #A ", %" #B ", p, 1, 1, 0, 0; }"                                                                                                \
                 : BLOCKATTN_NEW_##COUNT                                                                                                                \
                 : "l"(a), "l"(b));                                                                                                                     \
  }                                                                                                                                                     \
  __device__ inline void multiply_tiles(T, float (&c)[COUNT], std::uint64_t a, std::uint64_t b) {                                                        \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" BLOCKATTN_NAMES_##COUNT       \
                 "}, %" #A ", %" #B ", p, 1, 1, 0, 0; }"                                                                                                \
                 : BLOCKATTN_SUMS_##COUNT                                                                                                               \
                 : "l"(a), "l"(b));                                                                                                                     \
  }

/// multiply_weights: c [64, N] += a [64, 16] from registers · b [16, N] in shared memory. A to A3, B: the operands after the sums.
#define BLOCKATTN_MULTIPLY_WEIGHTS(T, TYPE, N, COUNT, A, A1, A2, A3, B)                                                                                   \
  __device__ inline void multiply_weights(T, float (&c)[COUNT], const std::uint32_t (&a)[4], std::uint64_t b) {                                           \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" BLOCKATTN_NAMES_##COUNT        \
                 "}, {%" #A ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, 1; }"                                                                    \
                 : BLOCKATTN_SUMS_##COUNT                                                                                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                                                  \
  }

BLOCKATTN_MULTIPLY_TILES(__nv_bfloat16, "bf16", 64, 32, 32, 33)
BLOCKATTN_MULTIPLY_TILES(__nv_bfloat16, "bf16", 128, 64, 64, 65)
BLOCKATTN_MULTIPLY_TILES(__half, "f16", 64, 32, 32, 33)
BLOCKATTN_MULTIPLY_TILES(__half, "f16", 128, 64, 64, 65)
BLOCKATTN_MULTIPLY_WEIGHTS(__nv_bfloat16, "bf16", 64, 32, 32, 33, 34, 35, 36)
BLOCKATTN_MULTIPLY_WEIGHTS(__nv_bfloat16, "bf16", 128, 64, 64, 65, 66, 67, 68)
BLOCKATTN_MULTIPLY_WEIGHTS(__half, "f16", 64, 32, 32, 33, 34, 35, 36)
BLOCKATTN_MULTIPLY_WEIGHTS(__half, "f16", 128, 64, 64, 65, 66, 67, 68)

#undef BLOCKATTN_MULTIPLY_TILES
#undef BLOCKATTN_MULTIPLY_WEIGHTS
#undef BLOCKATTN_NAMES_32
#undef BLOCKATTN_NAMES_64
#undef BLOCKATTN_SUMS_32
#undef BLOCKATTN_SUMS_64
#undef BLOCKATTN_SUMS_8
#undef BLOCKATTN_NEW_32
#undef BLOCKATTN_NEW_64
#undef BLOCKATTN_NEW_8

#endif

}  // namespace blockattn::inline v0::cuda::detail
