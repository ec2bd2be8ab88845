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

inline void store_kv(dtype type, const float* x, index_t n, std::byte* out) {
  switch (type) {
    case dtype::f32: __builtin_memcpy(out, x, static_cast<std::size_t>(n) * sizeof(float)); return;
    case dtype::q8_0:
      for (index_t i = 0; i < n; i += 32, out += block_bytes(dtype::q8_0)) store_q8_block(x + i, out);
      return;
    case dtype::q4_0:
      for (index_t i = 0; i < n; i += 32, out += block_bytes(dtype::q4_0)) store_q4_block(x + i, out);
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
  return read_half(row + i / 32 * block_bytes(Type));
}

/// The 32 integers of the block that channel i lies in: where they lie, or unpacked to `room`.
template <dtype Type>
BLOCKATTN_INLINE const std::byte* block_quants(const std::byte* row, index_t i, std::byte (&room)[32]) {
  const std::byte* quants = row + i / 32 * block_bytes(Type) + 2;
  if constexpr (Type == dtype::q8_0) return quants;
  typedef std::uint8_t bytes_16 __attribute__((vector_size(16)));
  const auto raw = load_as<bytes_16>(quants);
  store_as(room, (raw & 15) - 8);
  store_as(room + 16, (raw >> 4) - 8);
  return room;
}

/// Channels [i, i + lanes) of a row of floats; i is a multiple of `lanes`.
template <dtype Type>
BLOCKATTN_INLINE vf load_floats(const std::byte* row, index_t i) {
  if constexpr (Type == dtype::f32) return load_as<vf>(row + 4 * i);
  if constexpr (Type == dtype::f16) return load_f16(reinterpret_cast<const std::uint16_t*>(row) + i);
  return load_bf16(reinterpret_cast<const std::uint16_t*>(row) + i);
}

/// A row of `channels` channels, whole vectors and blocks of them -> float32.
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
}

inline void load_kv(dtype type, const std::byte* in, index_t n, float* x) {
  switch (type) {
    case dtype::f32: __builtin_memcpy(x, in, static_cast<std::size_t>(n) * sizeof(float)); return;
    case dtype::q8_0: return load_kv_as<dtype::q8_0>(in, n, x);
    case dtype::q4_0: return load_kv_as<dtype::q4_0>(in, n, x);
    case dtype::f16: load_kv_as<dtype::f16>(in, n, x); break;
    default: load_kv_as<dtype::bf16>(in, n, x); break;
  }
  const auto* halves = reinterpret_cast<const std::uint16_t*>(in);
  for (index_t i = n / lanes * lanes; i < n; ++i) x[i] = type == dtype::f16 ? f16_to_f32(halves[i]) : bf16_to_f32(halves[i]);
}
