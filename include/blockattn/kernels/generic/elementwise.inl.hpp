// Norm, activation and rotation. Included inside the namespace of each level.

inline void rms_norm(const float* x, const float* weight, index_t columns, float epsilon, float* y) {
  vf squares = splat(0);
  index_t k = 0;
  for (; k + lanes <= columns; k += lanes) squares = multiply_add(load(x + k), load(x + k), squares);
  float sum = sum_lanes(squares);
  for (index_t i = k; i < columns; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(columns) + epsilon);
  for (k = 0; k + lanes <= columns; k += lanes) store(y + k, load(x + k) * splat(scale) * load(weight + k));
  for (; k < columns; ++k) y[k] = x[k] * scale * weight[k];
}

inline void silu_multiply(float* gate, const float* up, index_t n) {
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const vf g = load(gate + i);
    store(gate + i, g / (splat(1.0f) + exponential(-g)) * load(up + i));
  }
  for (; i < n; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

typedef std::uint64_t vpair __attribute__((vector_size(lanes * 4)));
typedef std::uint32_t half_vector __attribute__((vector_size(lanes * 2)));

/// Each of lanes / 2 values twice, side by side.
BLOCKATTN_INLINE vpair twice(const float* p) {
  const vpair low = __builtin_convertvector(load_as<half_vector>(p), vpair);
  return low | (low << 32);
}

BLOCKATTN_INLINE void turn_pair(float& a, float& b, float cosine, float sine) {
  const float turned = a * cosine - b * sine;
  b = a * sine + b * cosine;
  a = turned;
}

inline void rotate_halves(float* x, index_t heads, index_t head_dim, const float* cosine, const float* sine) {
  const index_t half = head_dim / 2;
  index_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const vf c = load(cosine + i);
    const vf s = load(sine + i);
    for (index_t h = 0; h < heads; ++h) {
      float* low = x + h * head_dim + i;
      const vf a = load(low);
      const vf b = load(low + half);
      store(low, a * c - b * s);
      store(low + half, a * s + b * c);
    }
  }
  for (; i < half; ++i)
    for (index_t h = 0; h < heads; ++h) turn_pair(x[h * head_dim + i], x[h * head_dim + i + half], cosine[i], sine[i]);
}

inline void rotate_adjacent(float* x, index_t heads, index_t head_dim, const float* cosine, const float* sine) {
  index_t i = 0;
  for (; 2 * i + lanes <= head_dim; i += lanes / 2) {
    const vf c = reinterpret_cast<vf>(twice(cosine + i));
    const vf s = reinterpret_cast<vf>(twice(sine + i) ^ 0x80000000U);  // minus the sine for the first of a pair
    for (index_t h = 0; h < heads; ++h) {
      float* at = x + h * head_dim + 2 * i;
      const vpair pair = load_as<vpair>(at);
      store(at, reinterpret_cast<vf>(pair) * c + reinterpret_cast<vf>((pair >> 32) | (pair << 32)) * s);
    }
  }
  for (; i < head_dim / 2; ++i)
    for (index_t h = 0; h < heads; ++h) turn_pair(x[h * head_dim + 2 * i], x[h * head_dim + 2 * i + 1], cosine[i], sine[i]);
}

inline void rotate(rope_pairing pairing, float* x, index_t heads, index_t head_dim, const float* cosine, const float* sine) {
  if (pairing == rope_pairing::halves) return rotate_halves(x, heads, head_dim, cosine, sine);
  rotate_adjacent(x, heads, head_dim, cosine, sine);
}
