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

inline void rotate(rope_pairing pairing, float* x, index_t heads, index_t head_dim, const float* cosine, const float* sine) {
  const index_t half = head_dim / 2;
  for (index_t h = 0; h < heads; ++h, x += head_dim) {
    if (pairing == rope_pairing::halves) {
      for (index_t i = 0; i < half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = a * sine[i] + b * cosine[i];
      }
    } else {
      for (index_t i = 0; i < half; ++i) {
        const float a = x[2 * i];
        const float b = x[2 * i + 1];
        x[2 * i] = a * cosine[i] - b * sine[i];
        x[2 * i + 1] = a * sine[i] + b * cosine[i];
      }
    }
  }
}
