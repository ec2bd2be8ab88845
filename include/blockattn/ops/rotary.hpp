// Rotary position embedding (RoPE, arXiv 2104.09864), its scalings for long contexts, and what block reuse needs of it.
//
// Pair i of the first `rotated` channels of a head is turned by the angle position * base^(-2i/rotated) / divisor[i]; angles are computed in double
// precision. Rotations compose, so keys rotated at local positions and a query rotated back by the block's offset give the scores of the moved keys.
// Scalings change the divisors, and some multiply the rotated channels of queries and keys by a magnitude, which is part of the cached keys and
// not of a later turn:
//   linear    all divisors are the factor (arXiv 2306.15595)
//   llama3    a divisor a pair, which the file holds (rope_freqs.weight)
//   yarn      slow pairs are divided, fast ones are not, a ramp in between; magnitude 1 + 0.1 ln(factor) (arXiv 2309.00071)
//   longrope  two sets of divisors, one for short and one for long contexts; a magnitude (arXiv 2402.13753)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/kernels/kernel_table.hpp"
#include "blockattn/ops/parallel.hpp"

namespace blockattn::inline v0 {

struct rope_spec {
  index_t head_dim = 0;  ///< Dh
  double base = 10000;   ///< theta
  rope_pairing pairing = rope_pairing::adjacent;
  index_t rotated = 0;               ///< the first so many channels of a head are rotated; 0: all
  std::vector<double> divisors = {};  ///< [pairs()] of the frequencies; empty: all 1
  double magnitude = 1;              ///< of rotated channels

  [[nodiscard]] index_t channels() const { return rotated > 0 ? rotated : head_dim; }
  [[nodiscard]] index_t pairs() const { return channels() / 2; }
  /// Radians that pair i turns from one position to the next.
  [[nodiscard]] double frequency(index_t i) const {
    const double plain = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(channels()));
    return divisors.empty() ? plain : plain / divisors[static_cast<std::size_t>(i)];
  }
  friend bool operator==(const rope_spec&, const rope_spec&) = default;
};

/// What YaRN needs to know; the defaults are the paper's.
struct yarn_scaling {
  double factor = 1;            ///< how much longer the context is than the one trained on
  double original_context = 0;  ///< tokens of that
  double beta_fast = 32, beta_slow = 1;
};

/// Divisors [pairs] of YaRN for a RoPE of that base over `channels` channels.
[[nodiscard]] inline std::vector<double> yarn_divisors(const yarn_scaling& yarn, double base, index_t channels) {
  const auto size = static_cast<double>(channels);
  const auto pair_of = [&](double turns) {  // the pair that turns so often within the original context
    return size * std::log(yarn.original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double low = std::max(std::floor(pair_of(yarn.beta_fast)), 0.0);
  const double high = std::min(std::ceil(pair_of(yarn.beta_slow)), size - 1);
  std::vector<double> divisors;
  for (index_t i = 0; i < channels / 2; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / std::max(high - low, 0.001), 0.0, 1.0);
    divisors.push_back(1 / (ramp / yarn.factor + (1 - ramp)));
  }
  return divisors;
}

/// Cosines and sines [T, pairs] of T positions.
struct rope_angles {
  std::vector<float> cosine, sine;
  index_t half = 0;  ///< pairs

  [[nodiscard]] const float* cosine_of(index_t t) const { return cosine.data() + t * half; }
  [[nodiscard]] const float* sine_of(index_t t) const { return sine.data() + t * half; }
};

/// Angles of any real positions, both tables times `magnitude`.
[[nodiscard]] inline rope_angles angles_at(const rope_spec& spec, std::span<const double> positions, double magnitude = 1) {
  rope_angles angles;
  angles.half = spec.pairs();
  angles.cosine.resize(positions.size() * static_cast<std::size_t>(angles.half));
  angles.sine.resize(angles.cosine.size());
  std::vector<double> frequencies;
  for (index_t i = 0; i < angles.half; ++i) frequencies.push_back(spec.frequency(i));
  parallel_pieces(static_cast<index_t>(positions.size()), 16, [&](index_t first, index_t last) {
    for (index_t t = first; t < last; ++t)
      for (index_t i = 0; i < angles.half; ++i) {
        const double angle = positions[static_cast<std::size_t>(t)] * frequencies[static_cast<std::size_t>(i)];
        const auto at = static_cast<std::size_t>(t * angles.half + i);
        angles.cosine[at] = static_cast<float>(magnitude * std::cos(angle));
        angles.sine[at] = static_cast<float>(magnitude * std::sin(angle));
      }
  });
  return angles;
}

/// Angles of the positions first, first + 1, ..., first + count - 1. `first` may be any real number.
[[nodiscard]] inline rope_angles angles_of(const rope_spec& spec, double first, index_t count, double magnitude = 1) {
  std::vector<double> positions;
  for (index_t t = 0; t < count; ++t) positions.push_back(first + static_cast<double>(t));
  return angles_at(spec, positions, magnitude);
}

/// Rotates `heads` heads of one token in place, x [heads, Dh], by the angles of its position: cosine and sine [pairs].
inline void rotate_heads(const rope_spec& spec, float* x, index_t heads, const float* cosine, const float* sine, const kernel_table& kernels) {
  if (spec.channels() == spec.head_dim) return kernels.rotate(spec.pairing, x, heads, spec.head_dim, cosine, sine);
  for (index_t h = 0; h < heads; ++h) kernels.rotate(spec.pairing, x + h * spec.head_dim, 1, spec.channels(), cosine, sine);
}

}  // namespace blockattn::inline v0
