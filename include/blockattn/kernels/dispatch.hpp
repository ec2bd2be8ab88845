// Chooses the kernels once, by the processor. See cpu.hpp for the levels and how to force one.
#pragma once

#include "blockattn/core/parts.hpp"
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

/// The kernels in use, chosen at the first call. Throws argument_error if BLOCKATTN_ISA names none that works here.
[[nodiscard]] inline const kernel_table& kernels() {
  static const kernel_table& chosen = kernels_of(chosen_isa());
  return chosen;
}

}  // namespace blockattn::inline v0
