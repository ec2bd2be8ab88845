// One token's products with a chunk of a panel, the integers going from the records through registers: generation streams each weight once. Included by
// integer.inl.hpp. The sums are those of integer_tile() in its order, to the bit.

/// How many bytes ahead of the record at hand memory is asked for, into the second cache: the first one keeps fewer requests open, a third of the pace.
inline constexpr index_t vector_ahead = 16384;

/// sum += the products of the steps of one scale, `half` of a record.
template <class Kind, int LowBits, int HighBits, bool Levels>
BLOCKATTN_INLINE vi vector_sum(const std::uint32_t* low, const std::uint32_t* high, const std::byte* q, int half) {
  constexpr int steps = 8 / Kind::halves;
  vi sum = {};
#pragma GCC unroll 8
  for (int from = 0; from < steps; from += Kind::words ? 1 : Kind::flush) {
    if constexpr (Kind::words) {
      const vi bytes = record_bytes<true, LowBits, HighBits, Levels>(low, high, half * steps + from);
      sum = dot_words(sum, splat_word(read_unit(q + 8 * from)), bytes & 0x00ff00ff);
      sum = dot_words(sum, splat_word(read_unit(q + 8 * from + 4)), reinterpret_cast<vi>(reinterpret_cast<vu>(bytes) >> 8) & 0x00ff00ff);
    } else {
      vs part = {};
#pragma GCC unroll 8
      for (int s = from; s < from + Kind::flush; ++s) {
        const vi bytes = record_bytes<false, LowBits, HighBits, Levels>(low, high, half * steps + s), a = splat_word(read_unit(q + 4 * s));
        if constexpr (byte_dot == dot::full)
          sum = dot_bytes(sum, bytes, a);
        else
          part += reinterpret_cast<vs>(multiply_bytes(bytes, a));
      }
      if constexpr (byte_dot != dot::full) sum = dot_words(sum, reinterpret_cast<vi>(part), splat_word(0x00010001));
    }
  }
  return sum;
}

/// y[0..panel_width) = or, with `add`, += the products of `groups` groups. The chunk's units stay unused.
template <class Kind, int LowBits, int HighBits, bool Levels>
inline void integer_vector(const interleaved_format& f, const std::byte* record, const quantised_rows& x, index_t groups, const expanded_chunk& w, float* y, bool add) {
  const index_t bytes = panel_width * f.row_bytes();
  for (index_t g = 0; g < groups; ++g)
    expand_scales<Kind::words, LowBits, Levels>(
        f, reinterpret_cast<const std::uint16_t*>(record + g * bytes + 4 * (LowBits + HighBits) * panel_width), g, w);
  vf start[1][2];
  start_sums<1>(x, w.minima, groups * Kind::halves, y, 0, add, start);
  vf total[2] = {start[0][0], start[0][1]};
  const float* scales = w.scales;
  for (index_t g = 0; g < groups; ++g, record += bytes) {
    const auto* low = reinterpret_cast<const std::uint32_t*>(record);
    const auto* high = low + LowBits * panel_width;
    for (index_t at = 0; at < bytes; at += 64) __builtin_prefetch(record + vector_ahead + at, 0, 2);
    const vf d = splat_float_at(x.scales + 4 * g);
#pragma GCC unroll 2
    for (int h = 0; h < Kind::halves; ++h, scales += panel_width) {
      const std::byte* q = x.integers + (Kind::words ? 64 : 32) * g + h * Kind::steps * 4;
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r) {
        const vi sum = vector_sum<Kind, LowBits, HighBits, Levels>(low + r * lanes, high + r * lanes, q, h);
        total[r] = multiply_add(__builtin_convertvector(sum, vf), load(scales + r * lanes) * d, total[r]);
      }
    }
  }
  store(y, total[0]);
  store(y + lanes, total[1]);
}

template <class Kind>
inline void integer_vector_as(const interleaved_format& f, const std::byte* record, const quantised_rows& x, index_t groups, const expanded_chunk& w, float* y, bool add) {
  if (f.low_bits == 8) return integer_vector<Kind, 8, 0, false>(f, record, x, groups, w, y, add);
  if (f.levels) return integer_vector<Kind, 4, 0, true>(f, record, x, groups, w, y, add);
  if (f.high_bits == 1) return integer_vector<Kind, 4, 1, false>(f, record, x, groups, w, y, add);
  if (f.high_bits == 2) return integer_vector<Kind, 4, 2, false>(f, record, x, groups, w, y, add);
  integer_vector<Kind, 4, 0, false>(f, record, x, groups, w, y, add);
}

/// integer_rows_of() for one token.
inline void integer_vector_of(const interleaved_format& f, activation_form form, const std::byte* record, const quantised_rows& x, index_t groups,
                              const expanded_chunk& w, float* y, bool add) {
  const bool two = f.halves == 2;
  if (form == activation_form::words)
    return two ? integer_vector_as<product_kind<true, 2, 1>>(f, record, x, groups, w, y, add) : integer_vector_as<product_kind<true, 1, 1>>(f, record, x, groups, w, y, add);
  if constexpr (byte_dot == dot::full)
    return two ? integer_vector_as<product_kind<false, 2, 4>>(f, record, x, groups, w, y, add) : integer_vector_as<product_kind<false, 1, 8>>(f, record, x, groups, w, y, add);
  if constexpr (byte_dot == dot::saturating) {
    if (f.high_bits == 2) return integer_vector<product_kind<false, 2, 2>, 4, 2, false>(f, record, x, groups, w, y, add);
    if (f.high_bits == 1) return integer_vector<product_kind<false, 1, 4>, 4, 1, false>(f, record, x, groups, w, y, add);
    two ? integer_vector<product_kind<false, 2, 4>, 4, 0, false>(f, record, x, groups, w, y, add)
        : integer_vector<product_kind<false, 1, 8>, 4, 0, false>(f, record, x, groups, w, y, add);
  }
}
