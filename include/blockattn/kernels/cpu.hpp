// What the processor can do, and which level of kernels is used.
//
// Levels, each including the ones before it on its architecture but where said otherwise:
//   portable      whatever the compiler's baseline is (SSE2 on x86-64, NEON on AArch64)
//   avx2          AVX2, FMA, F16C
//   avx_vnni      and AVX-VNNI: products of four bytes
//   avx512        AVX-512 F, BW, DQ, VL; without AVX-VNNI
//   avx512_vnni   and VNNI: products of four bytes
//   avx512_bf16   and BF16 products
//   amx           and tiles of BF16 products, with the kernel's permission; taken by itself only where its products agree with avx512_bf16's (agreement.hpp)
//   neon_dotprod  AArch64 with products of four signed bytes
//   neon_i8mm     and of unsigned and signed ones
// The environment variable BLOCKATTN_ISA=LEVEL forces a level that the processor has.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include <array>
#include <cstddef>
#include <cstdlib>
#include <string_view>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

enum class isa { portable, avx2, avx_vnni, avx512, avx512_vnni, avx512_bf16, amx, neon_dotprod, neon_i8mm };

inline constexpr std::array all_isas = {isa::portable,    isa::avx2, isa::avx_vnni,     isa::avx512,   isa::avx512_vnni,
                                        isa::avx512_bf16, isa::amx,  isa::neon_dotprod, isa::neon_i8mm};

[[nodiscard]] constexpr std::string_view name(isa level) {
  constexpr std::array<std::string_view, all_isas.size()> names = {"portable",    "avx2", "avx_vnni",     "avx512",   "avx512_vnni",
                                                                   "avx512_bf16", "amx",  "neon_dotprod", "neon_i8mm"};
  return names[static_cast<std::size_t>(level)];
}

/// What the processor and its operating system let a program use, of what the kernels know.
struct cpu_features {
  bool avx2 = false, fma = false, f16c = false, avx_vnni = false;
  bool avx512 = false;  ///< F, BW, DQ and VL
  bool avx512_vnni = false, avx512_bf16 = false;
  bool amx_int8 = false, amx_bf16 = false;  ///< tiles, with the permission to use them
  bool dotprod = false, i8mm = false;
};

namespace detail {

#if defined(__x86_64__)
/// Bit `bit` of a register (0 to 3: EAX, EBX, ECX, EDX) of a CPUID leaf. (clang 14 has no name for some features in __builtin_cpu_supports.)
[[nodiscard]] inline bool cpuid_bit(unsigned leaf, unsigned subleaf, int number, int bit) {
  unsigned r[4] = {};
  return __get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) != 0 && (r[number] >> bit & 1U) != 0;
}

/// Asks Linux for the permission to use the tiles' data, which every process must (https://docs.kernel.org/arch/x86/xstate.html).
[[nodiscard]] inline bool may_use_tiles() {
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

[[nodiscard]] inline cpu_features find_features() {
  cpu_features f;
  f.avx2 = __builtin_cpu_supports("avx2") != 0;
  f.fma = __builtin_cpu_supports("fma") != 0;
  f.f16c = f.avx2 && cpuid_bit(1, 0, 2, 29);
  f.avx_vnni = f.avx2 && cpuid_bit(7, 1, 0, 4);
  f.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  f.avx512_vnni = f.avx512 && cpuid_bit(7, 0, 2, 11);
  f.avx512_bf16 = f.avx512 && cpuid_bit(7, 1, 0, 5);
  const bool tiles = f.avx512 && cpuid_bit(7, 0, 3, 24) && may_use_tiles();
  f.amx_int8 = tiles && cpuid_bit(7, 0, 3, 25);
  f.amx_bf16 = tiles && cpuid_bit(7, 0, 3, 22);
  return f;
}
#elif defined(__aarch64__) && defined(__linux__)
[[nodiscard]] inline cpu_features find_features() {
  cpu_features f;
  f.dotprod = (getauxval(AT_HWCAP) >> 20 & 1U) != 0;
  f.i8mm = (getauxval(AT_HWCAP2) >> 13 & 1U) != 0;
  return f;
}
#else
[[nodiscard]] inline cpu_features find_features() { return {}; }
#endif

}  // namespace detail

/// What this processor has, found at the first call.
[[nodiscard]] inline const cpu_features& features() {
  static const cpu_features found = detail::find_features();
  return found;
}

/// Whether this processor (and its operating system) can run `level`.
[[nodiscard]] inline bool supports(isa level) {
  const cpu_features& f = features();
  const bool avx2 = f.avx2 && f.fma && f.f16c, avx512 = avx2 && f.avx512;
  switch (level) {
    case isa::portable: return true;
    case isa::avx2: return avx2;
    case isa::avx_vnni: return avx2 && f.avx_vnni;
    case isa::avx512: return avx512;
    case isa::avx512_vnni: return avx512 && f.avx512_vnni;
    case isa::avx512_bf16: return avx512 && f.avx512_vnni && f.avx512_bf16;
    case isa::amx: return avx512 && f.avx512_vnni && f.avx512_bf16 && f.amx_bf16;
    case isa::neon_dotprod: return f.dotprod;
    case isa::neon_i8mm: return f.dotprod && f.i8mm;
  }
  return false;
}

/// The highest level that the processor has.
[[nodiscard]] inline isa best_isa() {
  isa best = isa::portable;
  for (const isa level : all_isas)
    if (supports(level)) best = level;
  return best;
}

/// What BLOCKATTN_ISA says; empty: nothing.
[[nodiscard]] inline std::string_view forced_isa() {
  const char* forced = std::getenv("BLOCKATTN_ISA");
  return forced == nullptr ? std::string_view() : forced;
}

/// The level in use: BLOCKATTN_ISA if set, else the best. Throws argument_error for an unknown level or one that the processor lacks.
[[nodiscard]] inline isa chosen_isa() {
  const std::string_view forced = forced_isa();
  if (forced.empty()) return best_isa();
  for (const isa level : all_isas) {
    if (name(level) != forced) continue;
    if (supports(level)) return level;
    throw argument_error(cat("[cpu] BLOCKATTN_ISA=", forced, ": this processor lacks it; the highest that it has is ", name(best_isa())));
  }
  auto allowed = cat(name(isa::portable));
  for (const isa level : all_isas)
    if (level != isa::portable) allowed = cat(allowed, ", ", name(level));
  throw argument_error(cat("[cpu] BLOCKATTN_ISA=", forced, ": unknown; allowed: ", allowed));
}

}  // namespace blockattn::inline v0
