// The gated feed-forward network (arXiv 2002.05202): down · (activation(gate · x) * (up · x)); SwiGLU with SiLU, GEGLU with GELU.
#pragma once

#include <array>
#include <cstdint>

#include "blockattn/ops/linear.hpp"

namespace blockattn::inline v0 {

enum class activation : std::uint8_t { silu, gelu_tanh };

struct feed_forward_weights {
  linear_weight gate, up;  ///< [F, D]
  linear_weight down;      ///< [D, F]
};

/// out [T, D] from x [T, D]; `gate` and `up` are room for [T, F] each.
inline void feed_forward(const float* x, index_t tokens, const feed_forward_weights& w, activation gating, float* gate, float* up, float* out,
                         const compute_options& compute) {
  const std::array products = {linear_product{&w.gate, gate}, linear_product{&w.up, up}};
  linear(x, tokens, products, compute);
  const index_t width = w.gate.base.rows;
  parallel_pieces(tokens, 16, [&](index_t first, index_t last) {
    const auto multiply = gating == activation::silu ? compute.kernels->silu_multiply : compute.kernels->gelu_multiply;
    multiply(gate + first * width, up + first * width, (last - first) * width);
  });
  linear(gate, tokens, w.down, out, compute);
}

}  // namespace blockattn::inline v0
