// Chooses the kernels once, by the processor. See cpu.hpp for the levels and how to force one.
#pragma once

#include "blockattn/kernels/cpu.hpp"
#include "blockattn/kernels/isa/portable.hpp"
#include "blockattn/kernels/kernel_table.hpp"
#if defined(__x86_64__)
#include "blockattn/kernels/isa/avx2.hpp"
#include "blockattn/kernels/isa/avx512.hpp"
#include "blockattn/kernels/isa/amx.hpp"
#include "blockattn/kernels/isa/avx512_bf16.hpp"
#include "blockattn/kernels/isa/avx512_vnni.hpp"
#include "blockattn/kernels/isa/avx_vnni.hpp"
#elif defined(__aarch64__)
#include "blockattn/kernels/isa/neon_dotprod.hpp"
#include "blockattn/kernels/isa/neon_i8mm.hpp"
#endif

namespace blockattn::inline v0 {

/// The kernels of `level`, whether the processor has it or not (calling them without is undefined).
[[nodiscard]] inline const kernel_table& kernels_of(isa level) {
  switch (level) {
#if defined(__x86_64__)
    case isa::avx2: return detail::avx2::table;
    case isa::avx_vnni: return detail::avx_vnni::table;
    case isa::avx512: return detail::avx512::table;
    case isa::avx512_vnni: return detail::avx512_vnni::table;
    case isa::avx512_bf16: return detail::avx512_bf16::table;
    case isa::amx: return detail::amx::table;
#endif
#if defined(__aarch64__)
    case isa::neon_dotprod: return detail::neon_dotprod::table;
    case isa::neon_i8mm: return detail::neon_i8mm::table;
#endif
    default: return detail::portable::table;
  }
}

/// The kernels in use, chosen at the first call. Throws argument_error if BLOCKATTN_ISA names none that works here.
[[nodiscard]] inline const kernel_table& kernels() {
  static const kernel_table& chosen = kernels_of(chosen_isa());
  return chosen;
}

}  // namespace blockattn::inline v0
