// Products and softmax of one tile of rows over one tile of keys. Included inside the namespace of each level.
//
// Rows lie in the lanes of two vectors, keys and channels go by: score[t] = sum over units u of key(t, u) * row(u), one unit of a key being broadcast
// at a time, then sum[d] += sum over tokens of value(d, t) * weight(t) in the same form.

/// c + a.low * b.low + a.high * b.high, for pairs of 16-bit integers.
template <class V>
BLOCKATTN_INLINE V multiply_add_pairs(V a, V b, V c) {
#if defined(__x86_64__)
  if constexpr (sizeof(V) == 64 && level == isa::avx512_bf16)
    return reinterpret_cast<V>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(c), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  else if constexpr (sizeof(V) == 64)
    return c + reinterpret_cast<V>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  else if constexpr (sizeof(V) == 32)
    return c + reinterpret_cast<V>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  else
#endif
    return c + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}

template <product P>
BLOCKATTN_INLINE auto multiply_add_unit(std::uint32_t a, vi b, std::conditional_t<P == product::f32, vf, vi> c) {
  if constexpr (P == product::f32)
    return multiply_add(splat(std::bit_cast<float>(a)), reinterpret_cast<vf>(b), c);
  else
    return multiply_add_pairs(splat_bits(a), b, c);
}

template <product P>
using tile_sum = std::conditional_t<P == product::f32, vf, vi>;

/// sum[m] = products of line m of a with the panel b: a's unit (m, u) lies at a + m * line + u * step bytes, b is [units][panel_width].
template <product P, int Lines>
BLOCKATTN_INLINE void multiply_lines(const std::byte* a, index_t line, index_t step, const std::uint32_t* b, index_t units, tile_sum<P> (&sum)[Lines][2]) {
  for (index_t u = 0; u < units; ++u, b += panel_width, a += step) {
    const vi b0 = load_as<vi>(b);
    const vi b1 = load_as<vi>(b + lanes);
#pragma GCC unroll 16
    for (int m = 0; m < Lines; ++m) {
      const std::uint32_t unit = read_unit(a + m * line);
      sum[m][0] = multiply_add_unit<P>(unit, b0, sum[m][0]);
      sum[m][1] = multiply_add_unit<P>(unit, b1, sum[m][1]);
    }
  }
}

/// Scores of Lines keys from number t on; raises `top`.
template <product P, int Lines>
inline void score_lines(const std::byte* keys, index_t t, const std::uint32_t* rows, index_t units, const attention_scratch& x, const float* row_scale,
                        const float* shift, vf (&top)[2]) {
  tile_sum<P> sum[Lines][2] = {};
  multiply_lines<P, Lines>(keys + t * units * 4, units * 4, 4, rows, units, sum);
  float* scores = x.scores + t * panel_width;
#pragma GCC unroll 16
  for (int m = 0; m < Lines; ++m)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      vf score;
      if constexpr (P == product::f32) {
        score = sum[m][h];
      } else {
        score = multiply_add(__builtin_convertvector(sum[m][h], vf) * splat(x.key_scale[t + m]), load(row_scale + h * lanes), splat(shift[t + m]));
      }
      store(scores + m * panel_width + h * lanes, score);
      top[h] = larger(top[h], score);
    }
}

inline constexpr float no_shift[key_tile] = {};

/// scores [n][panel_width], in log2 and with the values' shifts unless they are capped later, and the largest of each row.
template <product P>
inline void score_keys(const std::byte* keys, index_t n, const std::uint32_t* rows, index_t units, const attention_scratch& x, const float* row_scale,
                       bool capped_later, vf (&top)[2]) {
  const float* shift = capped_later ? no_shift : x.value_shift;
  index_t t = 0;
  for (; t + tile_rows <= n; t += tile_rows) score_lines<P, tile_rows>(keys, t, rows, units, x, row_scale, shift, top);
  for (; t + 4 <= n; t += 4) score_lines<P, 4>(keys, t, rows, units, x, row_scale, shift, top);
  for (; t < n; ++t) score_lines<P, 1>(keys, t, rows, units, x, row_scale, shift, top);
}

inline void find_top(const float* scores, index_t n, vf (&top)[2]) {
  for (int h = 0; h < 2; ++h) {
    top[h] = splat(no_score);
    for (index_t t = 0; t < n; ++t) top[h] = larger(top[h], load(scores + t * panel_width + h * lanes));
  }
}

/// Scores in natural units -> capped, in log2, with the values' shifts.
template <product P>
inline void cap_scores(const attention_scratch& x, index_t n, float cap, vf (&top)[2]) {
  for (index_t t = 0; t < n; ++t)
    for (index_t lane = 0; lane < panel_width; lane += lanes) {
      float* at = x.scores + t * panel_width + lane;
      store(at, multiply_add(capped(load(at), cap), splat(log2_e), splat(P == product::f32 ? 0 : x.value_shift[t])));
    }
  find_top(x.scores, n, top);
}

/// 2^x, x <= 2^7: relative error below 2e-7 (f32) or 3e-6; below -126 the value there. Polynomials: minimax on [-1/2, 1/2], by Remez' algorithm.
template <product P>
BLOCKATTN_INLINE vf power_of_two(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const vf bounded = larger(x, splat(-126.0f));
  const vf shifted = bounded + magic;
  const vf f = bounded - (shifted - magic);
  vf p;
  if constexpr (P == product::f32) {
    p = multiply_add(splat(1.53458124e-4f), f, splat(1.33999312e-3f));
    p = multiply_add(p, f, splat(9.61848896e-3f));
    p = multiply_add(p, f, splat(5.55032878e-2f));
    p = multiply_add(p, f, splat(2.40226469e-1f));
    p = multiply_add(p, f, splat(6.93147206e-1f));
    p = multiply_add(p, f, splat(1.0f));
  } else {
    p = multiply_add(splat(9.57010191e-3f), f, splat(5.59178603e-2f));
    p = multiply_add(p, f, splat(2.40247448e-1f));
    p = multiply_add(p, f, splat(6.93121815e-1f));
    p = multiply_add(p, f, splat(9.99999261e-1f));
  }
  return reinterpret_cast<vf>(reinterpret_cast<vi>(p) + (reinterpret_cast<vi>(shifted) << 23));
}

/// The weight of a score. A key that a row doesn't see has weight 0, whatever the row has seen.
template <product P, bool Masked>
BLOCKATTN_INLINE vf weight_of(vf score, vf reference) {
  const vf p = power_of_two<P>(score - reference);
  if constexpr (Masked) return score <= splat(no_score) ? splat(0.0f) : p;
  return p;
}

/// scores of a vector of rows -> weights relative to 2^reference, as units; returns the sum of the weights that the values' scales aren't part of.
template <product P, bool Masked>
inline vf weigh_scores(const attention_scratch& x, index_t n, index_t lane, vf reference) {
  vf sum = splat(0);
  const float* scores = x.scores + lane;
  if constexpr (P == product::f32) {
    for (index_t t = 0; t < n; ++t) {
      const vf p = weight_of<P, Masked>(load(scores + t * panel_width), reference);
      sum += p;
      store_as(x.weights + t * panel_width + lane, p);
    }
    return sum;
  }
  index_t t = 0;
  for (; t + 2 <= n; t += 2) {
    const vf even = weight_of<P, Masked>(load(scores + t * panel_width), reference);
    const vf odd = weight_of<P, Masked>(load(scores + (t + 1) * panel_width), reference);
    sum = multiply_add(even, splat(x.value_inverse[t]), sum);
    sum = multiply_add(odd, splat(x.value_inverse[t + 1]), sum);
    store_as(x.weights + t / 2 * panel_width + lane, pair_up(to_nearest(even), to_nearest(odd)));
  }
  if (t == n) return sum;
  const vf even = weight_of<P, Masked>(load(scores + t * panel_width), reference);
  store_as(x.weights + t / 2 * panel_width + lane, pair_up(to_nearest(even), vi{}));
  return multiply_add(even, splat(x.value_inverse[t]), sum);
}

/// scores [n][panel_width], the largest being `top` -> weights as units; updates maximum and total. The sums so far are to be multiplied by `shrink`, those of
/// the new units by `gain`.
template <product P>
inline void soften_scores(const attention_scratch& x, index_t n, const vf (&top)[2], float* maximum, float* total, bool masked, vf (&shrink)[2], vf (&gain)[2]) {
  for (int h = 0; h < 2; ++h) {
    const index_t lane = h * lanes;
    const vf before = load(maximum + lane);
    const vf now = larger(before, top[h]);
    const vf reference = P == product::f32 ? now : top[h] - splat(weight_bits);
    const vf sum = masked ? weigh_scores<P, true>(x, n, lane, reference) : weigh_scores<P, false>(x, n, lane, reference);
    const vf share = P == product::f32 ? splat(1) : power_of_two<P>(top[h] - now) * splat(exact_power(-weight_bits));
    shrink[h] = power_of_two<P>(before - now);
    gain[h] = share * splat(1 / value_limit);
    store(maximum + lane, now);
    store(total + lane, multiply_add(load(total + lane), shrink[h], sum * share));
  }
}

/// Channels [d, d + Lines) of sums [Dh][panel_width]: sums * shrink + products * gain.
template <product P, int Lines>
inline void add_lines(const std::byte* values, index_t d, index_t head_dim, const std::uint32_t* weights, index_t units, const vf (&shrink)[2],
                      const vf (&gain)[2], float* sums) {
  float* to = sums + d * panel_width;
  tile_sum<P> sum[Lines][2] = {};
  if constexpr (P == product::f32) {
#pragma GCC unroll 16
    for (int m = 0; m < Lines; ++m)
      for (int h = 0; h < 2; ++h) sum[m][h] = load(to + m * panel_width + h * lanes) * shrink[h];
  }
  multiply_lines<P, Lines>(values + 4 * d, 4, head_dim * 4, weights, units, sum);
#pragma GCC unroll 16
  for (int m = 0; m < Lines; ++m)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      float* at = to + m * panel_width + h * lanes;
      if constexpr (P == product::f32)
        store(at, sum[m][h]);
      else
        store(at, multiply_add(__builtin_convertvector(sum[m][h], vf), gain[h], load(at) * shrink[h]));
    }
}

template <product P>
inline void add_values(const std::byte* values, index_t head_dim, const std::uint32_t* weights, index_t units, const vf (&shrink)[2], const vf (&gain)[2],
                       float* sums) {
  index_t d = 0;
  for (; d + tile_rows <= head_dim; d += tile_rows) add_lines<P, tile_rows>(values, d, head_dim, weights, units, shrink, gain, sums);
  for (; d + 4 <= head_dim; d += 4) add_lines<P, 4>(values, d, head_dim, weights, units, shrink, gain, sums);
  for (; d < head_dim; ++d) add_lines<P, 1>(values, d, head_dim, weights, units, shrink, gain, sums);
}
