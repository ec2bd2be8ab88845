// Attention of a few rows (decoding: one token, the heads of one group). Included inside the namespace of each level,
// after attention.inl.hpp.
//
// With so few rows the lanes of attention.inl.hpp would stay empty, so here the lanes are channels: keys and values are
// read once each for up to four rows, in float32; the partial products of `lanes` keys are summed by one transposition.

inline constexpr index_t few_rows = panel_width / 4 > 4 ? panel_width / 4 : 4;
inline constexpr int few_group = 4;

/// Pieces of the caller's scratch for one group of rows.
struct few_scratch {
  float* rows;            // [Rows][Dh] queries, scaled, rotated at their positions
  float* turned;          // [Rows][Dh] rotated back by the segment's offset
  float* sums;            // [Rows][Dh] weighted values so far
  float* scores;          // [Rows][key_tile]
};

BLOCKATTN_INLINE few_scratch split_few_scratch(std::byte* p, index_t head_dim) {
  few_scratch s;
  s.rows = take_scratch<float>(p, few_group * head_dim);
  s.turned = take_scratch<float>(p, few_group * head_dim);
  s.sums = take_scratch<float>(p, few_group * head_dim);
  s.scores = take_scratch<float>(p, few_group * key_tile);
  return s;
}

/// One row turned by minus the segment's offset.
inline void turn_row(const attention_args& a, const attention_segment& s, const float* row, float* turned) {
  if (s.cosine == nullptr) {
    __builtin_memcpy(turned, row, static_cast<std::size_t>(a.head_dim) * sizeof(float));
    return;
  }
  const bool halves = a.pairing == rope_pairing::halves;
  const index_t rotated = a.rotated > 0 ? a.rotated : a.head_dim;
  const index_t half = rotated / 2;
  for (index_t d = rotated; d < a.head_dim; ++d) turned[d] = row[d];
  for (index_t i = 0; i < half; ++i) {
    const index_t low = halves ? i : 2 * i;
    const index_t high = halves ? i + half : 2 * i + 1;
    turned[low] = row[low] * s.cosine[i] + row[high] * s.sine[i];
    turned[high] = row[high] * s.cosine[i] - row[low] * s.sine[i];
  }
}

/// Partial products of one key with each row, still spread over the lanes.
template <int Rows, dtype Type>
BLOCKATTN_INLINE void few_products(const attention_args& a, const std::byte* key, const few_scratch& x, vf (&sum)[Rows]) {
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) sum[r] = splat(0);
  if constexpr (is_float(Type)) {
    for (index_t d = 0; d < a.head_dim; d += lanes) {
      const vf k = load_floats<Type>(key, d);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) sum[r] = multiply_add(k, load(x.turned + r * a.head_dim + d), sum[r]);
    }
    return;
  }
  alignas(16) std::byte room[32];
  for (index_t d = 0; d < a.head_dim; d += 32) {
    const std::byte* quants = block_quants<is_float(Type) ? dtype::q8_0 : Type>(key, d, room);
    vf part[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) part[r] = splat(0);
#pragma GCC unroll 8
    for (index_t i = 0; i < 32; i += lanes) {
      const vf k = widen_signed(quants + i);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) part[r] = multiply_add(k, load(x.turned + r * a.head_dim + d + i), part[r]);
    }
    const vf scale = splat(block_scale<Type>(key, d));
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) sum[r] = multiply_add(part[r], scale, sum[r]);
  }
}

/// The keys of a segment that a row sees: [begin, end).
struct few_range {
  index_t begin, end;
};

/// scores [Rows][key_tile] of keys [first + skip, first + n), in log2, those that a row doesn't see and those outside hidden. Scores of whole vectors before
/// `skip` are left alone.
template <int Rows, dtype Type>
inline void few_scores_as(const attention_args& a, const attention_segment& s, index_t first, index_t skip, index_t n, const few_range (&visible)[Rows],
                          const few_scratch& x) {
  const index_t bytes = row_bytes(Type, a.head_dim);
  for (index_t t = skip / lanes * lanes; t < n; t += lanes) {
    vi partial[Rows][lanes];
    for (int j = 0; j < lanes; ++j) {
      vf sum[Rows];
      const index_t within = t + j < skip ? skip : t + j;  // outside: any key that is seen, hidden below
      const index_t key = within < n ? within : n - 1;
      few_products<Rows, Type>(a, s.keys + (first + key) * bytes, x, sum);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) partial[r][j] = reinterpret_cast<vi>(sum[r]);
    }
    for (int r = 0; r < Rows; ++r) {
      transpose(partial[r]);
      vf score = reinterpret_cast<vf>(partial[r][0]);
#pragma GCC unroll 16
      for (int j = 1; j < lanes; ++j) score += reinterpret_cast<vf>(partial[r][j]);
      float* to = x.scores + r * key_tile + t;
      store(to, a.soft_cap > 0 ? capped(score, a.soft_cap) * splat(log2_e) : score);
      const index_t seen = visible[r].end - first < n ? visible[r].end - first : n;
      for (index_t j = seen > t ? seen - t : 0; j < lanes; ++j) to[j] = no_score;
      const index_t begin = visible[r].begin - first - t;
      for (index_t j = 0; j < (begin < lanes ? begin : lanes); ++j) to[j] = no_score;
    }
  }
}

template <int Rows>
inline void few_scores(const attention_args& a, const attention_segment& s, index_t first, index_t skip, index_t n, const few_range (&visible)[Rows],
                       const few_scratch& x) {
  switch (s.key_type) {
    case dtype::f32: return few_scores_as<Rows, dtype::f32>(a, s, first, skip, n, visible, x);
    case dtype::f16: return few_scores_as<Rows, dtype::f16>(a, s, first, skip, n, visible, x);
    case dtype::bf16: return few_scores_as<Rows, dtype::bf16>(a, s, first, skip, n, visible, x);
    case dtype::q8_0: return few_scores_as<Rows, dtype::q8_0>(a, s, first, skip, n, visible, x);
    case dtype::q5_h: return few_scores_as<Rows, dtype::q5_h>(a, s, first, skip, n, visible, x);
    case dtype::q4_h: return few_scores_as<Rows, dtype::q4_h>(a, s, first, skip, n, visible, x);
    default: return few_scores_as<Rows, dtype::q4_0>(a, s, first, skip, n, visible, x);
  }
}

/// scores -> weights relative to the running maximum.
template <int Rows>
inline void few_soften(index_t skip, index_t n, index_t head_dim, float (&maximum)[Rows], float (&total)[Rows], const few_scratch& x) {
  for (int r = 0; r < Rows; ++r) {
    float* scores = x.scores + r * key_tile;
    const index_t begin = skip / lanes * lanes;
    vf top = splat(maximum[r]);
    for (index_t t = begin; t < n; t += lanes) top = larger(top, load(scores + t));
    const float highest = largest_lane(top);
    float shrink[lanes];
    store(shrink, power_of_two<product::f32>(splat(maximum[r] - highest)));
    vf sum = splat(0);
    for (index_t t = begin; t < n; t += lanes) {
      const vf p = weight_of<product::f32, true>(load(scores + t), splat(highest));
      store(scores + t, p);
      sum += p;
    }
    total[r] = total[r] * shrink[0] + sum_lanes(sum);
    if (highest == maximum[r]) continue;
    maximum[r] = highest;
    float* sums = x.sums + r * head_dim;
    for (index_t d = 0; d < head_dim; d += lanes) store(sums + d, load(sums + d) * splat(shrink[0]));
  }
}

/// sums += weights * values, `Vectors` vectors of channels from `d` on, all in one block of a quantised type.
template <int Rows, int Vectors, dtype Type>
BLOCKATTN_INLINE void few_values(const attention_args& a, const attention_segment& s, index_t first, index_t skip, index_t n, index_t d, const few_scratch& x) {
  const index_t bytes = row_bytes(Type, a.head_dim);
  const std::byte* value = s.values + (first + skip) * bytes;
  vf sum[Rows][Vectors];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[r][v] = load(x.sums + r * a.head_dim + d + v * lanes);
  alignas(16) std::byte room[32];
  for (index_t t = skip; t < n; ++t, value += bytes) {
    vf loaded[Vectors];
    if constexpr (is_float(Type)) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) loaded[v] = load_floats<Type>(value, d + v * lanes);
    } else {
      const std::byte* quants = block_quants<Type>(value, d, room) + d % 32;
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) loaded[v] = widen_signed(quants + v * lanes);
    }
    const float scale = block_scale<Type>(value, d);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const float p = x.scores[r * key_tile + t];
      const vf weight = splat(is_float(Type) ? p : p * scale);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[r][v] = multiply_add(weight, loaded[v], sum[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(x.sums + r * a.head_dim + d + v * lanes, sum[r][v]);
}

template <int Rows, dtype Type>
inline void few_values_as(const attention_args& a, const attention_segment& s, index_t first, index_t skip, index_t n, const few_scratch& x) {
  constexpr int at_once = lanes >= 16 && !is_float(Type) ? 2 : 4;  // with 16 lanes a block of 32 is two vectors
  index_t d = 0;
  for (; d + at_once * lanes <= a.head_dim; d += at_once * lanes) few_values<Rows, at_once, Type>(a, s, first, skip, n, d, x);
  if constexpr (is_float(Type))  // quantised heads are whole blocks
    for (; d < a.head_dim; d += lanes) few_values<Rows, 1, Type>(a, s, first, skip, n, d, x);
}

template <int Rows>
inline void few_values_of(const attention_args& a, const attention_segment& s, index_t first, index_t skip, index_t n, const few_scratch& x) {
  switch (s.value_type) {
    case dtype::f32: return few_values_as<Rows, dtype::f32>(a, s, first, skip, n, x);
    case dtype::f16: return few_values_as<Rows, dtype::f16>(a, s, first, skip, n, x);
    case dtype::bf16: return few_values_as<Rows, dtype::bf16>(a, s, first, skip, n, x);
    case dtype::q8_0: return few_values_as<Rows, dtype::q8_0>(a, s, first, skip, n, x);
    case dtype::q5_h: return few_values_as<Rows, dtype::q5_h>(a, s, first, skip, n, x);
    case dtype::q4_h: return few_values_as<Rows, dtype::q4_h>(a, s, first, skip, n, x);
    default: return few_values_as<Rows, dtype::q4_0>(a, s, first, skip, n, x);
  }
}

template <int Rows>
inline void few_segment(const attention_args& a, const attention_segment& s, index_t first_row, float (&maximum)[Rows], float (&total)[Rows],
                        const few_scratch& x) {
  few_range visible[Rows];
  for (int r = 0; r < Rows; ++r) {
    const index_t seen = a.position[(first_row + r) / a.group] - s.position + 1;
    visible[r] = {a.window > 0 ? clamp_keys(seen - a.window, s.tokens) : 0, clamp_keys(seen, s.tokens)};
  }
  const index_t least = visible[0].begin;  // rows are in order of position
  const index_t most = visible[Rows - 1].end;
  if (most <= least) return;
  for (int r = 0; r < Rows; ++r) {
    turn_row(a, s, x.rows + r * a.head_dim, x.turned + r * a.head_dim);
    if (is_transformed(s.key_type)) hadamard_row(x.turned + r * a.head_dim, a.head_dim);
  }
  for (index_t first = least / key_tile * key_tile; first < most; first += key_tile) {
    const index_t n = most - first < key_tile ? most - first : key_tile;
    const index_t skip = first < least ? least - first : 0;
    few_scores<Rows>(a, s, first, skip, n, visible, x);
    few_soften<Rows>(skip, n, a.head_dim, maximum, total, x);
    few_values_of<Rows>(a, s, first, skip, n, x);
  }
}

template <int Rows>
inline void attend_group(const attention_args& a, index_t first_row, std::byte* scratch) {
  const few_scratch x = split_few_scratch(scratch, a.head_dim);
  const float scale = a.soft_cap > 0 ? a.scale : a.scale * log2_e;
  float maximum[Rows];
  float total[Rows];
  for (int r = 0; r < Rows; ++r) {
    const index_t row = first_row + r;
    const float* q = a.queries + row / a.group * a.query_stride + (a.kv_head * a.group + row % a.group) * a.head_dim;
    for (index_t d = 0; d < a.head_dim; ++d) x.rows[r * a.head_dim + d] = q[d] * scale;
    maximum[r] = no_score;
    total[r] = 0;
  }
  __builtin_memset(x.sums, 0, static_cast<std::size_t>(Rows * a.head_dim) * sizeof(float));
  if (any_transformed_values(a)) {
    for (index_t i = 0; i < a.segment_count; ++i)
      if (is_transformed(a.segments[i].value_type)) few_segment<Rows>(a, a.segments[i], first_row, maximum, total, x);
    for (int r = 0; r < Rows; ++r) hadamard_row(x.sums + r * a.head_dim, a.head_dim);
  }
  for (index_t i = 0; i < a.segment_count; ++i)
    if (!is_transformed(a.segments[i].value_type)) few_segment<Rows>(a, a.segments[i], first_row, maximum, total, x);
  for (int r = 0; r < Rows; ++r) put_row(a, first_row + r, x.sums + r * a.head_dim, 1, maximum[r], total[r]);
}

inline void attend_few(const attention_args& a, std::byte* scratch) {
  index_t row = a.row_begin;
  for (; row + 4 <= a.row_end; row += 4) attend_group<4>(a, row, scratch);
  switch (a.row_end - row) {
    case 3: return attend_group<3>(a, row, scratch);
    case 2: return attend_group<2>(a, row, scratch);
    case 1: return attend_group<1>(a, row, scratch);
    default: return;
  }
}

inline void attend(arithmetic kind, const attention_args& a, std::byte* scratch) {
  if (a.row_end - a.row_begin <= few_rows) return attend_few(a, scratch);
  if (lanes >= 8 && kind == arithmetic::fast) return attend_as<lanes >= 8 ? product::i16 : product::f32>(a, scratch);
  attend_as<product::f32>(a, scratch);
}
