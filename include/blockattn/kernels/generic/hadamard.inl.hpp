// The Hadamard transform of 64 values, orthonormal and its own inverse: six rounds of sums and differences. Included inside the namespace of each level.

/// Lanes l and l ^ H exchanged.
template <int H, int... L>
BLOCKATTN_INLINE vf exchange_lanes(vf x, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(x, x, (L ^ H)...);
}

/// -1 in the lanes whose number has the bit H, 1 in the others.
template <int H, int... L>
BLOCKATTN_INLINE vf lane_signs(std::integer_sequence<int, L...>) {
  return vf{((L & H) != 0 ? -1.0f : 1.0f)...};
}

/// The rounds inside of vectors, from H on.
template <int H>
BLOCKATTN_INLINE void mix_lanes(vf (&x)[64 / lanes]) {
  if constexpr (H < lanes) {
    constexpr std::make_integer_sequence<int, lanes> all{};
#pragma GCC unroll 16
    for (int i = 0; i < 64 / lanes; ++i) x[i] = exchange_lanes<H>(x[i], all) + x[i] * lane_signs<H>(all);
    mix_lanes<2 * H>(x);
  }
}

/// x [64], in place.
inline void hadamard_64(float* x) {
  vf v[64 / lanes];
#pragma GCC unroll 16
  for (int i = 0; i < 64 / lanes; ++i) v[i] = load(x + i * lanes) * splat(0.125f);
#pragma GCC unroll 4
  for (int h = 1; h < 64 / lanes; h *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < 64 / lanes; ++i) {
      if ((i & h) != 0) continue;
      const vf a = v[i];
      v[i] = a + v[i + h];
      v[i + h] = a - v[i + h];
    }
  mix_lanes<1>(v);
#pragma GCC unroll 16
  for (int i = 0; i < 64 / lanes; ++i) store(x + i * lanes, v[i]);
}

/// Every 64 channels of a row, in place.
inline void hadamard_row(float* x, index_t channels) {
  for (index_t d = 0; d < channels; d += 64) hadamard_64(x + d);
}

/// Three rounds over 8 vectors of lanes `step` floats apart.
BLOCKATTN_INLINE void mix_lines(float* x, index_t step, float scale) {
  vf v[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) v[i] = load(x + i * step) * splat(scale);
#pragma GCC unroll 3
  for (int h = 1; h < 8; h *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      if ((i & h) != 0) continue;
      const vf a = v[i];
      v[i] = a + v[i + h];
      v[i + h] = a - v[i + h];
    }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) store(x + i * step, v[i]);
}

/// Every 64 channels of `lanes` rows side by side, in place: channel d of them is the vector at x + d * panel_width.
inline void hadamard_lines(float* x, index_t channels) {
  for (index_t d = 0; d < channels; d += 64, x += 64 * panel_width) {
    for (index_t i = 0; i < 8; ++i) mix_lines(x + i * panel_width, 8 * panel_width, 0.125f);
    for (index_t i = 0; i < 8; ++i) mix_lines(x + 8 * i * panel_width, panel_width, 1);
  }
}
