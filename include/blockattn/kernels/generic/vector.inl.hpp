// Vectors of `lanes` values on the compilers' vector extensions. Included once inside the namespace of each level, which gives `lanes`.
// No include guard, no includes: see prelude.hpp.

typedef float vf __attribute__((vector_size(lanes * 4)));
typedef std::int32_t vi __attribute__((vector_size(lanes * 4)));
typedef std::uint32_t vu __attribute__((vector_size(lanes * 4)));
typedef std::uint16_t vh __attribute__((vector_size(lanes * 2)));
typedef std::int8_t vb __attribute__((vector_size(lanes)));
typedef std::uint8_t vub __attribute__((vector_size(lanes)));

typedef std::uint8_t bytes_16 __attribute__((vector_size(16)));

template <class V>
BLOCKATTN_INLINE V load_as(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <class V>
BLOCKATTN_INLINE void store_as(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

BLOCKATTN_INLINE vf load(const float* p) { return load_as<vf>(p); }
BLOCKATTN_INLINE void store(float* p, vf v) { store_as(p, v); }

/// All lanes x. Subtracting zero keeps every value, -0 included, and both compilers make one broadcast of it.
BLOCKATTN_INLINE vf splat(float x) { return x - vf{}; }
BLOCKATTN_INLINE vi splat_bits(std::uint32_t x) { return reinterpret_cast<vi>(splat(std::bit_cast<float>(x))); }

BLOCKATTN_INLINE vf larger(vf a, vf b) { return a > b ? a : b; }
BLOCKATTN_INLINE vf smaller(vf a, vf b) { return a < b ? a : b; }

/// Sum of the lanes, always in the same order: halves onto halves.
BLOCKATTN_INLINE float sum_lanes(vf v) {
  float x[lanes];
  store(x, v);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

/// Largest lane.
BLOCKATTN_INLINE float largest_lane(vf v) {
  float x[lanes];
  store(x, v);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  return x[0];
}

BLOCKATTN_INLINE vf absolute(vf x) { return reinterpret_cast<vf>(reinterpret_cast<vi>(x) & splat_bits(0x7fffffffU)); }

/// To the nearest integer, ties to even, for magnitudes up to 2^22.
BLOCKATTN_INLINE vi to_nearest(vf x) { return reinterpret_cast<vi>(x + splat(12582912.0f)) - splat_bits(0x4b400000U); }

/// exp(x), relative error below 3e-7 on [-87, 88]; smaller arguments give 0, larger ones the value at 88.
BLOCKATTN_INLINE vf exponential(vf x) {
  const vf bounded = smaller(larger(x, splat(-87.3f)), splat(88.0f));
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const vf shifted = bounded * splat(1.44269504088896341f) + magic;
  const vf n = shifted - magic;
  vf r = bounded - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  vf p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + r + splat(1.0f);
  const vi exponent = (reinterpret_cast<vi>(shifted) << 23) + splat_bits(0x3f800000U);
  const vf result = p * reinterpret_cast<vf>(exponent);
  return x < splat(-87.3f) ? splat(0.0f) : result;
}

/// Half precision by integer arithmetic: exact, subnormals included; infinities and NaN become infinity's neighbours of 2^16.
BLOCKATTN_INLINE vf f16_to_f32_by_bits(vu bits) {
  const vf magnitude = reinterpret_cast<vf>((bits & 0x7fffU) << 13) * splat(0x1p112f);
  return reinterpret_cast<vf>(reinterpret_cast<vu>(magnitude) | ((bits & 0x8000U) << 16));
}

/// To nearest, ties to even.
BLOCKATTN_INLINE void store_bf16_by_bits(std::uint16_t* p, vf x) {
  const vu bits = reinterpret_cast<vu>(x);
  const vu rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const vu nan = (bits >> 16) | 0x40U;
  store_as(p, __builtin_convertvector(x == x ? rounded : nan, vh));
}
