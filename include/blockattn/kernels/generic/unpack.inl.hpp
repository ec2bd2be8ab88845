// From stored weights to float32 and to panels. Included inside the namespace of each level.

BLOCKATTN_INLINE vf load_bf16(const std::uint16_t* p) { return reinterpret_cast<vf>(widen_halves(p) << 16); }

/// One block of 32 quantised values -> float32.
BLOCKATTN_INLINE void unpack_nibbles(const std::byte* bytes, float d, float m, float* out) {
  const auto* quants = reinterpret_cast<const std::uint8_t*>(bytes);
  for (int i = 0; i < 16; i += lanes) {
    const vub raw = load_as<vub>(quants + i);
    const vf low = widen_bytes(raw & 15);
    const vf high = widen_bytes(raw >> 4);
    store(out + i, low * splat(d) + splat(m));
    store(out + 16 + i, high * splat(d) + splat(m));
  }
}

BLOCKATTN_INLINE float read_half(const std::byte* p) {
  std::uint16_t bits;
  __builtin_memcpy(&bits, p, 2);
  return half_to_f32(bits);
}

BLOCKATTN_INLINE void unpack_q8(const std::byte* block, float* out) {
  const float d = read_half(block);
  for (int i = 0; i < 32; i += lanes) store(out + i, widen_signed(block + 2 + i) * splat(d));
}

/// Values [begin, begin + 32) of a row; begin is a multiple of 32. For float types the row must hold them all. Types without a loop of their own
/// take the reference decoder.
inline void unpack_32(dtype type, const std::byte* row, index_t begin, float* out) {
  const std::byte* block = row + row_bytes(type, begin);
  switch (type) {
    case dtype::q4_0: {
      const float d = read_half(block);
      unpack_nibbles(block + 2, d, -8.0f * d, out);
      return;
    }
    case dtype::q4_1: return unpack_nibbles(block + 4, read_half(block), read_half(block + 2), out);
    case dtype::q8_0: return unpack_q8(block, out);
    case dtype::f32: __builtin_memcpy(out, block, 32 * sizeof(float)); return;
    case dtype::f16:
      for (int i = 0; i < 32; i += lanes) store(out + i, load_f16(reinterpret_cast<const std::uint16_t*>(block) + i));
      return;
    case dtype::bf16:
      for (int i = 0; i < 32; i += lanes) store(out + i, load_bf16(reinterpret_cast<const std::uint16_t*>(block) + i));
      return;
    default: decode_group(type, block, begin % block_values(type) / 32, out); return;
  }
}

/// The last columns % 32 values of a row of a float type.
inline void unpack_rest(dtype type, const std::byte* row, index_t begin, index_t count, float* out) {
  const std::byte* from = row + row_bytes(type, begin);
  for (index_t i = 0; i < count; ++i) {
    if (type == dtype::f32) {
      __builtin_memcpy(out + i, from + 4 * i, 4);
      continue;
    }
    std::uint16_t bits;
    __builtin_memcpy(&bits, from + 2 * i, 2);
    out[i] = type == dtype::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
}

/// Values [begin, begin + 32) of a row, zeros after its end.
BLOCKATTN_INLINE void unpack_32_or_less(const weight_view& w, const std::byte* row, index_t begin, float* out) {
  const index_t count = w.columns - begin;
  if (count >= 32) return unpack_32(w.type, row, begin, out);
  __builtin_memset(out, 0, 32 * sizeof(float));
  unpack_rest(w.type, row, begin, count, out);
}

inline void unpack_row(const weight_view& w, index_t r, float* out) {
  const std::byte* row = w.row(r);
  index_t k = 0;
  for (; k + 32 <= w.columns; k += 32) unpack_32(w.type, row, k, out + k);
  if (k < w.columns) unpack_rest(w.type, row, k, w.columns - k, out + k);
}

inline constexpr index_t panel_width = 2 * lanes;

/// lanes x lanes 4-byte values, transposed: log2(lanes) rounds of interleaving the first half of the rows with the
/// second.
BLOCKATTN_INLINE void transpose(vi (&rows)[lanes]) {
#pragma GCC unroll 4
  for (int round = 1; round < lanes; round *= 2) {
    vi next[lanes];
#pragma GCC unroll 8
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + lanes / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + lanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

/// A panel is [units, panel_width] of 4-byte units: one float32 (f32), or two bfloat16 of neighbouring columns (bf16).
template <bool Bf16>
inline void unpack_panel_as(const weight_view& w, index_t first, index_t count, std::uint32_t* panel) {
  const index_t units = Bf16 ? (w.columns + 1) / 2 : w.columns;
  constexpr index_t step = Bf16 ? 16 : 32;  // units of 32 columns
  alignas(64) float values[32];
  alignas(64) std::uint32_t packed[panel_width * step];  // [rows, units] of 32 columns
  __builtin_memset(packed, 0, sizeof(packed));
  for (index_t k = 0, u = 0; k < w.columns; k += 32, u += step) {
    for (index_t n = 0; n < count; ++n) {
      unpack_32_or_less(w, w.row(first + n), k, values);
      std::uint32_t* to = packed + n * step;
      if constexpr (Bf16) {
        for (int i = 0; i < 32; i += lanes) store_bf16(reinterpret_cast<std::uint16_t*>(to) + i, load(values + i));
      } else {
        __builtin_memcpy(to, values, sizeof(values));
      }
    }
    const index_t last = units - u < step ? units - u : step;
    for (index_t n = 0; n < panel_width; n += lanes)
      for (index_t i = 0; i < last; i += lanes) {
        vi rows[lanes];
#pragma GCC unroll 16
        for (int r = 0; r < lanes; ++r) rows[r] = load_as<vi>(packed + (n + r) * step + i);
        transpose(rows);
        const index_t kept = last - i < lanes ? last - i : lanes;
        for (index_t r = 0; r < kept; ++r) store_as(panel + (u + i + r) * panel_width + n, rows[r]);
      }
  }
}

inline void unpack_panel(arithmetic a, const weight_view& w, index_t first, index_t count, std::byte* panel) {
  if (has_bf16 && a == arithmetic::fast)
    return unpack_panel_as<true>(w, first, count, reinterpret_cast<std::uint32_t*>(panel));
  unpack_panel_as<false>(w, first, count, reinterpret_cast<std::uint32_t*>(panel));
}

inline index_t packed_bytes(arithmetic a, index_t columns) {
  return has_bf16 && a == arithmetic::fast ? (columns + 1) / 2 * 4 : columns * 4;
}
inline index_t panel_bytes(arithmetic a, index_t columns) { return packed_bytes(a, columns) * panel_width; }

inline void pack(arithmetic a, const float* x, index_t tokens, index_t columns, std::byte* packed) {
  const index_t bytes = packed_bytes(a, columns);
  for (index_t t = 0; t < tokens; ++t, x += columns, packed += bytes) {
    if (!has_bf16 || a != arithmetic::fast) {
      __builtin_memcpy(packed, x, static_cast<std::size_t>(bytes));
      continue;
    }
    auto* out = reinterpret_cast<std::uint16_t*>(packed);
    index_t k = 0;
    for (; k + lanes <= columns; k += lanes) store_bf16(out + k, load(x + k));
    for (; k < columns; ++k) out[k] = f32_to_bf16(x[k]);
    if (columns % 2 != 0) out[columns] = 0;
  }
}
