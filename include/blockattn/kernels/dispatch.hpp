// Chooses the kernels once, by the processor. See cpu.hpp for the levels and how to force one.
#pragma once

#include "blockattn/core/parts.hpp"
#include "blockattn/kernels/agreement.hpp"
#include "blockattn/kernels/cpu.hpp"
#include "blockattn/kernels/kernel_table.hpp"
#if BLOCKATTN_HAS_KERNELS
#include "blockattn/kernels/levels.hpp"
#endif

namespace blockattn::inline v0 {

/// The kernels of `level`, whether the processor has it or not (calling them without is undefined).
[[nodiscard]] BLOCKATTN_PART const kernel_table& kernels_of(isa level);
#if BLOCKATTN_HAS_KERNELS
BLOCKATTN_PART const kernel_table& kernels_of(isa level) { return detail::header_kernels(level); }
#endif

namespace detail {

/// To be called once. `level`, or the one below where it is AMX, not forced, and its products aren't those of the one below: few machines have it, so it has to show that it works.
[[nodiscard]] inline const kernel_table& checked_kernels(isa level, bool forced) {
  if (level != isa::amx || forced) return kernels_of(level);
  static check_memory memory;
  const bool agree = products_agree(kernels_of(isa::amx), kernels_of(isa::avx512_bf16), memory);
  return kernels_of(agree ? isa::amx : isa::avx512_bf16);
}

}  // namespace detail

/// The kernels in use, chosen at the first call. Throws argument_error if BLOCKATTN_ISA names none that works here.
[[nodiscard]] inline const kernel_table& kernels() {
  static const kernel_table& chosen = detail::checked_kernels(chosen_isa(), !forced_isa().empty());
  return chosen;
}

}  // namespace blockattn::inline v0
