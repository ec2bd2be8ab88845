// Products of quantised weights and quantised activations. Included inside the namespace of each level, after multiply.inl.hpp.
//
// A token's activations are integers q under a scale for each group of 32: 8 bits (`bytes`), or 16 (`words`, where the rounding of 8 bits would show,
// and for weights that the level can't multiply as bytes). Weights are interleaved panels (kernels/interleave.hpp) of scale * u + minimum:
//
//   y = sum over groups of  scale * scale_x * (sum of u * q)  +  minimum * (scale_x * sum of q)
//
// The inner sums are exact integers. A panel is first expanded, a chunk of columns at a time, to one byte (or 16-bit word) a weight and float32 scales in
// the first cache; then all tokens go over it in tiles; a token alone takes the integers from the records (integer_vector.inl.hpp), in the same order of sums. So a
// token's sums don't depend on the tokens beside it.

typedef std::int16_t vs __attribute__((vector_size(lanes * 4)));

BLOCKATTN_INLINE vi splat_word(std::uint32_t x) { return static_cast<std::int32_t>(x) - vi{}; }

/// A sum that stays in its register: integer sums may be reordered, and compilers do so until nothing fits.
template <class V>
BLOCKATTN_INLINE void hold(V& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
}

/// Where the parts of one token's quantised activations lie: integers, scales [K / 32], scaled sums of 32 [K / 32] and of 16 [K / 16].
struct quantised_layout {
  index_t scales, sums, half_sums, bytes;
};

BLOCKATTN_INLINE quantised_layout layout_of(activation_form form, index_t columns) {
  const index_t integers = form == activation_form::bytes ? columns : 2 * columns;
  const index_t groups = columns / 32;
  return {integers, integers + 4 * groups, integers + 8 * groups, integers + 16 * groups};
}

inline index_t quantised_bytes(activation_form form, index_t columns) { return layout_of(form, columns).bytes; }

/// Bytes where the level multiplies them without loss: 16-bit sums of two products must hold them.
inline activation_form form_of(dtype type, bool wide, bool) {
  if (wide || byte_dot == dot::none) return activation_form::words;
  return byte_dot == dot::full || interleaved(type).largest() < 64 ? activation_form::bytes : activation_form::words;
}

/// One group of 32 -> integers; returns its scale and the sums of its halves.
template <bool Words>
BLOCKATTN_INLINE float quantise_group(const float* x, std::byte* q, std::int32_t (&sums)[2]) {
  constexpr int parts = 32 / lanes;
  vf largest = splat(0);
#pragma GCC unroll 8
  for (int i = 0; i < parts; ++i) largest = larger(largest, larger(load(x + lanes * i), -load(x + lanes * i)));
  const float bound = largest_of_lanes(largest);
  constexpr float limit = Words ? 32767.0f : 127.0f;
  const float inverse = bound > limit * 1e-30f ? limit / bound : 0;
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  vi whole[parts], total[2] = {};
#pragma GCC unroll 8
  for (int i = 0; i < parts; ++i) {
    whole[i] = reinterpret_cast<vi>(load(x + lanes * i) * splat(inverse) + magic) - 0x4b400000;
    total[lanes * i / 16] += whole[i];
  }
  if constexpr (Words) {
#pragma GCC unroll 8
    for (int i = 0; i < parts; ++i) store_as(q + 2 * lanes * i, __builtin_convertvector(even_then_odd(whole[i]), vh));
  } else {
    store_bytes(q, whole);
  }
  for (int h = 0; h < 2; ++h) sums[h] = sum_of_lanes(total[h]);
  return inverse > 0 ? bound / limit : 0;
}

template <bool Words>
inline void quantise_as(const float* x, index_t tokens, index_t columns, std::byte* out) {
  const quantised_layout at = layout_of(Words ? activation_form::words : activation_form::bytes, columns);
  for (index_t t = 0; t < tokens; ++t, x += columns, out += at.bytes)
    for (index_t g = 0; g < columns / 32; ++g) {
      std::int32_t sums[2];
      const float scale = quantise_group<Words>(x + 32 * g, out + (Words ? 64 : 32) * g, sums);
      const float parts[2] = {scale * static_cast<float>(sums[0]), scale * static_cast<float>(sums[1])};
      const float both = scale * static_cast<float>(sums[0] + sums[1]);
      __builtin_memcpy(out + at.scales + 4 * g, &scale, 4);
      __builtin_memcpy(out + at.sums + 4 * g, &both, 4);
      __builtin_memcpy(out + at.half_sums + 8 * g, parts, 8);
    }
}

inline void quantise(activation_form form, const float* x, index_t tokens, index_t columns, std::byte* out) {
  form == activation_form::bytes ? quantise_as<false>(x, tokens, columns, out) : quantise_as<true>(x, tokens, columns, out);
}

/// A chunk of a panel as it is multiplied: units [32 columns / 4 or / 2][panel_width], scales and minima [halves][panel_width] of each group.
struct expanded_chunk {
  std::uint32_t* units;
  float *scales, *minima;
};

template <bool Words>
BLOCKATTN_INLINE void store_units(std::uint32_t* to, index_t step, vi bytes) {
  if constexpr (Words) {
    store_as(to + 2 * step * panel_width, bytes & 0x00ff00ff);
    store_as(to + (2 * step + 1) * panel_width, reinterpret_cast<vi>(reinterpret_cast<vu>(bytes) >> 8) & 0x00ff00ff);
  } else {
    store_as(to + step * panel_width, bytes);
  }
}

/// The bits above the low four of step `s`, in their place.
template <int HighBits>
BLOCKATTN_INLINE vi high_bits_of(const std::uint32_t* high, int s) {
  constexpr int mask = HighBits == 1 ? 0x10101010 : 0x30303030;
  const int shift = HighBits == 1 ? 4 - s : 4 - 2 * (s % 4);
  const vu word = load_as<vu>(high + (HighBits == 2 && s >= 4 ? panel_width : 0));
  return reinterpret_cast<vi>(shift >= 0 ? word << shift : word >> -shift) & mask;
}

/// The integers of columns 4 s .. 4 s + 3 of a record, for the lanes that begin at `low` and `high`.
template <bool Words, int LowBits, int HighBits, bool Levels>
BLOCKATTN_INLINE vi record_bytes(const std::uint32_t* low, const std::uint32_t* high, int s) {
  vi bytes = load_as<vi>(low + (LowBits == 8 ? s : s % 4) * panel_width);
  if constexpr (LowBits == 4) bytes = (s < 4 ? bytes : reinterpret_cast<vi>(reinterpret_cast<vu>(bytes) >> 4)) & 0x0f0f0f0f;
  if constexpr (HighBits > 0) bytes |= high_bits_of<HighBits>(high, s);
  if constexpr (Levels) bytes = iq4_levels(bytes);
  if constexpr (signed_units && !Words && (LowBits == 8 || Levels)) bytes ^= static_cast<std::int32_t>(0x80808080U);
  return bytes;
}

/// One record's scales and minima -> those of group g.
template <bool Words, int LowBits, bool Levels>
BLOCKATTN_INLINE void expand_scales(const interleaved_format& f, const std::uint16_t* halves, index_t g, const expanded_chunk& to) {
  const float offset = static_cast<float>(f.offset - (signed_units && !Words && (LowBits == 8 || Levels) ? 128 : 0));
  for (index_t h = 0; h < f.halves; ++h)
    for (index_t r = 0; r < panel_width; r += lanes) {
      const index_t at = (g * f.halves + h) * panel_width + r;
      const vf scale = load_f16(halves + h * panel_width + r);
      store(to.scales + at, scale);
      store(to.minima + at, f.minima ? load_f16(halves + (f.halves + h) * panel_width + r) : scale * splat(-offset));
    }
}

template <bool Words, int LowBits, int HighBits, bool Levels>
inline void expand_as(const interleaved_format& f, const std::byte* record, index_t groups, const expanded_chunk& to) {
  constexpr index_t units = (Words ? 16 : 8) * panel_width;
  for (index_t g = 0; g < groups; ++g, record += panel_width * f.row_bytes()) {
    const auto* low = reinterpret_cast<const std::uint32_t*>(record);
    const auto* high = low + LowBits * panel_width;
    for (index_t r = 0; r < panel_width; r += lanes)
#pragma GCC unroll 8
      for (int s = 0; s < 8; ++s) store_units<Words>(to.units + g * units + r, s, record_bytes<Words, LowBits, HighBits, Levels>(low + r, high + r, s));
    expand_scales<Words, LowBits, Levels>(f, reinterpret_cast<const std::uint16_t*>(high + HighBits * panel_width), g, to);
  }
}

template <bool Words>
inline void expand_chunk(const interleaved_format& f, const std::byte* record, index_t groups, const expanded_chunk& to) {
  if (f.low_bits == 8) return expand_as<Words, 8, 0, false>(f, record, groups, to);
  if (f.levels) return expand_as<Words, 4, 0, true>(f, record, groups, to);
  if (f.high_bits == 1) return expand_as<Words, 4, 1, false>(f, record, groups, to);
  if (f.high_bits == 2) return expand_as<Words, 4, 2, false>(f, record, groups, to);
  expand_as<Words, 4, 0, false>(f, record, groups, to);
}

/// sum[m] = sum over `Steps` steps of 4 columns of u * q; byte sums of `Flush` steps fit in 16 bits.
template <int Rows, int Steps, int Flush>
BLOCKATTN_INLINE void sum_bytes(const std::byte* x, index_t row, const std::uint32_t* b, vi (&sum)[Rows][2]) {
#pragma GCC unroll 8
  for (int from = 0; from < Steps; from += Flush) {
    vs part[Rows][2];
#pragma GCC unroll 8
    for (int s = from; s < from + Flush; ++s) {
      const vi b0 = load_as<vi>(b + s * panel_width);
      const vi b1 = load_as<vi>(b + s * panel_width + lanes);
#pragma GCC unroll 8
      for (int m = 0; m < Rows; ++m) {
        const vi a = splat_word(read_unit(x + m * row + 4 * s));
        if constexpr (byte_dot == dot::full) {
          sum[m][0] = dot_bytes(sum[m][0], b0, a);
          sum[m][1] = dot_bytes(sum[m][1], b1, a);
          hold(sum[m][0]);
          hold(sum[m][1]);
        } else {
          const vs first = reinterpret_cast<vs>(multiply_bytes(b0, a)), second = reinterpret_cast<vs>(multiply_bytes(b1, a));
          part[m][0] = s == from ? first : part[m][0] + first;
          part[m][1] = s == from ? second : part[m][1] + second;
          hold(part[m][0]);
          hold(part[m][1]);
        }
      }
    }
    if constexpr (byte_dot != dot::full) {
#pragma GCC unroll 8
      for (int m = 0; m < Rows; ++m) {
        sum[m][0] = dot_words(sum[m][0], reinterpret_cast<vi>(part[m][0]), splat_word(0x00010001));
        sum[m][1] = dot_words(sum[m][1], reinterpret_cast<vi>(part[m][1]), splat_word(0x00010001));
      }
    }
  }
}

/// The same of words: steps of 2 columns.
template <int Rows, int Steps>
BLOCKATTN_INLINE void sum_words(const std::byte* x, index_t row, const std::uint32_t* b, vi (&sum)[Rows][2]) {
#pragma GCC unroll 16
  for (int s = 0; s < Steps; ++s) {
    const vi b0 = load_as<vi>(b + s * panel_width);
    const vi b1 = load_as<vi>(b + s * panel_width + lanes);
#pragma GCC unroll 8
    for (int m = 0; m < Rows; ++m) {
      const vi a = splat_word(read_unit(x + m * row + 4 * s));
      sum[m][0] = dot_words(sum[m][0], a, b0);
      sum[m][1] = dot_words(sum[m][1], a, b1);
      hold(sum[m][0]);
      hold(sum[m][1]);
    }
  }
}

/// Rows of quantised activations: integers, scales and sums of the chunk's first group.
struct quantised_rows {
  const std::byte *integers, *scales, *sums;
  index_t row;  ///< bytes between two tokens

  [[nodiscard]] BLOCKATTN_INLINE quantised_rows from(index_t t) const { return {integers + t * row, scales + t * row, sums + t * row, row}; }
};

/// How a type is multiplied: 16-bit words or bytes, scales in 32 columns, steps of bytes whose sums fit in 16 bits.
template <bool Words, int Halves, int Flush>
struct product_kind {
  static constexpr bool words = Words;
  static constexpr int halves = Halves, flush = Flush;
  static constexpr int steps = (Words ? 16 : 8) / Halves;  ///< of one scale
};

BLOCKATTN_INLINE vf splat_float_at(const std::byte* p) { return splat(std::bit_cast<float>(read_unit(p))); }

/// sum[m] = what the minima of `scales` scales add up to, on top of c with `add`.
template <int Rows>
BLOCKATTN_INLINE void start_sums(const quantised_rows& x, const float* minima, index_t scales, const float* c, index_t stride, bool add, vf (&sum)[Rows][2]) {
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
    sum[m][0] = add ? load(c + m * stride) : splat(0);
    sum[m][1] = add ? load(c + m * stride + lanes) : splat(0);
  }
  for (index_t s = 0; s < scales; ++s, minima += panel_width) {
    const vf m0 = load(minima), m1 = load(minima + lanes);
#pragma GCC unroll 8
    for (int m = 0; m < Rows; ++m) {
      const vf q = splat_float_at(x.sums + m * x.row + 4 * s);
      sum[m][0] = multiply_add(m0, q, sum[m][0]);
      sum[m][1] = multiply_add(m1, q, sum[m][1]);
    }
  }
}

/// c[m, 0..panel_width) = or, with `add`, += the products of `groups` groups. All sums stay in registers: storing and loading them once a group would
/// take as long as half of the products.
template <class Kind, int Rows>
inline void integer_tile(const quantised_rows& x, const expanded_chunk& w, index_t groups, float* c, index_t stride, bool add) {
  const std::uint32_t* b = w.units;
  const float* scales = w.scales;
  const std::byte* q = x.integers;
  vf total[Rows][2];
  start_sums<Rows>(x, w.minima, groups * Kind::halves, c, stride, add, total);
  for (index_t g = 0; g < groups; ++g) {
#pragma GCC unroll 2
    for (int h = 0; h < Kind::halves; ++h) {
      vi sum[Rows][2] = {};
      if constexpr (Kind::words)
        sum_words<Rows, Kind::steps>(q, x.row, b, sum);
      else
        sum_bytes<Rows, Kind::steps, Kind::flush>(q, x.row, b, sum);
      const vf d0 = load(scales), d1 = load(scales + lanes);
#pragma GCC unroll 8
      for (int m = 0; m < Rows; ++m) {
        const vf d = splat_float_at(x.scales + m * x.row + 4 * g);
        total[m][0] = multiply_add(__builtin_convertvector(sum[m][0], vf), d0 * d, total[m][0]);
        total[m][1] = multiply_add(__builtin_convertvector(sum[m][1], vf), d1 * d, total[m][1]);
        hold(total[m][0]);
        hold(total[m][1]);
      }
      b += Kind::steps * panel_width;
      q += Kind::steps * 4;
      scales += panel_width;
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
    store(c + m * stride, total[m][0]);
    store(c + m * stride + lanes, total[m][1]);
  }
}

template <class Kind>
inline void integer_rows(const quantised_rows& x, index_t tokens, const expanded_chunk& w, index_t groups, float* c, index_t stride, bool add) {
  index_t t = 0;
  for (; t + integer_tile_rows <= tokens; t += integer_tile_rows) integer_tile<Kind, integer_tile_rows>(x.from(t), w, groups, c + t * stride, stride, add);
  for (; t < tokens; ++t) integer_tile<Kind, 1>(x.from(t), w, groups, c + t * stride, stride, add);
}

/// One scale in 32 columns, or two. Byte sums of `Whole` or `Half` steps fit in 16 bits.
template <bool Words, int Whole, int Half>
BLOCKATTN_INLINE void integer_rows_by(int halves, const quantised_rows& x, index_t tokens, const expanded_chunk& w, index_t groups, float* c, index_t stride, bool add) {
  if (halves == 2) return integer_rows<product_kind<Words, 2, Half>>(x, tokens, w, groups, c, stride, add);
  integer_rows<product_kind<Words, 1, Whole>>(x, tokens, w, groups, c, stride, add);
}

inline void integer_rows_of(const interleaved_format& f, activation_form form, const quantised_rows& x, index_t tokens, const expanded_chunk& w, index_t groups,
                            float* c, index_t stride, bool add) {
  if (form == activation_form::words) return integer_rows_by<true, 1, 1>(f.halves, x, tokens, w, groups, c, stride, add);
  if constexpr (byte_dot == dot::full) return integer_rows_by<false, 8, 4>(f.halves, x, tokens, w, groups, c, stride, add);
  if constexpr (byte_dot == dot::saturating) {
    if (f.low_bits + f.high_bits == 4) return integer_rows_by<false, 8, 4>(f.halves, x, tokens, w, groups, c, stride, add);
    if (f.high_bits == 1) return integer_rows<product_kind<false, 1, 4>>(x, tokens, w, groups, c, stride, add);
    integer_rows<product_kind<false, 2, 2>>(x, tokens, w, groups, c, stride, add);
  }
}

#include "blockattn/kernels/generic/integer_vector.inl.hpp"

/// Groups of 32 columns whose expanded weights fill half of a first cache of 32 KiB, or of the 48 KiB that come with wider vectors.
inline constexpr index_t chunk_groups = (lanes < 16 ? 16384 : 24576) / (32 * panel_width);

BLOCKATTN_INLINE index_t chunk_bytes(index_t groups) { return groups * panel_width * (64 + 16); }

/// For the chunk, and for the result of a panel that isn't full.
inline index_t integer_scratch_bytes(index_t tokens) { return chunk_bytes(chunk_groups) + tokens * panel_width * 4 + 64; }

inline void multiply_whole_panel(dtype type, activation_form form, const std::byte* x, index_t tokens, index_t columns, const std::byte* panel, float* y,
                                 index_t stride, std::byte* scratch) {
  const interleaved_format f = interleaved(type);
  const quantised_layout at = layout_of(form, columns);
  const bool words = form == activation_form::words;
  const index_t whole = columns / 32;
  const index_t limit = words ? chunk_groups / 2 : chunk_groups;
  const index_t chunks = (whole + limit - 1) / limit, even = (whole + chunks - 1) / chunks;
  for (index_t g = 0; g < whole; g += even) {
    const index_t groups = whole - g < even ? whole - g : even;
    const expanded_chunk w{reinterpret_cast<std::uint32_t*>(scratch), reinterpret_cast<float*>(scratch + groups * panel_width * (words ? 64 : 32)),
                           reinterpret_cast<float*>(scratch + groups * panel_width * (words ? 64 : 32)) + groups * f.halves * panel_width};
    const std::byte* sums = x + (f.halves == 2 ? at.half_sums : at.sums) + 4 * f.halves * g;
    const quantised_rows rows{x + (words ? 64 : 32) * g, x + at.scales + 4 * g, sums, at.bytes};
    if (tokens == 1) {
      integer_vector_of(f, form, panel + g * panel_width * f.row_bytes(), rows, groups, w, y, g > 0);
      continue;
    }
    words ? expand_chunk<true>(f, panel + g * panel_width * f.row_bytes(), groups, w) : expand_chunk<false>(f, panel + g * panel_width * f.row_bytes(), groups, w);
    integer_rows_of(f, form, rows, tokens, w, groups, y, stride, g > 0);
  }
}

inline void multiply_interleaved(dtype type, activation_form form, const std::byte* x, index_t tokens, index_t columns, const std::byte* panel, index_t count,
                                 float* y, index_t stride, std::byte* scratch) {
  if (count == panel_width) return multiply_whole_panel(type, form, x, tokens, columns, panel, y, stride, scratch);
  auto* result = reinterpret_cast<float*>(scratch + chunk_bytes(chunk_groups));
  multiply_whole_panel(type, form, x, tokens, columns, panel, result, panel_width, scratch);
  for (index_t t = 0; t < tokens; ++t)
    __builtin_memcpy(y + t * stride, result + t * panel_width, static_cast<std::size_t>(count) * sizeof(float));
}

inline constexpr integer_kernels integer_table = {form_of, quantised_bytes, quantise, integer_scratch_bytes, multiply_interleaved};
