// GELU and the soft cap. Included inside the namespace of each level, after elementwise.inl.hpp.
//
// gelu(x) = x/2 * (1 + tanh(z)) = x / (1 + exp(-2z)) with z = sqrt(2/pi) * (x + 0.044715 x^3): the tanh form of arXiv 1606.08415.

/// tanh(x), relative error below 4e-7: near 0 by its series, elsewhere 1 - 2 / (exp(2x) + 1).
BLOCKATTN_INLINE vf tangent(vf x) {
  const vf square = x * x;
  vf series = splat(21844.0f / 6081075.0f);
  series = splat(-1382.0f / 155925.0f) + square * series;
  series = splat(62.0f / 2835.0f) + square * series;
  series = splat(-17.0f / 315.0f) + square * series;
  series = splat(2.0f / 15.0f) + square * series;
  series = splat(-1.0f / 3.0f) + square * series;
  const vf near = x + x * square * series;
  const vf far = splat(1.0f) - splat(2.0f) / (exponential(x + x) + splat(1.0f));
  return square < splat(0.16f) ? near : far;
}

/// cap * tanh(x / cap).
BLOCKATTN_INLINE vf capped(vf x, float cap) { return splat(cap) * tangent(x * splat(1.0f / cap)); }

BLOCKATTN_INLINE vf gelu(vf x) {
  const vf z = (x + splat(0.044715f) * x * x * x) * splat(0.79788456080286536f);
  return x / (splat(1.0f) + exponential(splat(-2.0f) * z));
}

inline void gelu_multiply(float* gate, const float* up, index_t n) {
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) store(gate + i, gelu(load(gate + i)) * load(up + i));
  if (i == n) return;
  float rest[lanes] = {};
  __builtin_memcpy(rest, gate + i, static_cast<std::size_t>(n - i) * sizeof(float));
  store(rest, gelu(load(rest)));
  for (index_t j = 0; i < n; ++i, ++j) gate[i] = rest[j] * up[i];
}

inline void soft_cap(float* x, index_t n, float cap) {
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) store(x + i, capped(load(x + i), cap));
  if (i == n) return;
  float rest[lanes] = {};
  __builtin_memcpy(rest, x + i, static_cast<std::size_t>(n - i) * sizeof(float));
  store(rest, capped(load(rest), cap));
  __builtin_memcpy(x + i, rest, static_cast<std::size_t>(n - i) * sizeof(float));
}
