// Attention over many runs of cached tokens where they lie, with an online softmax. Included inside the namespace of each level.
//
// A row is one query token with one query head of the KV head's group. `panel_width` rows form a tile that fills the lanes of two vectors, so the
// softmax needs no sums across lanes. For each segment the rows, already rotated at their own positions p, are rotated back by the segment's offset o:
//   <R(p) q, R(o) k> = <R(-o) R(p) q, k>
// once for all keys of the segment; then the keys go by in tiles of `key_tile`, unpacked to the arithmetic's units only if they aren't so already.
// A sliding window is a matter of positions alone: of each segment a row sees the keys from `seen - window` up to `seen`. Tiles of keys lie at multiples
// of `key_tile`, so what a row computes doesn't depend on the rows beside it: hidden keys add zeros.
// Source of the online softmax: Milakov and Gimelshein, arXiv 1805.02867; of the tiling: FlashAttention, arXiv 2205.14135.

inline constexpr index_t key_tile = 64;
inline constexpr index_t row_tiles = attention_rows / panel_width;
inline constexpr float no_score = -1e30f;

/// Pieces of the caller's scratch.
struct attention_scratch {
  float* rows;               // [tiles][Dh][panel_width] queries, scaled, rotated at their positions
  std::uint32_t* rotated;    // [tiles][Dh units][panel_width] the same for the segment at hand, as units
  float* sums;               // [tiles][Dh][panel_width] weighted values so far
  float* maximum;            // [tiles][panel_width]
  float* total;              // [tiles][panel_width]
  float* scores;             // [key_tile][panel_width]
  std::uint32_t* weights;    // [key_tile units][panel_width]
  std::byte* keys;           // [key_tile][Dh units]
  std::byte* values;         // [key_tile units][Dh]
  std::int64_t* seen;        // [tiles][panel_width] keys of the segment up to a row's own position: any integer
};

template <class T>
BLOCKATTN_INLINE T* take_scratch(std::byte*& p, index_t count) {
  auto* result = reinterpret_cast<T*>(p);
  p += (static_cast<index_t>(sizeof(T)) * count + 63) / 64 * 64;
  return result;
}

BLOCKATTN_INLINE attention_scratch split_scratch(std::byte* p, index_t head_dim) {
  attention_scratch s;
  s.rows = take_scratch<float>(p, attention_rows * head_dim);
  s.rotated = take_scratch<std::uint32_t>(p, attention_rows * head_dim);
  s.sums = take_scratch<float>(p, attention_rows * head_dim);
  s.maximum = take_scratch<float>(p, attention_rows);
  s.total = take_scratch<float>(p, attention_rows);
  s.seen = take_scratch<std::int64_t>(p, attention_rows);
  s.scores = take_scratch<float>(p, key_tile * panel_width);
  s.weights = take_scratch<std::uint32_t>(p, key_tile * panel_width);
  s.keys = take_scratch<std::byte>(p, key_tile * head_dim * 4);
  s.values = take_scratch<std::byte>(p, key_tile * head_dim * 4);
  return s;
}

/// Gathers the rows [Dh][panel_width], scaled; rows past the end are zero.
inline void gather_rows(const attention_args& a, index_t first, float* rows) {
  for (index_t lane = 0; lane < panel_width; ++lane) {
    const index_t r = first + lane;
    if (r >= a.row_end) {
      for (index_t d = 0; d < a.head_dim; ++d) rows[d * panel_width + lane] = 0;
      continue;
    }
    const float* q = a.queries + r / a.group * a.query_stride + (a.kv_head * a.group + r % a.group) * a.head_dim;
    for (index_t d = 0; d < a.head_dim; ++d) rows[d * panel_width + lane] = q[d] * a.scale;
  }
}

/// rows -> units, rotated by minus the segment's offset.
template <bool Bf16>
inline void rotate_rows(const attention_args& a, const attention_segment& s, const float* rows, std::uint32_t* units) {
  alignas(64) std::uint16_t turned[max_head_dim * lanes];  // all channels of one vector of rows
  const bool halves = a.pairing == rope_pairing::halves;
  const index_t turned_pairs = (a.rotated > 0 ? a.rotated : a.head_dim) / 2;
  const index_t pairs = a.head_dim / 2;
  for (index_t lane = 0; lane < panel_width; lane += lanes) {
    for (index_t i = 0; i < pairs; ++i) {
      const bool turn = s.cosine != nullptr && i < turned_pairs;
      const index_t low = halves && i < turned_pairs ? i : 2 * i;
      const index_t high = halves && i < turned_pairs ? i + turned_pairs : 2 * i + 1;
      const vf x = load(rows + low * panel_width + lane);
      const vf y = load(rows + high * panel_width + lane);
      const vf c = splat(turn ? s.cosine[i] : 1.0f);
      const vf n = splat(turn ? s.sine[i] : 0.0f);
      const vf u = x * c + y * n;
      const vf v = y * c - x * n;
      if constexpr (Bf16) {
        store_bf16(turned + low * lanes, u);
        store_bf16(turned + high * lanes, v);
      } else {
        store_as(units + low * panel_width + lane, u);
        store_as(units + high * panel_width + lane, v);
      }
    }
    if constexpr (Bf16) {
      for (index_t i = 0; i < pairs; ++i) {
        const vu even = widen_halves(turned + 2 * i * lanes);
        const vu odd = widen_halves(turned + (2 * i + 1) * lanes);
        store_as(units + i * panel_width + lane, even | (odd << 16));
      }
    }
  }
}

/// Keys of one tile as [n][Dh units]; returned where they lie if they are stored so.
template <bool Bf16>
inline const std::byte* tile_keys(const attention_args& a, const attention_segment& s, index_t first, index_t n, std::byte* scratch) {
  const index_t bytes = row_bytes(s.key_type, a.head_dim);
  const std::byte* from = s.keys + first * bytes;
  if (s.key_type == (Bf16 ? dtype::bf16 : dtype::f32)) return from;
  for (index_t t = 0; t < n; ++t)
    for (index_t d = 0; d < a.head_dim; d += lanes) {
      const vf x = load_channels(s.key_type, from + t * bytes, d);
      if constexpr (Bf16)
        store_bf16(reinterpret_cast<std::uint16_t*>(scratch) + t * a.head_dim + d, x);
      else
        store_as(scratch + 4 * (t * a.head_dim + d), x);
    }
  return scratch;
}

/// Values of one tile as [units][Dh]: a unit is one value, or the values of two neighbouring tokens.
template <bool Bf16>
inline const std::byte* tile_values(const attention_args& a, const attention_segment& s, index_t first, index_t n, std::byte* scratch) {
  const index_t bytes = row_bytes(s.value_type, a.head_dim);
  const std::byte* from = s.values + first * bytes;
  if (!Bf16 && s.value_type == dtype::f32) return from;
  if constexpr (!Bf16) {
    for (index_t t = 0; t < n; ++t)
      for (index_t d = 0; d < a.head_dim; d += lanes) store_as(scratch + 4 * (t * a.head_dim + d), load_channels(s.value_type, from + t * bytes, d));
    return scratch;
  }
  alignas(64) std::uint16_t rounded[2 * lanes];
  for (index_t t = 0; t < n; t += 2) {
    for (index_t d = 0; d < a.head_dim; d += lanes) {
      vu even;
      vu odd = vu{};
      if (s.value_type == dtype::bf16) {
        even = widen_halves(reinterpret_cast<const std::uint16_t*>(from + t * bytes) + d);
        if (t + 1 < n) odd = widen_halves(reinterpret_cast<const std::uint16_t*>(from + (t + 1) * bytes) + d);
      } else {
        store_bf16(rounded, load_channels(s.value_type, from + t * bytes, d));
        even = widen_halves(rounded);
        if (t + 1 < n) {
          store_bf16(rounded, load_channels(s.value_type, from + (t + 1) * bytes, d));
          odd = widen_halves(rounded);
        }
      }
      store_as(scratch + (t / 2 * a.head_dim + d) * 4, even | (odd << 16));
    }
  }
  return scratch;
}

/// Hides those of the keys from `first` on that a row doesn't see.
inline void mask_scores(const attention_args& a, float* scores, index_t first, index_t n, const std::int64_t* seen) {
  for (index_t t = 0; t < n; ++t)
    for (index_t lane = 0; lane < panel_width; ++lane)
      if (first + t >= seen[lane] || (a.window > 0 && first + t < seen[lane] - a.window)) scores[t * panel_width + lane] = no_score;
}

inline void cap_scores(float* scores, index_t n, float cap) {
  for (index_t i = 0; i < n * panel_width; i += lanes) store(scores + i, capped(load(scores + i), cap));
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

/// scores [n][panel_width] -> probabilities relative to the running maximum, as units; updates maximum, total and the scale of the sums.
template <bool Bf16>
inline void soften_scores(float* scores, index_t n, float* maximum, float* total, float* sums, index_t head_dim, std::uint32_t* weights) {
  for (index_t lane = 0; lane < panel_width; lane += lanes) {
    const vf before = load(maximum + lane);
    vf top = before;
    for (index_t t = 0; t < n; ++t) top = larger(top, load(scores + t * panel_width + lane));
    const vf shrink = exponential(before - top);
    vf sum = load(total + lane) * shrink;
    for (index_t t = 0; t < n; ++t) {
      // A row that sees nothing yet has top == no_score: its weights must be 0, not exp(0).
      const vf score = load(scores + t * panel_width + lane);
      const vf p = score <= splat(no_score) ? splat(0.0f) : exponential(score - top);
      sum += p;
      store(scores + t * panel_width + lane, p);
    }
    store(maximum + lane, top);
    store(total + lane, sum);
    for (index_t d = 0; d < head_dim; ++d) store(sums + d * panel_width + lane, load(sums + d * panel_width + lane) * shrink);
  }
  if constexpr (!Bf16) {
    __builtin_memcpy(weights, scores, static_cast<std::size_t>(n * panel_width) * sizeof(float));
    return;
  }
  alignas(64) std::uint16_t rounded[2 * lanes];
  for (index_t t = 0; t < n; t += 2) {
    for (index_t lane = 0; lane < panel_width; lane += lanes) {
      store_bf16(rounded, load(scores + t * panel_width + lane));
      store_bf16(rounded + lanes, t + 1 < n ? load(scores + (t + 1) * panel_width + lane) : splat(0));
      const vu even = widen_halves(rounded);
      const vu odd = widen_halves(rounded + lanes);
      store_as(weights + t / 2 * panel_width + lane, even | (odd << 16));
    }
  }
}

/// What the rows of a tile see of the segment. Rows are in order of position, so the first and the last say it all.
inline visible_keys count_visible(const attention_args& a, const attention_segment& s, index_t first, std::int64_t* seen) {
  for (index_t lane = 0; lane < panel_width; ++lane) {
    const index_t row = first + lane < a.row_end ? first + lane : a.row_end - 1;
    seen[lane] = a.position + row / a.group - s.position + 1;
  }
  const index_t low = seen[0];
  const index_t high = seen[panel_width - 1];
  const index_t all_begin = a.window > 0 ? clamp_keys(high - a.window, s.tokens) : 0;
  return {window_begin(a, low, s.tokens), clamp_keys(high, s.tokens), all_begin, clamp_keys(low, s.tokens)};
}

template <bool Bf16>
inline void attend_segment(const attention_args& a, const attention_segment& s, const attention_scratch& x, index_t tiles) {
  const index_t key_units = Bf16 ? a.head_dim / 2 : a.head_dim;
  visible_keys visible[row_tiles];
  for (index_t i = 0; i < tiles; ++i) {
    visible[i] = count_visible(a, s, a.row_begin + i * panel_width, x.seen + i * panel_width);
    if (visible[i].end > visible[i].begin) rotate_rows<Bf16>(a, s, x.rows + i * a.head_dim * panel_width, x.rotated + i * key_units * panel_width);
  }
  const index_t last = visible[tiles - 1].end;
  for (index_t first = visible[0].begin, next; first < last; first = next) {
    next = (first / key_tile + 1) * key_tile;
    const index_t n = (last < next ? last : next) - first;
    const std::byte* keys = tile_keys<Bf16>(a, s, first, n, x.keys);
    const std::byte* values = tile_values<Bf16>(a, s, first, n, x.values);
    for (index_t i = 0; i < tiles; ++i) {
      if (first >= visible[i].end || first + n <= visible[i].begin) continue;
      multiply_rows<Bf16, false>(keys, key_units * 4, 4, n, x.rotated + i * key_units * panel_width, key_units, x.scores, panel_width);
      if (a.soft_cap > 0) cap_scores(x.scores, n, a.soft_cap);
      if (first < visible[i].all_begin || first + n > visible[i].all_end) mask_scores(a, x.scores, first, n, x.seen + i * panel_width);
      float* sums = x.sums + i * a.head_dim * panel_width;
      soften_scores<Bf16>(x.scores, n, x.maximum + i * panel_width, x.total + i * panel_width, sums, a.head_dim, x.weights);
      multiply_rows<Bf16, true>(values, 4, a.head_dim * 4, a.head_dim, x.weights, Bf16 ? (n + 1) / 2 : n, sums, panel_width);
    }
  }
}

/// The logarithm of a row's sum; a row without keys has the output 0.
inline void write_log_sum(const attention_args& a, index_t row, float maximum, float total, float* out) {
  a.log_sums[row / a.group * a.log_sum_stride + a.kv_head * a.group + row % a.group] = total > 0 ? maximum + __builtin_logf(total) : no_score;
  if (!(total > 0)) __builtin_memset(out, 0, static_cast<std::size_t>(a.head_dim) * sizeof(float));
}

template <bool Bf16>
inline void attend_as(const attention_args& a, std::byte* scratch) {
  const attention_scratch x = split_scratch(scratch, a.head_dim);
  const index_t tiles = (a.row_end - a.row_begin + panel_width - 1) / panel_width;
  for (index_t i = 0; i < tiles * panel_width; ++i) {
    x.maximum[i] = no_score;
    x.total[i] = 0;
  }
  for (index_t i = 0; i < tiles; ++i) gather_rows(a, a.row_begin + i * panel_width, x.rows + i * a.head_dim * panel_width);
  __builtin_memset(x.sums, 0, static_cast<std::size_t>(tiles * a.head_dim * panel_width) * sizeof(float));
  for (index_t i = 0; i < a.segment_count; ++i) attend_segment<Bf16>(a, a.segments[i], x, tiles);
  for (index_t r = a.row_begin; r < a.row_end; ++r) {
    const index_t tile = (r - a.row_begin) / panel_width;
    const index_t lane = (r - a.row_begin) % panel_width;
    const float scale = 1.0f / x.total[tile * panel_width + lane];
    float* out = a.output + r / a.group * a.query_stride + (a.kv_head * a.group + r % a.group) * a.head_dim;
    for (index_t d = 0; d < a.head_dim; ++d) out[d] = x.sums[(tile * a.head_dim + d) * panel_width + lane] * scale;
    if (a.log_sums != nullptr) write_log_sum(a, r, x.maximum[tile * panel_width + lane], x.total[tile * panel_width + lane], out);
  }
}
