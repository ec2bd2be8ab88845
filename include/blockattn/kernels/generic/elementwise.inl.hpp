// Norm, activation, rotation and KV storage. Included inside the namespace of each level.

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

inline void store_kv(dtype type, const float* x, index_t n, std::byte* out) {
  if (type == dtype::f32) {
    __builtin_memcpy(out, x, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  auto* halves = reinterpret_cast<std::uint16_t*>(out);
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) type == dtype::f16 ? store_f16(halves + i, load(x + i)) : store_bf16(halves + i, load(x + i));
  for (; i < n; ++i) halves[i] = type == dtype::f16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
}

inline void load_kv(dtype type, const std::byte* in, index_t n, float* x) {
  if (type == dtype::f32) {
    __builtin_memcpy(x, in, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  const auto* halves = reinterpret_cast<const std::uint16_t*>(in);
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) store(x + i, type == dtype::f16 ? load_f16(halves + i) : load_bf16(halves + i));
  for (; i < n; ++i) x[i] = type == dtype::f16 ? f16_to_f32(halves[i]) : bf16_to_f32(halves[i]);
}
