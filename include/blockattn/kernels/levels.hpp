// Every level's kernels. Long to compile: see core/parts.hpp.
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

namespace blockattn::inline v0::detail {

[[nodiscard]] inline const kernel_table& header_kernels(isa level) {
  switch (level) {
#if defined(__x86_64__)
    case isa::avx2: return avx2::table;
    case isa::avx_vnni: return avx_vnni::table;
    case isa::avx512: return avx512::table;
    case isa::avx512_vnni: return avx512_vnni::table;
    case isa::avx512_bf16: return avx512_bf16::table;
    case isa::amx: return amx::table;
#endif
#if defined(__aarch64__)
    case isa::neon_dotprod: return neon_dotprod::table;
    case isa::neon_i8mm: return neon_i8mm::table;
#endif
    default: return portable::table;
  }
}

}  // namespace blockattn::inline v0::detail
