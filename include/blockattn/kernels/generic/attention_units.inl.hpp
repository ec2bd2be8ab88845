// From stored queries, keys and values to the units that attention multiplies. Included inside the namespace of each level.
//
// f32: a unit is one float32. i16 (the fast arithmetic of levels with 8 lanes and more): a unit is a pair of 16-bit integers whose products are summed exactly
// in 32 bits, so no sum may pass 2^31:
//   queries  integers up to query_limit(Dh) under a scale a row. The scale bounds every pair of channels by its length, which no rotation changes
//   keys     up to key_limit under a scale a token
//   values   up to value_limit under a power of two a token, which becomes part of the weight: log2 of it is added to the score, so that
//            weights times values needs no other scale, and a token's bits don't depend on its neighbours
//   weights  up to 2^13, relative to the largest of the row in the tile at hand
// Keys keep 11 bits under the largest channel. That matters: models with biases on their keys (Qwen2) have channels some hundred times larger than others, where
// bfloat16 products, or 8-bit integers, cost measurable accuracy.

inline constexpr float key_limit = 2047;
inline constexpr float value_limit = 4095;  // 2^13 * 4095 * key_tile < 2^31
inline constexpr int weight_bits = 13;

BLOCKATTN_INLINE float query_limit(index_t head_dim) {
  const float most = 2147000000.0f / (key_limit * static_cast<float>(head_dim)) - 1;
  return most < 32000 ? most : 32000;
}

/// Two vectors of integers as one of pairs, `even` in the low halves.
BLOCKATTN_INLINE vu pair_up(vi even, vi odd) { return (reinterpret_cast<vu>(even) & 0xffffU) | (reinterpret_cast<vu>(odd) << 16); }

/// Gathers the rows [Dh][panel_width], scaled; rows past the end are zero.
template <product P>
inline void gather_rows(const attention_args& a, index_t first, float* rows, float* row_scale) {
  const float scale = a.soft_cap > 0 ? a.scale : a.scale * log2_e;
  const bool halves = a.pairing == rope_pairing::halves;
  const index_t half = (a.rotated > 0 ? a.rotated : a.head_dim) / 2;
  for (index_t lane = 0; lane < panel_width; ++lane) {
    const index_t r = first + lane;
    row_scale[lane] = 1;
    if (r >= a.row_end) {
      for (index_t d = 0; d < a.head_dim; ++d) rows[d * panel_width + lane] = 0;
      continue;
    }
    const float* q = a.queries + r / a.group * a.query_stride + (a.kv_head * a.group + r % a.group) * a.head_dim;
    float factor = scale;
    if constexpr (P == product::i16) {
      float most = 1e-30f;
      for (index_t i = 0; i < a.head_dim / 2; ++i) {
        const float x = q[halves && i < half ? i : 2 * i];
        const float y = q[halves && i < half ? i + half : 2 * i + 1];
        const float square = x * x + y * y;
        most = square > most ? square : most;
      }
      factor = query_limit(a.head_dim) / std::sqrt(most);
      row_scale[lane] = scale / factor;
    }
    for (index_t d = 0; d < a.head_dim; ++d) rows[d * panel_width + lane] = q[d] * factor;
  }
}

/// Channels `low` and `high` of a vector of rows, turned by minus the segment's offset.
BLOCKATTN_INLINE void turn_pair(const float* rows, index_t low, index_t high, float cosine, float sine, vf& u, vf& v) {
  const vf x = load(rows + low * panel_width);
  const vf y = load(rows + high * panel_width);
  u = multiply_add(x, splat(cosine), y * splat(sine));
  v = multiply_add(y, splat(cosine), -(x * splat(sine)));
}

/// A vector of rows, all of whose channels are turned one by one.
inline void turn_rows(const attention_args& a, const attention_segment& s, const float* rows, float* turned) {
  const bool halves = a.pairing == rope_pairing::halves;
  const index_t half = (a.rotated > 0 ? a.rotated : a.head_dim) / 2;
  for (index_t i = 0; i < a.head_dim / 2; ++i) {
    const bool turn = s.cosine != nullptr && i < half;
    const index_t low = halves && i < half ? i : 2 * i;
    const index_t high = halves && i < half ? i + half : 2 * i + 1;
    vf u, v;
    turn_pair(rows, low, high, turn ? s.cosine[i] : 1.0f, turn ? s.sine[i] : 0.0f, u, v);
    store(turned + low * panel_width, u);
    store(turned + high * panel_width, v);
  }
}

BLOCKATTN_INLINE void pack_rows(const float* rows, index_t first, index_t last, std::uint32_t* units) {
  for (index_t i = first; i < last; ++i)
    store_as(units + i * panel_width, pair_up(to_nearest(load(rows + 2 * i * panel_width)), to_nearest(load(rows + (2 * i + 1) * panel_width))));
}

/// turn_rows() and pack_rows() in one, where the pairs of channels that are turned fill whole units.
inline void turn_and_pack(const attention_args& a, const attention_segment& s, const float* rows, std::uint32_t* units) {
  const index_t half = (a.rotated > 0 ? a.rotated : a.head_dim) / 2;
  vf u[2], v[2];
  if (a.pairing == rope_pairing::adjacent) {
    for (index_t i = 0; i < half; ++i) {
      turn_pair(rows, 2 * i, 2 * i + 1, s.cosine[i], s.sine[i], u[0], v[0]);
      store_as(units + i * panel_width, pair_up(to_nearest(u[0]), to_nearest(v[0])));
    }
  } else {
    for (index_t i = 0; i < half; i += 2) {
      turn_pair(rows, i, i + half, s.cosine[i], s.sine[i], u[0], v[0]);
      turn_pair(rows, i + 1, i + 1 + half, s.cosine[i + 1], s.sine[i + 1], u[1], v[1]);
      store_as(units + i / 2 * panel_width, pair_up(to_nearest(u[0]), to_nearest(u[1])));
      store_as(units + (i + half) / 2 * panel_width, pair_up(to_nearest(v[0]), to_nearest(v[1])));
    }
  }
  pack_rows(rows, half, a.head_dim / 2, units);
}

/// rows -> units for keys that are stored as their transforms: rotated by minus the segment's offset, then transformed. A transform may be larger than its row, so
/// these units have scales of their own.
template <product P>
inline void transform_rows(const attention_args& a, const attention_segment& s, const float* rows, const float* row_scale, std::uint32_t* units, float* scale) {
  alignas(64) float turned[P == product::i16 ? max_head_dim * panel_width : 1];
  for (index_t lane = 0; lane < panel_width; lane += lanes) {
    float* to = (P == product::i16 ? turned : reinterpret_cast<float*>(units)) + lane;
    turn_rows(a, s, rows + lane, to);
    hadamard_lines(to, a.head_dim);
    if constexpr (P == product::i16) {
      vf most = splat(1e-30f);
      for (index_t d = 0; d < a.head_dim; ++d) most = larger(absolute(load(to + d * panel_width)), most);
      const vf factor = splat(query_limit(a.head_dim)) / most;
      for (index_t d = 0; d < a.head_dim; ++d) store(to + d * panel_width, load(to + d * panel_width) * factor);
      store(scale + lane, load(row_scale + lane) / factor);
      pack_rows(to, 0, a.head_dim / 2, units + lane);
    }
  }
}

/// rows -> units, rotated by minus the segment's offset.
template <product P>
inline void rotate_rows(const attention_args& a, const attention_segment& s, const float* rows, std::uint32_t* units) {
  const bool whole = (a.rotated > 0 ? a.rotated : a.head_dim) % 4 == 0;
  alignas(64) float turned[P == product::i16 ? max_head_dim * panel_width : 1];
  for (index_t lane = 0; lane < panel_width; lane += lanes) {
    if constexpr (P == product::f32) {
      turn_rows(a, s, rows + lane, reinterpret_cast<float*>(units) + lane);
    } else if (s.cosine == nullptr) {
      pack_rows(rows + lane, 0, a.head_dim / 2, units + lane);
    } else if (whole) {
      turn_and_pack(a, s, rows + lane, units + lane);
    } else {
      turn_rows(a, s, rows + lane, turned + lane);
      pack_rows(turned + lane, 0, a.head_dim / 2, units + lane);
    }
  }
}

/// Up to `lanes` rows in storage -> float32 [lanes][Dh], and the largest magnitude of each.
template <dtype Type>
inline void widen_few(const std::byte* from, index_t n, index_t head_dim, float* out, float* magnitude) {
  const index_t bytes = row_bytes(Type, head_dim);
  vi top[lanes] = {};
  for (index_t t = 0; t < n; ++t) {
    widen_row<Type>(from + t * bytes, head_dim, out + t * head_dim);
    vf most = splat(0);
    for (index_t d = 0; d < head_dim; d += lanes) most = larger(absolute(load(out + t * head_dim + d)), most);
    top[t] = reinterpret_cast<vi>(most);
  }
  transpose(top);
  vf most = reinterpret_cast<vf>(top[0]);
#pragma GCC unroll 16
  for (int i = 1; i < lanes; ++i) most = larger(most, reinterpret_cast<vf>(top[i]));
  store(magnitude, most);
}

/// n keys -> [n][Dh] 16-bit integers and a scale for each.
template <dtype Type>
inline void narrow_keys(const std::byte* from, index_t n, index_t head_dim, std::byte* out, float* scale) {
  alignas(64) float wide[lanes * max_head_dim];
  alignas(64) float magnitude[lanes];
  const index_t bytes = row_bytes(Type, head_dim);
  for (index_t first = 0; first < n; first += lanes) {
    const index_t count = n - first < lanes ? n - first : lanes;
    widen_few<Type>(from + first * bytes, count, head_dim, wide, magnitude);
    for (index_t t = 0; t < count; ++t, out += 2 * head_dim) {
      const float most = magnitude[t];
      const vf factor = splat(most > 1e-30f ? key_limit / most : 0);
      scale[first + t] = most > 1e-30f ? most * (1 / key_limit) : 0;
      for (index_t d = 0; d < head_dim; d += lanes)
        store_as(out + 2 * d, __builtin_convertvector(reinterpret_cast<vu>(to_nearest(load(wide + t * head_dim + d) * factor)), vh));
    }
  }
}

/// n rows -> [n][Dh] float32.
template <dtype Type>
inline void widen_rows(const std::byte* from, index_t n, index_t head_dim, std::byte* out) {
  const index_t bytes = row_bytes(Type, head_dim);
  for (index_t t = 0; t < n; ++t) widen_row<Type>(from + t * bytes, head_dim, reinterpret_cast<float*>(out) + t * head_dim);
}

/// A power of two that is no less than `magnitude`, as far as that lies within [2^-24, 2^60]: its logarithm.
BLOCKATTN_INLINE int value_exponent(float magnitude) {
  const int exponent = static_cast<int>((std::bit_cast<std::uint32_t>(magnitude) >> 23) & 255U) - 126;
  return exponent < -24 ? -24 : (exponent > 60 ? 60 : exponent);
}

BLOCKATTN_INLINE float exact_power(int exponent) { return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23); }

/// Two rows of values (the second one perhaps missing) under their scales -> one row of pairs.
BLOCKATTN_INLINE void narrow_pair(const float* first, const float* second, float first_factor, float second_factor, index_t head_dim, std::byte* out) {
  for (index_t d = 0; d < head_dim; d += lanes) {
    const vi high = second != nullptr ? to_nearest(load(second + d) * splat(second_factor)) : vi{};
    store_as(out + 4 * d, pair_up(to_nearest(load(first + d) * splat(first_factor)), high));
  }
}

/// n values -> [pairs of tokens][Dh] of 16-bit integers, and the scale of each token.
template <dtype Type>
inline void narrow_values(const std::byte* from, index_t n, index_t head_dim, const attention_scratch& x) {
  alignas(64) float wide[lanes * max_head_dim];
  alignas(64) float magnitude[lanes];
  float factor[lanes];
  const index_t bytes = row_bytes(Type, head_dim);
  for (index_t first = 0; first < n; first += lanes) {
    const index_t count = n - first < lanes ? n - first : lanes;
    widen_few<Type>(from + first * bytes, count, head_dim, wide, magnitude);
    for (index_t t = 0; t < count; ++t) {
      const int exponent = value_exponent(magnitude[t]);
      x.value_shift[first + t] = static_cast<float>(exponent);
      x.value_inverse[first + t] = exact_power(-exponent);
      factor[t] = value_limit * exact_power(-exponent);
    }
    for (index_t t = 0; t < count; t += 2) {
      const bool two = t + 1 < count;
      narrow_pair(wide + t * head_dim, two ? wide + (t + 1) * head_dim : nullptr, factor[t], two ? factor[t + 1] : 0, head_dim,
                  x.values + (first + t) * 2 * head_dim);
    }
  }
}

template <product P, dtype Type>
inline void unpack_keys(const std::byte* from, index_t n, index_t head_dim, const attention_scratch& x) {
  if constexpr (P == product::i16)
    narrow_keys<Type>(from, n, head_dim, x.keys, x.key_scale);
  else
    widen_rows<Type>(from, n, head_dim, x.keys);
}

template <product P, dtype Type>
inline void unpack_values(const std::byte* from, index_t n, index_t head_dim, const attention_scratch& x) {
  if constexpr (P == product::i16)
    narrow_values<Type>(from, n, head_dim, x);
  else
    widen_rows<Type>(from, n, head_dim, x.values);
}

/// Keys of one tile as [n][Dh units]; returned where they lie if they are stored so.
template <product P>
inline const std::byte* tile_keys(const attention_args& a, const attention_segment& s, index_t first, index_t n, const attention_scratch& x) {
  const std::byte* from = s.keys + first * row_bytes(s.key_type, a.head_dim);
  switch (s.key_type) {
    case dtype::f32:
      if (P == product::f32) return from;
      unpack_keys<P, dtype::f32>(from, n, a.head_dim, x);
      break;
    case dtype::f16: unpack_keys<P, dtype::f16>(from, n, a.head_dim, x); break;
    case dtype::bf16: unpack_keys<P, dtype::bf16>(from, n, a.head_dim, x); break;
    case dtype::q8_0: unpack_keys<P, dtype::q8_0>(from, n, a.head_dim, x); break;
    case dtype::q5_h: unpack_keys<P, dtype::q5_h>(from, n, a.head_dim, x); break;
    case dtype::q4_h: unpack_keys<P, dtype::q4_h>(from, n, a.head_dim, x); break;
    default: unpack_keys<P, dtype::q4_0>(from, n, a.head_dim, x); break;
  }
  return x.keys;
}

/// Values of one tile as [units][Dh]: a unit is one value, or the values of two neighbouring tokens.
template <product P>
inline const std::byte* tile_values(const attention_args& a, const attention_segment& s, index_t first, index_t n, const attention_scratch& x) {
  const std::byte* from = s.values + first * row_bytes(s.value_type, a.head_dim);
  switch (s.value_type) {
    case dtype::f32:
      if (P == product::f32) return from;
      unpack_values<P, dtype::f32>(from, n, a.head_dim, x);
      break;
    case dtype::f16: unpack_values<P, dtype::f16>(from, n, a.head_dim, x); break;
    case dtype::bf16: unpack_values<P, dtype::bf16>(from, n, a.head_dim, x); break;
    case dtype::q8_0: unpack_values<P, dtype::q8_0>(from, n, a.head_dim, x); break;
    case dtype::q5_h: unpack_values<P, dtype::q5_h>(from, n, a.head_dim, x); break;
    case dtype::q4_h: unpack_values<P, dtype::q4_h>(from, n, a.head_dim, x); break;
    default: unpack_values<P, dtype::q4_0>(from, n, a.head_dim, x); break;
  }
  return x.values;
}
