// Keys and values in storage: float32 to the types of core/kv.hpp and back. Included inside the namespace of each level.

/// A scale that half precision holds, for NaN too.
BLOCKATTN_INLINE float bounded_scale(float x) { return x < 65504.0f ? x : 65504.0f; }

/// One block of 32 values as q8_0. The scale is the rounded one, so that the quants are to nearest for what will be read.
BLOCKATTN_INLINE void store_q8_block(const float* x, std::byte* out) {
  vf top = splat(0);
#pragma GCC unroll 8
  for (int i = 0; i < 32; i += lanes) top = larger(top, absolute(load(x + i)));
  const std::uint16_t scale = f32_to_f16(bounded_scale(largest_lane(top) * (1.0f / 127)));
  const float d = f16_to_f32(scale);
  const vf inverse = splat(d > 0 ? 1 / d : 0);
  __builtin_memcpy(out, &scale, 2);
  for (int i = 0; i < 32; i += lanes) {
    const vi q = to_nearest(smaller(larger(load(x + i) * inverse, splat(-127)), splat(127)));
    store_as(out + 2 + i, __builtin_convertvector(q, vb));
  }
}

/// One block of 32 values as q4_0. The value of largest magnitude becomes -8 times the scale.
BLOCKATTN_INLINE void store_q4_block(const float* x, std::byte* out) {
  float low = 0, high = 0;
  for (int i = 0; i < 32; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  const float extreme = high > -low ? high : low;
  const float magnitude = bounded_scale((extreme < 0 ? -extreme : extreme) * (1.0f / 8));
  const std::uint16_t scale = f32_to_f16(extreme > 0 ? -magnitude : magnitude);
  const float d = f16_to_f32(scale);
  const vf inverse = splat(d != 0 ? 1 / d : 0);
  __builtin_memcpy(out, &scale, 2);
  for (int i = 0; i < 16; i += lanes) {
    const vi a = to_nearest(smaller(larger(load(x + i) * inverse, splat(-8)), splat(7))) + 8;
    const vi b = to_nearest(smaller(larger(load(x + 16 + i) * inverse, splat(-8)), splat(7))) + 8;
    store_as(out + 2 + i, __builtin_convertvector(reinterpret_cast<vu>(a | (b << 4)), vub));
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
    default: break;
  }
  auto* halves = reinterpret_cast<std::uint16_t*>(out);
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) type == dtype::f16 ? store_f16(halves + i, load(x + i)) : store_bf16(halves + i, load(x + i));
  for (; i < n; ++i) halves[i] = type == dtype::f16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
}

/// Channels [i, i + lanes) of a row in storage; i is a multiple of `lanes`.
BLOCKATTN_INLINE vf load_channels(dtype type, const std::byte* row, index_t i) {
  switch (type) {
    case dtype::f32: return load_as<vf>(row + 4 * i);
    case dtype::f16: return load_f16(reinterpret_cast<const std::uint16_t*>(row) + i);
    case dtype::bf16: return load_bf16(reinterpret_cast<const std::uint16_t*>(row) + i);
    case dtype::q8_0: {
      const std::byte* block = row + i / 32 * block_bytes(dtype::q8_0);
      return widen_signed(block + 2 + i % 32) * splat(read_half(block));
    }
    default: {
      const std::byte* block = row + i / 32 * block_bytes(dtype::q4_0);
      const vub raw = load_as<vub>(block + 2 + i % 16);
      const vub quants = i % 32 < 16 ? raw & 15 : raw >> 4;
      return (widen_bytes(quants) - splat(8)) * splat(read_half(block));
    }
  }
}

inline void load_kv(dtype type, const std::byte* in, index_t n, float* x) {
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) store(x + i, load_channels(type, in, i));
  if (i == n) return;
  if (type == dtype::f32) {
    __builtin_memcpy(x + i, in + 4 * i, static_cast<std::size_t>(n - i) * sizeof(float));
    return;
  }
  const auto* halves = reinterpret_cast<const std::uint16_t*>(in);
  for (; i < n; ++i) x[i] = type == dtype::f16 ? f16_to_f32(halves[i]) : bf16_to_f32(halves[i]);
}
