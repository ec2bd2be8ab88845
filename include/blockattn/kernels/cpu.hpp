// What the processor can do, and which level of kernels is used.
//
// Levels, each including the ones before it on its architecture:
//   portable     whatever the compiler's baseline is (SSE2 on x86-64, NEON on AArch64)
//   avx2         AVX2, FMA, F16C
//   avx512       AVX-512 F, BW, DQ, VL
//   avx512_bf16  and BF16 products
// The environment variable BLOCKATTN_ISA=portable|avx2|avx512|avx512_bf16 forces a level that the processor has.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <array>
#include <cstdlib>
#include <string_view>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

enum class isa { portable, avx2, avx512, avx512_bf16 };

inline constexpr std::array all_isas = {isa::portable, isa::avx2, isa::avx512, isa::avx512_bf16};

[[nodiscard]] constexpr std::string_view name(isa level) {
  switch (level) {
    case isa::portable: return "portable";
    case isa::avx2: return "avx2";
    case isa::avx512: return "avx512";
    case isa::avx512_bf16: return "avx512_bf16";
  }
  return "?";
}

namespace detail {

#if defined(__x86_64__)
/// CPUID leaf 1, ECX bit 29. (clang 14 has no name for it in __builtin_cpu_supports.)
[[nodiscard]] inline bool cpu_has_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1U << 29)) != 0;
}
#endif

}  // namespace detail

/// Whether this processor (and its operating system) can run `level`.
[[nodiscard]] inline bool supports(isa level) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && detail::cpu_has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  switch (level) {
    case isa::portable: return true;
    case isa::avx2: return avx2;
    case isa::avx512: return avx512;
    case isa::avx512_bf16: return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return level == isa::portable;
#endif
}

/// The highest level that the processor has.
[[nodiscard]] inline isa best_isa() {
  isa best = isa::portable;
  for (const isa level : all_isas)
    if (supports(level)) best = level;
  return best;
}

/// The level in use: BLOCKATTN_ISA if set, else the best. Throws argument_error for an unknown level or one that the processor lacks.
[[nodiscard]] inline isa chosen_isa() {
  const char* forced = std::getenv("BLOCKATTN_ISA");
  if (forced == nullptr || *forced == '\0') return best_isa();
  for (const isa level : all_isas) {
    if (name(level) != forced) continue;
    if (supports(level)) return level;
    throw argument_error(cat("[cpu] BLOCKATTN_ISA=", forced, ": this processor lacks it; the highest that it has is ", name(best_isa())));
  }
  throw argument_error(cat("[cpu] BLOCKATTN_ISA=", forced, ": unknown; allowed: portable, avx2, avx512, avx512_bf16"));
}

}  // namespace blockattn::inline v0
