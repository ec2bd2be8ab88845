// Kernels for AMX: those of avx512_bf16, but for products of panels of bfloat16, which run on tiles of 16 tokens by 16 outputs by 32 columns.
//
// Quantised weights are expanded from their interleaved form to bfloat16 a chunk of columns at a time, so that sums over all columns stay in float32 tiles
// and no scale is applied to them: with int8 tiles each group of 32 columns would leave half of a tile's depth unused and its sums would have to be scaled.
#pragma once

#include "blockattn/kernels/isa/avx512_bf16.hpp"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512bf16,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

namespace blockattn::inline v0::detail::amx {

using namespace avx512_bf16;

/// The operand of LDTILECFG.
struct alignas(64) tile_shapes {
  std::uint8_t palette = 1, start = 0, reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {};
  std::uint8_t rows[16] = {};
};

/// Tiles 0 to 3: sums of two blocks of tokens and two of outputs; 4, 5: tokens; 6, 7: weights.
inline void shape_tiles(int first_rows, int second_rows) {
  tile_shapes shapes;
  for (int i = 0; i < 8; ++i) {
    shapes.bytes_per_row[i] = 64;
    const bool second = i == 2 || i == 3 || i == 5;
    shapes.rows[i] = static_cast<std::uint8_t>(i >= 6 ? 16 : (second ? second_rows : first_rows));
  }
  _tile_loadconfig(&shapes);
}

/// Units of weights that are multiplied with all tokens before the next ones: a panel of them stays in half of a first cache, and tokens stream past it.
inline constexpr index_t tile_units = 192;

/// Brings what tile_product reads of 16 rows into the first cache.
BLOCKATTN_INLINE void fetch_rows(const std::byte* a, index_t row) {
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) __builtin_prefetch(a + r * row);
}

/// 32 tokens (or what the tiles are shaped for) by 32 outputs; units is a multiple of 16. A(m, u) at a + m * row + 4 u bytes.
template <bool Accumulate, bool Two>
inline void tile_product(const std::byte* a, index_t row, const std::uint32_t* b, index_t units, float* c, index_t stride) {
  const index_t line = stride * 4;
  float* second = c + 16 * stride;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (Two) {
    _tile_zero(2);
    _tile_zero(3);
  }
  if constexpr (Accumulate) {
    _tile_loadd(0, c, line);
    _tile_loadd(1, c + 16, line);
    if constexpr (Two) {
      _tile_loadd(2, second, line);
      _tile_loadd(3, second + 16, line);
    }
  }
  constexpr index_t ahead = 32;
  for (index_t u = 0; u < units; u += 16, b += 16 * panel_width) {
    const std::byte* next = a + (u + ahead < units ? 4 * (u + ahead) : 32 * row + 4 * (u + ahead - units));  // of these rows, then of those that follow
    _tile_loadd(6, b, panel_width * 4);
    _tile_loadd(7, b + 16, panel_width * 4);
    _tile_loadd(4, a + 4 * u, row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (Two) {
      fetch_rows(next, row);
      fetch_rows(next + 16 * row, row);
      _tile_loadd(5, a + 16 * row + 4 * u, row);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, line);
  _tile_stored(1, c + 16, line);
  if constexpr (Two) {
    _tile_stored(2, second, line);
    _tile_stored(3, second + 16, line);
  }
}

/// c[m, 0..32) = or += A · panel for any number of rows. Columns that don't fill a tile's depth follow in avx512_bf16's products.
template <bool Accumulate>
inline void tile_rows_product(const std::byte* a, index_t row, index_t rows, const std::uint32_t* b, index_t units, float* c, index_t stride) {
  const index_t whole = units / 16 * 16;
  if (whole == 0) return multiply_rows<true, Accumulate>(a, row, 4, rows, b, units, c, stride);
  index_t m = 0;
  if (rows >= 32) shape_tiles(16, 16);
  for (; m + 32 <= rows; m += 32) tile_product<Accumulate, true>(a + m * row, row, b, whole, c + m * stride, stride);
  const auto left = static_cast<int>(rows - m);
  if (left > 0) shape_tiles(left < 16 ? left : 16, left > 16 ? left - 16 : 16);  // no tile may be without rows
  if (left > 16)
    tile_product<Accumulate, true>(a + m * row, row, b, whole, c + m * stride, stride);
  else if (left > 0)
    tile_product<Accumulate, false>(a + m * row, row, b, whole, c + m * stride, stride);
  _tile_release();
  if (whole < units) multiply_rows<true, true>(a + 4 * whole, row, 4, rows, b + whole * panel_width, units - whole, c, stride);
}

inline void multiply_panel(arithmetic kind, const std::byte* packed, index_t tokens, index_t columns, const std::byte* panel, index_t count, float* y,
                           index_t stride, bool add) {
  if (kind != arithmetic::fast || count < panel_width)
    return avx512_bf16::multiply_panel(kind, packed, tokens, columns, panel, count, y, stride, add);
  const auto* units = reinterpret_cast<const std::uint32_t*>(panel);
  const index_t number = (columns + 1) / 2;
  for (index_t u = 0; u < number; u += tile_units) {
    const index_t some = number - u < tile_units ? number - u : tile_units;
    if (add || u > 0)
      tile_rows_product<true>(packed + 4 * u, number * 4, tokens, units + u * panel_width, some, y, stride);
    else
      tile_rows_product<false>(packed, number * 4, tokens, units, some, y, stride);
  }
}

/// Pairs of neighbouring columns, to bfloat16.
BLOCKATTN_INLINE vi pair_halves(vf even, vf odd) {
  alignas(64) static constexpr std::uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512bh halves = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(odd), reinterpret_cast<__m512>(even));
  return reinterpret_cast<vi>(_mm512_permutexvar_epi16(_mm512_load_si512(order), reinterpret_cast<__m512i>(halves)));
}

/// Expanded bytes of `groups` groups -> a panel of bfloat16 [16 units a group][panel_width].
inline void to_halves(const expanded_chunk& w, index_t groups, int halves, std::uint32_t* panel) {
  for (index_t step = 0; step < 8 * groups; ++step) {
    const index_t at = (step * halves / 8) * panel_width;
    for (index_t r = 0; r < panel_width; r += lanes) {
      const vi u = load_as<vi>(w.units + step * panel_width + r);
      const vf scale = load(w.scales + at + r), minimum = load(w.minima + at + r);
      vf x[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) x[i] = multiply_add(__builtin_convertvector((u >> (8 * i)) & 255, vf), scale, minimum);
      store_as(panel + 2 * step * panel_width + r, pair_halves(x[0], x[1]));
      store_as(panel + (2 * step + 1) * panel_width + r, pair_halves(x[2], x[3]));
    }
  }
}

inline constexpr index_t tile_groups = tile_units / 16;

inline activation_form form_of(dtype type, bool wide, bool few) { return few ? avx512_bf16::form_of(type, wide, few) : activation_form::halves; }
inline index_t quantised_bytes(activation_form form, index_t columns) {
  return form == activation_form::halves ? 2 * columns : avx512_bf16::quantised_bytes(form, columns);
}
inline void quantise(activation_form form, const float* x, index_t tokens, index_t columns, std::byte* out) {
  form == activation_form::halves ? pack(arithmetic::fast, x, tokens, columns, out) : avx512_bf16::quantise(form, x, tokens, columns, out);
}
inline index_t integer_scratch_bytes(index_t tokens) {
  return chunk_bytes(tile_groups) + tile_groups * 16 * panel_width * 4 + avx512_bf16::integer_scratch_bytes(tokens);
}

inline void multiply_interleaved(dtype type, activation_form form, const std::byte* x, index_t tokens, index_t columns, const std::byte* panel, index_t count,
                                 float* y, index_t stride, std::byte* scratch) {
  if (form != activation_form::halves) return avx512_bf16::multiply_interleaved(type, form, x, tokens, columns, panel, count, y, stride, scratch);
  const interleaved_format f = interleaved(type);
  auto* units = reinterpret_cast<std::uint32_t*>(scratch);
  auto* scales = reinterpret_cast<float*>(units + tile_groups * 8 * panel_width);
  const expanded_chunk w{units, scales, scales + 2 * tile_groups * panel_width};
  auto* halves = reinterpret_cast<std::uint32_t*>(scratch + chunk_bytes(tile_groups));
  auto* result = reinterpret_cast<float*>(halves + tile_groups * 16 * panel_width);
  const bool full = count == panel_width;
  float* to = full ? y : result;
  const index_t line = full ? stride : panel_width;
  const index_t whole = columns / 32, chunks = (whole + tile_groups - 1) / tile_groups, even = (whole + chunks - 1) / chunks;
  for (index_t g = 0; g < whole; g += even) {
    const index_t groups = whole - g < even ? whole - g : even;
    expand_chunk<false>(f, panel + g * panel_width * f.row_bytes(), groups, w);
    to_halves(w, groups, f.halves, halves);
    if (g == 0)
      tile_rows_product<false>(x + 64 * g, 2 * columns, tokens, halves, 16 * groups, to, line);
    else
      tile_rows_product<true>(x + 64 * g, 2 * columns, tokens, halves, 16 * groups, to, line);
  }
  for (index_t t = 0; !full && t < tokens; ++t)
    __builtin_memcpy(y + t * stride, result + t * panel_width, static_cast<std::size_t>(count) * sizeof(float));
}

inline constexpr integer_kernels integer_table = {form_of, quantised_bytes, quantise, integer_scratch_bytes, multiply_interleaved};

[[nodiscard]] constexpr kernel_table with_tiles(kernel_table base) {
  base.multiply_panel = multiply_panel;
  return with_integers(base, isa::amx, integer_table);
}

inline constexpr kernel_table table = with_tiles(avx512_bf16::table);

}  // namespace blockattn::inline v0::detail::amx

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
