// Root-mean-square norm (arXiv 1910.07467) of each token.
#pragma once

#include "blockattn/ops/linear.hpp"

namespace blockattn::inline v0 {

/// y[t] = x[t] / sqrt(mean(x[t]²) + epsilon) * weight; x, y [T, D], weight [D].
inline void rms_norm(const float* x, index_t tokens, index_t width, const float* weight, float epsilon, float* y, const compute_options& compute) {
  parallel_pieces(tokens, 32, [&](index_t first, index_t last) {
    for (index_t t = first; t < last; ++t) compute.kernels->rms_norm(x + t * width, weight, width, epsilon, y + t * width);
  });
}

}  // namespace blockattn::inline v0
