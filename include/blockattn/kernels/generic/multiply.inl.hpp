// The one inner product of the engine, and matrix products made of it. Included inside the namespace of each level.
//
// multiply_tile computes C[m, 0..panel_width) = sum over u of A(m, u) * B[u, 0..panel_width), where a unit is 4 bytes: one float32 or a pair
// of bfloat16. Weights, queries and probabilities are B (a panel, `panel_width` rows interleaved); activations, keys and values are A, one unit
// broadcast at a time, read where they lie.

template <bool Bf16>
BLOCKATTN_INLINE vf multiply_unit(std::uint32_t a, vi b, vf c) {
  if constexpr (Bf16)
    return multiply_add_bf16(splat_bits(a), b, c);
  else
    return multiply_add(splat(std::bit_cast<float>(a)), reinterpret_cast<vf>(b), c);
}

BLOCKATTN_INLINE std::uint32_t read_unit(const std::byte* p) {
  std::uint32_t unit;
  __builtin_memcpy(&unit, p, 4);
  return unit;
}

/// A(m, u) lies at a + m * row + u * step bytes; C has `stride` floats a row and is added to if Accumulate.
template <int Rows, bool Bf16, bool Accumulate>
inline void multiply_tile(const std::byte* a, index_t row, index_t step, const std::uint32_t* b, index_t units, float* c, index_t stride) {
  vf sum[Rows][2];
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) {
    sum[m][0] = Accumulate ? load(c + m * stride) : splat(0);
    sum[m][1] = Accumulate ? load(c + m * stride + lanes) : splat(0);
  }
  for (index_t u = 0; u < units; ++u, b += panel_width, a += step) {
    const vi b0 = load_as<vi>(b);
    const vi b1 = load_as<vi>(b + lanes);
#pragma GCC unroll 16
    for (int m = 0; m < Rows; ++m) {
      const std::uint32_t unit = read_unit(a + m * row);
      sum[m][0] = multiply_unit<Bf16>(unit, b0, sum[m][0]);
      sum[m][1] = multiply_unit<Bf16>(unit, b1, sum[m][1]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) {
    store(c + m * stride, sum[m][0]);
    store(c + m * stride + lanes, sum[m][1]);
  }
}

/// Any number of rows. Each row's sum runs over the units in order, so the split into tiles doesn't change its bits.
template <bool Bf16, bool Accumulate>
inline void multiply_rows(const std::byte* a, index_t row, index_t step, index_t rows, const std::uint32_t* b, index_t units, float* c,
                          index_t stride) {
  index_t m = 0;
  for (; m + tile_rows <= rows; m += tile_rows)
    multiply_tile<tile_rows, Bf16, Accumulate>(a + m * row, row, step, b, units, c + m * stride, stride);
  for (; m + 4 <= rows; m += 4) multiply_tile<4, Bf16, Accumulate>(a + m * row, row, step, b, units, c + m * stride, stride);
  for (; m < rows; ++m) multiply_tile<1, Bf16, Accumulate>(a + m * row, row, step, b, units, c + m * stride, stride);
}

template <bool Bf16, bool Add>
inline void multiply_panel_as(const std::byte* packed, index_t tokens, index_t columns, const std::uint32_t* panel, index_t count, float* y,
                              index_t stride) {
  const index_t units = Bf16 ? (columns + 1) / 2 : columns;
  if (count == panel_width) return multiply_rows<Bf16, Add>(packed, units * 4, 4, tokens, panel, units, y, stride);
  alignas(64) float tile[tile_rows * panel_width];
  for (index_t t = 0; t < tokens; t += tile_rows) {
    const index_t rows = tokens - t < tile_rows ? tokens - t : tile_rows;
    for (index_t m = 0; Add && m < rows; ++m) {
      __builtin_memset(tile + m * panel_width, 0, sizeof(float) * panel_width);
      __builtin_memcpy(tile + m * panel_width, y + (t + m) * stride, static_cast<std::size_t>(count) * sizeof(float));
    }
    multiply_rows<Bf16, Add>(packed + t * units * 4, units * 4, 4, rows, panel, units, tile, panel_width);
    for (index_t m = 0; m < rows; ++m)
      __builtin_memcpy(y + (t + m) * stride, tile + m * panel_width, static_cast<std::size_t>(count) * sizeof(float));
  }
}

inline void multiply_panel(arithmetic a, const std::byte* packed, index_t tokens, index_t columns, const std::byte* panel, index_t count, float* y,
                           index_t stride, bool add) {
  const auto* units = reinterpret_cast<const std::uint32_t*>(panel);
  const bool bf16 = has_bf16 && a == arithmetic::fast;
  if (bf16 && add) return multiply_panel_as<has_bf16, true>(packed, tokens, columns, units, count, y, stride);
  if (bf16) return multiply_panel_as<has_bf16, false>(packed, tokens, columns, units, count, y, stride);
  if (add) return multiply_panel_as<false, true>(packed, tokens, columns, units, count, y, stride);
  multiply_panel_as<false, false>(packed, tokens, columns, units, count, y, stride);
}

/// sum over 32 values of quants * x, the quants of a nibble block in 0..15.
BLOCKATTN_INLINE vf nibbles_dot(const std::byte* quants, const float* x) {
  vf sum = splat(0);
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += lanes) {
    const vub raw = load_as<vub>(quants + i);
    sum = multiply_add(widen_bytes(raw & 15), load(x + i), sum);
    sum = multiply_add(widen_bytes(raw >> 4), load(x + 16 + i), sum);
  }
  return sum;
}

BLOCKATTN_INLINE vf bytes_dot(const std::byte* quants, const float* x) {
  vf sum = splat(0);
#pragma GCC unroll 8
  for (int i = 0; i < 32; i += lanes) sum = multiply_add(widen_signed(quants + i), load(x + i), sum);
  return sum;
}

template <dtype Type>
inline void quantised_vector(const weight_view& w, index_t first, index_t last, const float* x, const float* sums, float* y) {
  const index_t blocks = w.columns / 32;
  for (index_t n = first; n < last; ++n) {
    const std::byte* block = w.row(n);
    vf sum = splat(0);
    float shift = 0;
    for (index_t b = 0; b < blocks; ++b, block += block_bytes(Type)) {
      const float d = read_half(block);
      if constexpr (Type == dtype::q8_0) {
        sum = multiply_add(splat(d), bytes_dot(block + 2, x + 32 * b), sum);
      } else if constexpr (Type == dtype::q4_0) {
        sum = multiply_add(splat(d), nibbles_dot(block + 2, x + 32 * b), sum);
        shift -= 8.0f * d * sums[b];
      } else {
        sum = multiply_add(splat(d), nibbles_dot(block + 4, x + 32 * b), sum);
        shift += read_half(block + 2) * sums[b];
      }
    }
    y[n] = sum_lanes(sum) + shift;
  }
}

inline void float_vector(const weight_view& w, index_t first, index_t last, const float* x, float* y) {
  for (index_t n = first; n < last; ++n) {
    alignas(64) float values[32];
    vf sum = splat(0);
    const index_t whole = w.columns / 32 * 32;
    for (index_t k = 0; k < whole; k += 32) {
      unpack_32(w.type, w.row(n), k, values);
#pragma GCC unroll 8
      for (int i = 0; i < 32; i += lanes) sum = multiply_add(load(values + i), load(x + k + i), sum);
    }
    float rest = 0;
    unpack_rest(w.type, w.row(n), whole, w.columns - whole, values);
    for (index_t i = 0; i < w.columns - whole; ++i) rest += values[i] * x[whole + i];
    y[n] = sum_lanes(sum) + rest;
  }
}

inline void multiply_vector(const weight_view& w, index_t first, index_t last, const float* x, const float* sums, float* y) {
  switch (w.type) {
    case dtype::q4_0: return quantised_vector<dtype::q4_0>(w, first, last, x, sums, y);
    case dtype::q4_1: return quantised_vector<dtype::q4_1>(w, first, last, x, sums, y);
    case dtype::q8_0: return quantised_vector<dtype::q8_0>(w, first, last, x, sums, y);
    default: return float_vector(w, first, last, x, y);
  }
}
