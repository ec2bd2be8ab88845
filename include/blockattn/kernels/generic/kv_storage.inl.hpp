// Keys and values in storage: float32 to the types of core/kv.hpp and back. Included inside the namespace of each level.

/// A scale that half precision holds, for NaN too.
BLOCKATTN_INLINE float bounded_scale(float x) { return x < 65504.0f ? x : 65504.0f; }

/// One block of 32 values as q8_0. The scale is the rounded one, so that the quants are to nearest for what will be read.
BLOCKATTN_INLINE void store_q8_block(const float* x, std::byte* out) {
  vf top = splat(0);
#pragma GCC unroll 8
  for (int i = 0; i < 32; i += lanes) top = larger(absolute(load(x + i)), top);
  const std::uint16_t scale = f32_to_f16(bounded_scale(largest_lane(top) * (1.0f / 127)));
  const float d = f16_to_f32(scale);
  const vf inverse = splat(d > 0 ? 1 / d : 0);
  __builtin_memcpy(out, &scale, 2);
  vi quants[32 / lanes];
  for (int i = 0; i < 32; i += lanes) quants[i / lanes] = to_nearest(smaller(larger(load(x + i) * inverse, splat(-127)), splat(127)));
  store_bytes(out + 2, quants);
}

/// One block of 32 values as q4_0. The value of largest magnitude becomes -8 times the scale.
BLOCKATTN_INLINE void store_q4_block(const float* x, std::byte* out) {
  vf least = splat(0);
  vf most = splat(0);
#pragma GCC unroll 8
  for (int i = 0; i < 32; i += lanes) {
    least = larger(-load(x + i), least);
    most = larger(load(x + i), most);
  }
  const float low = largest_lane(least);
  const float high = largest_lane(most);
  const float extreme = high > low ? high : -low;
  const float magnitude = bounded_scale((extreme < 0 ? -extreme : extreme) * (1.0f / 8));
  const std::uint16_t scale = f32_to_f16(extreme > 0 ? -magnitude : magnitude);
  const float d = f16_to_f32(scale);
  const vf inverse = splat(d != 0 ? 1 / d : 0);
  __builtin_memcpy(out, &scale, 2);
  vi pairs[32 / lanes] = {};
  for (int i = 0; i < 16; i += lanes) {
    const vi a = to_nearest(smaller(larger(load(x + i) * inverse, splat(-8)), splat(7))) + 8;
    const vi b = to_nearest(smaller(larger(load(x + 16 + i) * inverse, splat(-8)), splat(7))) + 8;
    pairs[i / lanes] = ((a | (b << 4)) << 24) >> 24;  // as signed bytes
  }
  alignas(64) std::byte bytes[32];
  store_bytes(bytes, pairs);
  __builtin_memcpy(out + 2, bytes, 16);
}

/// What a scale d makes of magnitudes m [64]: the sum of the squared errors, and the scale that would suit the chosen levels best.
struct level_fit {
  float error, scale;
};

/// Magnitude number i of a type whose blocks hold transforms.
template <dtype Type>
constexpr int magnitude(std::size_t i) {
  return Type == dtype::q5_h ? q5_h_levels[i] : q4_h_levels[8 + i];
}
template <dtype Type>
inline constexpr std::size_t magnitudes = Type == dtype::q5_h ? 16 : 8;

/// The nearest level of magnitudes m in units of the scale, and its number.
template <dtype Type>
BLOCKATTN_INLINE vf nearest_level(vf m, vi& number) {
  vf level = splat(magnitude<Type>(0));
  number = vi{};
#pragma GCC unroll 16
  for (std::size_t i = 1; i < magnitudes<Type>; ++i) {
    const vi above = m > splat(0.5f * static_cast<float>(magnitude<Type>(i - 1) + magnitude<Type>(i)));
    level += reinterpret_cast<vf>(above & reinterpret_cast<vi>(splat(static_cast<float>(magnitude<Type>(i) - magnitude<Type>(i - 1)))));
    number -= above;
  }
  return level;
}

template <dtype Type>
inline level_fit fit_levels(const float* m, float d) {
  const vf inverse = splat(1 / d);
  vf error = splat(0), products = splat(0), squares = splat(0);
  vi number;
  for (int i = 0; i < 64; i += lanes) {
    const vf x = load(m + i) * inverse;
    const vf level = nearest_level<Type>(x, number);
    error += (x - level) * (x - level);
    products += x * level;
    squares += level * level;
  }
  return {sum_lanes(error) * d * d, d * sum_lanes(products) / sum_lanes(squares)};
}

/// The scale for magnitudes m [64], the largest being `most`: the best of some that put it near the last level, then of what suits the levels chosen under that.
template <dtype Type>
inline float search_scale(const float* m, float most) {
  float scale = 0, next = 0, error = 3e38f;
  for (int i = 0; i < 9; ++i) {
    const float d = most * (0.8f + 0.07f * static_cast<float>(i)) * (1.0f / 127);
    const level_fit fit = fit_levels<Type>(m, d);
    if (fit.error >= error) continue;
    error = fit.error;
    scale = d;
    next = fit.scale;
  }
  return fit_levels<Type>(m, next).error < error ? next : scale;
}

/// One block of 64 values as q5_h or q4_h. Numbers that half precision doesn't hold are cut.
template <dtype Type>
inline void store_transformed_block(const float* x, std::byte* out) {
  alignas(64) float u[64];
  alignas(64) float m[64];
  for (int i = 0; i < 64; i += lanes) store(u + i, smaller(larger(load(x + i), splat(-65504.0f)), splat(65504.0f)));
  hadamard_64(u);
  vf top = splat(0);
  for (int i = 0; i < 64; i += lanes) {
    store(m + i, absolute(load(u + i)));
    top = larger(load(m + i), top);
  }
  const float most = largest_lane(top);
  const std::uint16_t scale = f32_to_f16(most > 1e-30f ? search_scale<Type>(m, most) : 0);
  const float d = f16_to_f32(scale);
  const vf inverse = splat(d > 0 ? 1 / d : 0);
  __builtin_memcpy(out, &scale, 2);
  std::byte* nibbles = out + (Type == dtype::q5_h ? 10 : 2);
  for (int g = 0; g < 64; g += 32, nibbles += 16) {
    vi quants[32 / lanes];
    for (int i = 0; i < 32; i += lanes) {
      vi number;
      (void)nearest_level<Type>(load(m + g + i) * inverse, number);
      quants[i / lanes] = Type == dtype::q5_h ? number : (load(u + g + i) < splat(0) ? 7 - number : 8 + number);
    }
    alignas(64) std::byte bytes[32];
    store_bytes(bytes, quants);
    store_as(nibbles, load_as<bytes_16>(bytes) | load_as<bytes_16>(bytes + 16) << 4);
  }
  if constexpr (Type == dtype::q5_h) {
    for (int i = 0; i < 64; i += 8) {
      unsigned signs = 0;
      for (int j = 0; j < 8; ++j) signs |= (u[i + j] < 0 ? 1U : 0U) << j;
      out[2 + i / 8] = static_cast<std::byte>(signs);
    }
  }
}

inline void store_kv(dtype type, const float* x, index_t n, std::byte* out) {
  switch (type) {
    case dtype::f32: __builtin_memcpy(out, x, static_cast<std::size_t>(n) * sizeof(float)); return;
    case dtype::q8_0:
      for (index_t i = 0; i < n; i += 32, out += block_bytes(dtype::q8_0)) store_q8_block(x + i, out);
      return;
    case dtype::q4_0:
      for (index_t i = 0; i < n; i += 32, out += block_bytes(dtype::q4_0)) store_q4_block(x + i, out);
      return;
    case dtype::q5_h:
      for (index_t i = 0; i < n; i += 64, out += block_bytes(dtype::q5_h)) store_transformed_block<dtype::q5_h>(x + i, out);
      return;
    case dtype::q4_h:
      for (index_t i = 0; i < n; i += 64, out += block_bytes(dtype::q4_h)) store_transformed_block<dtype::q4_h>(x + i, out);
      return;
    default: break;
  }
  auto* halves = reinterpret_cast<std::uint16_t*>(out);
  index_t i = 0;
  const vf most = splat(65504.0f);  // of half precision
  for (; i + lanes <= n; i += lanes) type == dtype::f16 ? store_f16(halves + i, smaller(larger(load(x + i), -most), most)) : store_bf16(halves + i, load(x + i));
  for (; i < n; ++i) halves[i] = type == dtype::f16 ? f32_to_f16(x[i] > 65504.0f ? 65504.0f : x[i] < -65504.0f ? -65504.0f : x[i]) : f32_to_bf16(x[i]);
}

/// The scale of the block that channel i lies in; 1 for floats.
template <dtype Type>
BLOCKATTN_INLINE float block_scale(const std::byte* row, index_t i) {
  if constexpr (is_float(Type)) return 1;
  return read_half(row + i / block_values(Type) * block_bytes(Type));
}

/// -1 in the bytes whose bit in the 16 bits at p is set, else 0.
BLOCKATTN_INLINE bytes_16 spread_bits(const std::byte* p) {
  typedef std::uint64_t words_2 __attribute__((vector_size(16)));
  constexpr std::uint64_t ones = 0x0101010101010101U, bits = 0x8040201008040201U;
  const words_2 each = {std::to_integer<std::uint64_t>(p[0]) * ones, std::to_integer<std::uint64_t>(p[1]) * ones};
  return reinterpret_cast<bytes_16>(reinterpret_cast<bytes_16>(each & bits) != 0);
}

/// The 32 integers of the group of 32 that channel i lies in: where they lie, or unpacked to `room`.
template <dtype Type>
BLOCKATTN_INLINE const std::byte* block_quants(const std::byte* row, index_t i, std::byte (&room)[32]) {
  const std::byte* block = row + i / block_values(Type) * block_bytes(Type);
  const index_t group = i % block_values(Type) / 32;
  if constexpr (Type == dtype::q8_0) {
    return block + 2;
  } else if constexpr (Type == dtype::q4_0) {
    const auto raw = load_as<bytes_16>(block + 2);
    store_as(room, (raw & 15) - 8);
    store_as(room + 16, (raw >> 4) - 8);
  } else if constexpr (Type == dtype::q4_h) {
    const auto raw = load_as<bytes_16>(block + 2 + 16 * group);
    store_as(room, look_up(q4_h_levels.data(), raw & 15));
    store_as(room + 16, look_up(q4_h_levels.data(), raw >> 4));
  } else {
    const auto raw = load_as<bytes_16>(block + 10 + 16 * group);
    const bytes_16 low = spread_bits(block + 2 + 4 * group);
    const bytes_16 high = spread_bits(block + 4 + 4 * group);
    store_as(room, (look_up(q5_h_levels.data(), raw & 15) ^ low) - low);
    store_as(room + 16, (look_up(q5_h_levels.data(), raw >> 4) ^ high) - high);
  }
  return room;
}

/// Channels [i, i + lanes) of a row of floats; i is a multiple of `lanes`.
template <dtype Type>
BLOCKATTN_INLINE vf load_floats(const std::byte* row, index_t i) {
  if constexpr (Type == dtype::f32) return load_as<vf>(row + 4 * i);
  if constexpr (Type == dtype::f16) return load_f16(reinterpret_cast<const std::uint16_t*>(row) + i);
  return load_bf16(reinterpret_cast<const std::uint16_t*>(row) + i);
}

/// A row of `channels` channels, whole vectors and blocks of them -> float32, as it lies there: transformed if its type is.
template <dtype Type>
BLOCKATTN_INLINE void widen_row(const std::byte* row, index_t channels, float* out) {
  if constexpr (is_float(Type)) {
    for (index_t i = 0; i + lanes <= channels; i += lanes) store(out + i, load_floats<Type>(row, i));
  } else {
    alignas(16) std::byte room[32];
    for (index_t i = 0; i < channels; i += 32) {
      const std::byte* quants = block_quants<Type>(row, i, room);
      const vf scale = splat(block_scale<Type>(row, i));
#pragma GCC unroll 8
      for (index_t j = 0; j < 32; j += lanes) store(out + i + j, widen_signed(quants + j) * scale);
    }
  }
}

template <dtype Type>
inline void load_kv_as(const std::byte* in, index_t n, float* x) {
  widen_row<Type>(in, n, x);
  if constexpr (is_transformed(Type)) hadamard_row(x, n);
}

inline void load_kv(dtype type, const std::byte* in, index_t n, float* x) {
  switch (type) {
    case dtype::f32: __builtin_memcpy(x, in, static_cast<std::size_t>(n) * sizeof(float)); return;
    case dtype::q8_0: return load_kv_as<dtype::q8_0>(in, n, x);
    case dtype::q4_0: return load_kv_as<dtype::q4_0>(in, n, x);
    case dtype::q5_h: return load_kv_as<dtype::q5_h>(in, n, x);
    case dtype::q4_h: return load_kv_as<dtype::q4_h>(in, n, x);
    case dtype::f16: load_kv_as<dtype::f16>(in, n, x); break;
    default: load_kv_as<dtype::bf16>(in, n, x); break;
  }
  const auto* halves = reinterpret_cast<const std::uint16_t*>(in);
  for (index_t i = n / lanes * lanes; i < n; ++i) x[i] = type == dtype::f16 ? f16_to_f32(halves[i]) : bf16_to_f32(halves[i]);
}
