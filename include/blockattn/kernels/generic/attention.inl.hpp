// Attention over many runs of cached tokens where they lie, with an online softmax. Included inside the namespace of each level.
//
// A row is one query token with one query head of the KV head's group. `panel_width` rows form a tile that fills the lanes of two vectors, so the
// softmax needs no sums across lanes. For each segment the rows, already rotated at their own positions p, are rotated back by the segment's offset o:
//   <R(p) q, R(o) k> = <R(-o) R(p) q, k>
// once for all keys of the segment, and transformed where the keys are stored as their Hadamard transforms, <q, k> = <Hq, Hk>; then the keys go by in tiles of `key_tile`, a tile being unpacked once for all rows of the call.
// Scores are in units of log2, so that weights are powers of two. A sliding window is a matter of positions alone: of each segment a row sees the keys from
// `seen - window` up to `seen`. Tiles of keys lie at multiples of `key_tile`, and what a row computes doesn't depend on the rows beside it nor on keys that
// it doesn't see: hidden keys add zeros. Segments whose values are stored as transforms go first, the sums of theirs are turned back once, then the others are added.
// Source of the online softmax: Milakov and Gimelshein, arXiv 1805.02867; of the tiling: FlashAttention, arXiv 2205.14135.

inline constexpr index_t key_tile = 64;
inline constexpr index_t row_tiles = attention_rows(1) / panel_width;
inline constexpr float no_score = -1e30f;
inline constexpr float log2_e = 1.44269504088896341f;

/// Products of queries and keys, and of weights and values. i16: units are pairs of 16-bit integers, see attention_units.inl.hpp.
enum class product { f32, i16 };

/// Pieces of the caller's scratch.
struct attention_scratch {
  float* rows;               // [tiles][Dh][panel_width] queries, scaled, rotated at their positions
  float* row_scale;          // [tiles][panel_width] what products of units are to be multiplied by to be scores
  std::uint32_t* rotated;    // [tiles][Dh units][panel_width] the rows for the segment at hand, as units
  float* transformed_scale;  // [tiles][panel_width] the row_scale of units that are transforms
  float* sums;               // [tiles][Dh][panel_width] weighted values so far
  float* maximum;            // [tiles][panel_width] of the scores so far
  float* total;              // [tiles][panel_width] of the weights so far
  float* scores;             // [key_tile][panel_width]
  std::uint32_t* weights;    // [key_tile units][panel_width]
  std::byte* keys;           // [key_tile][Dh units]
  std::byte* values;         // [key_tile units][Dh]
  float* key_scale;          // [key_tile] of the keys' units
  float* value_shift;        // [key_tile] log2 of the scale of a value's units, part of its score
  float* value_inverse;      // [key_tile] 1 / scale
  std::int64_t* seen;        // [tiles][panel_width] keys of the segment up to a row's own position: any integer
};

template <class T>
BLOCKATTN_INLINE T* take_scratch(std::byte*& p, index_t count) {
  auto* result = reinterpret_cast<T*>(p);
  p += (static_cast<index_t>(sizeof(T)) * count + 63) / 64 * 64;
  return result;
}

BLOCKATTN_INLINE attention_scratch split_scratch(std::byte* p, index_t head_dim) {
  const index_t rows = attention_rows(head_dim);
  attention_scratch s;
  s.rows = take_scratch<float>(p, rows * head_dim);
  s.row_scale = take_scratch<float>(p, rows);
  s.rotated = take_scratch<std::uint32_t>(p, rows * head_dim);
  s.sums = take_scratch<float>(p, rows * head_dim);
  s.maximum = take_scratch<float>(p, rows);
  s.total = take_scratch<float>(p, rows);
  s.seen = take_scratch<std::int64_t>(p, rows);
  s.transformed_scale = take_scratch<float>(p, rows);
  s.scores = take_scratch<float>(p, key_tile * panel_width);
  s.weights = take_scratch<std::uint32_t>(p, key_tile * panel_width);
  s.keys = take_scratch<std::byte>(p, key_tile * head_dim * 4);
  s.values = take_scratch<std::byte>(p, key_tile * head_dim * 4);
  s.key_scale = take_scratch<float>(p, key_tile);
  s.value_shift = take_scratch<float>(p, key_tile);
  s.value_inverse = take_scratch<float>(p, key_tile);
  return s;
}

#include "blockattn/kernels/generic/attention_units.inl.hpp"
#include "blockattn/kernels/generic/attention_tiles.inl.hpp"

/// Hides those of the keys from `first` on that a row doesn't see, and finds the largest of the other scores.
inline void mask_scores(const attention_args& a, float* scores, index_t first, index_t n, const std::int64_t* seen, vf (&top)[2]) {
  for (index_t t = 0; t < n; ++t)
    for (index_t lane = 0; lane < panel_width; ++lane)
      if (first + t >= seen[lane] || (a.window > 0 && first + t < seen[lane] - a.window)) scores[t * panel_width + lane] = no_score;
  find_top(scores, n, top);
}

/// Keys of a segment that some row of a tile sees, [begin, end), and those that all of its rows see, [all_begin, all_end).
struct visible_keys {
  index_t begin, end, all_begin, all_end;
};

BLOCKATTN_INLINE index_t clamp_keys(index_t key, index_t tokens) { return key < 0 ? 0 : (key < tokens ? key : tokens); }

/// The keys of [seen - window, seen) in a segment; an even begin, since the values of two neighbouring tokens make a unit.
BLOCKATTN_INLINE index_t window_begin(const attention_args& a, index_t seen, index_t tokens) {
  const index_t begin = a.window > 0 ? clamp_keys(seen - a.window, tokens) : 0;
  return begin < tokens ? begin / 2 * 2 : tokens;
}

/// What the rows of a tile see of the segment. Rows are in order of position, so the first and the last say it all.
inline visible_keys count_visible(const attention_args& a, const attention_segment& s, index_t first, std::int64_t* seen) {
  for (index_t lane = 0; lane < panel_width; ++lane) {
    const index_t row = first + lane < a.row_end ? first + lane : a.row_end - 1;
    seen[lane] = a.position[row / a.group] - s.position + 1;
  }
  const index_t low = seen[0];
  const index_t high = seen[panel_width - 1];
  const index_t all_begin = a.window > 0 ? clamp_keys(high - a.window, s.tokens) : 0;
  return {window_begin(a, low, s.tokens), clamp_keys(high, s.tokens), all_begin, clamp_keys(low, s.tokens)};
}

/// One tile of rows over one tile of unpacked keys and values, the keys from `first` on; `masked`: some row doesn't see some of them.
template <product P>
inline void attend_tile(const attention_args& a, const attention_scratch& x, index_t tile, const std::byte* keys, const std::byte* values, index_t first,
                        index_t n, bool masked) {
  const index_t units = P == product::f32 ? a.head_dim : a.head_dim / 2;
  const index_t rows = tile * panel_width;
  vf top[2] = {splat(no_score), splat(no_score)};
  score_keys<P>(keys, n, x.rotated + rows * units, units, x, x.row_scale + rows, a.soft_cap > 0, top);
  if (a.soft_cap > 0) cap_scores<P>(x, n, a.soft_cap, top);
  if (masked) mask_scores(a, x.scores, first, n, x.seen + rows, top);
  vf shrink[2];
  vf gain[2];
  soften_scores<P>(x, n, top, x.maximum + rows, x.total + rows, masked, shrink, gain);
  add_values<P>(values, a.head_dim, x.weights, P == product::f32 ? n : (n + 1) / 2, shrink, gain, x.sums + rows * a.head_dim);
}

/// The rows of a tile as the segment's keys want them; `x` is the segment's.
template <product P>
inline void prepare_rows(const attention_args& a, const attention_segment& s, const attention_scratch& all, const attention_scratch& x, index_t tile) {
  const index_t units = P == product::f32 ? a.head_dim : a.head_dim / 2;
  const index_t rows = tile * panel_width;
  if (is_transformed(s.key_type))
    transform_rows<P>(a, s, x.rows + rows * a.head_dim, all.row_scale + rows, x.rotated + rows * units, x.row_scale + rows);
  else
    rotate_rows<P>(a, s, x.rows + rows * a.head_dim, x.rotated + rows * units);
}

template <product P>
inline void attend_segment(const attention_args& a, const attention_segment& s, const attention_scratch& all, index_t tiles) {
  attention_scratch x = all;
  if (is_transformed(s.key_type)) x.row_scale = all.transformed_scale;
  visible_keys visible[row_tiles];
  for (index_t i = 0; i < tiles; ++i) {
    visible[i] = count_visible(a, s, a.row_begin + i * panel_width, x.seen + i * panel_width);
    if (visible[i].end > visible[i].begin) prepare_rows<P>(a, s, all, x, i);
  }
  const index_t last = visible[tiles - 1].end;
  for (index_t first = visible[0].begin, next; first < last; first = next) {
    next = (first / key_tile + 1) * key_tile;
    const index_t n = (last < next ? last : next) - first;
    const std::byte* keys = tile_keys<P>(a, s, first, n, x);
    const std::byte* values = tile_values<P>(a, s, first, n, x);
    for (index_t i = 0; i < tiles; ++i) {
      if (first >= visible[i].end || first + n <= visible[i].begin) continue;
      attend_tile<P>(a, x, i, keys, values, first, n, first < visible[i].all_begin || first + n > visible[i].all_end);
    }
  }
}

/// The logarithm of a row's sum of exp(score), of a row without keys `no_score`.
inline void write_log_sum(const attention_args& a, index_t row, float maximum, float total) {
  constexpr float ln_2 = 0.69314718055994531f;
  a.log_sums[row / a.group * a.log_sum_stride + a.kv_head * a.group + row % a.group] = total > 0 ? maximum * ln_2 + __builtin_logf(total) : no_score;
}

/// Row r as it leaves the kernel: divided by its total, or, if the caller wants to join it with others, as it is, behind it the maximum and the total.
inline void put_row(const attention_args& a, index_t r, const float* sums, index_t step, float maximum, float total) {
  const bool whole = a.partial == nullptr;
  float* out = whole ? a.output + r / a.group * a.query_stride + (a.kv_head * a.group + r % a.group) * a.head_dim : a.partial + r * (a.head_dim + 2);
  const float scale = !whole ? 1.0f : total > 0 || a.log_sums == nullptr ? 1.0f / total : 0.0f;  // a row without keys is 0 where that may be
  for (index_t d = 0; d < a.head_dim; ++d) out[d] = sums[d * step] * scale;
  if (whole) {
    if (a.log_sums != nullptr) write_log_sum(a, r, maximum, total);
    return;
  }
  out[a.head_dim] = maximum;
  out[a.head_dim + 1] = total;
}

/// Rows gathered, nothing seen yet.
template <product P>
inline void begin_rows(const attention_args& a, const attention_scratch& x, index_t tiles) {
  for (index_t i = 0; i < tiles * panel_width; ++i) {
    x.maximum[i] = no_score;
    x.total[i] = 0;
  }
  for (index_t i = 0; i < tiles; ++i)
    gather_rows<P>(a, a.row_begin + i * panel_width, x.rows + i * a.head_dim * panel_width, x.row_scale + i * panel_width);
  __builtin_memset(x.sums, 0, static_cast<std::size_t>(tiles * a.head_dim * panel_width) * sizeof(float));
}

inline void end_rows(const attention_args& a, const attention_scratch& x) {
  for (index_t r = a.row_begin; r < a.row_end; ++r) {
    const index_t tile = (r - a.row_begin) / panel_width;
    const index_t lane = (r - a.row_begin) % panel_width;
    put_row(a, r, x.sums + tile * a.head_dim * panel_width + lane, panel_width, x.maximum[tile * panel_width + lane], x.total[tile * panel_width + lane]);
  }
}

inline bool any_transformed_values(const attention_args& a) {
  for (index_t i = 0; i < a.segment_count; ++i)
    if (is_transformed(a.segments[i].value_type)) return true;
  return false;
}

template <product P>
inline void attend_as(const attention_args& a, std::byte* scratch) {
  const attention_scratch x = split_scratch(scratch, a.head_dim);
  const index_t tiles = (a.row_end - a.row_begin + panel_width - 1) / panel_width;
  begin_rows<P>(a, x, tiles);
  if (any_transformed_values(a)) {
    for (index_t i = 0; i < a.segment_count; ++i)
      if (is_transformed(a.segments[i].value_type)) attend_segment<P>(a, a.segments[i], x, tiles);
    for (index_t i = 0; i < tiles; ++i)
      for (index_t lane = 0; lane < panel_width; lane += lanes) hadamard_lines(x.sums + i * a.head_dim * panel_width + lane, a.head_dim);
  }
  for (index_t i = 0; i < a.segment_count; ++i)
    if (!is_transformed(a.segments[i].value_type)) attend_segment<P>(a, a.segments[i], x, tiles);
  end_rows(a, x);
}
