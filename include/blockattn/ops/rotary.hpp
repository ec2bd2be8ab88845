// Rotary position embedding (RoPE, arXiv 2104.09864) and what block reuse needs of it.
//
// A pair of channels is turned by the angle position * base^(-2i/Dh); angles are computed in double precision. Rotations compose, so
// keys rotated at local positions and a query rotated back by the block's offset give the scores of the moved keys.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/kernels/kernel_table.hpp"

namespace blockattn::inline v0 {

struct rope_spec {
  index_t head_dim = 0;  ///< Dh, all of it rotated
  double base = 10000;   ///< theta
  rope_pairing pairing = rope_pairing::adjacent;
  friend bool operator==(const rope_spec&, const rope_spec&) = default;
};

/// Cosines and sines [T, Dh/2] of T positions.
struct rope_angles {
  std::vector<float> cosine, sine;
  index_t half = 0;

  [[nodiscard]] const float* cosine_of(index_t t) const { return cosine.data() + t * half; }
  [[nodiscard]] const float* sine_of(index_t t) const { return sine.data() + t * half; }
};

/// Angles of the positions first, first + 1, ..., first + count - 1. `first` may be any real number.
[[nodiscard]] inline rope_angles angles_of(const rope_spec& spec, double first, index_t count) {
  rope_angles angles;
  angles.half = spec.head_dim / 2;
  angles.cosine.resize(static_cast<std::size_t>(count * angles.half));
  angles.sine.resize(angles.cosine.size());
  for (index_t i = 0; i < angles.half; ++i) {
    const double frequency = std::pow(spec.base, -2.0 * static_cast<double>(i) / static_cast<double>(spec.head_dim));
    for (index_t t = 0; t < count; ++t) {
      const double angle = (first + static_cast<double>(t)) * frequency;
      const auto at = static_cast<std::size_t>(t * angles.half + i);
      angles.cosine[at] = static_cast<float>(std::cos(angle));
      angles.sine[at] = static_cast<float>(std::sin(angle));
    }
  }
  return angles;
}

}  // namespace blockattn::inline v0
