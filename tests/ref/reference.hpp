// Oracles in double precision, written for clarity; nothing here comes from the library's kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace blockattn_test {

/// Value of an IEEE half by its definition.
inline double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

/// Rotates one head [Dh] to `position` in place.
inline void rope(std::vector<double>& x, double base, double position, bool adjacent) {
  const std::size_t half = x.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = position * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(x.size()));
    double& a = x[adjacent ? 2 * i : i];
    double& b = x[adjacent ? 2 * i + 1 : i + half];
    const double a0 = a;
    a = a0 * std::cos(angle) - b * std::sin(angle);
    b = a0 * std::sin(angle) + b * std::cos(angle);
  }
}

/// softmax(scale * q · k) · v over all keys, the scores s capped to soft_cap * tanh(s / soft_cap) unless that is 0; q [Dh], keys and values [n][Dh].
inline std::vector<double> attention(const std::vector<double>& q, const std::vector<std::vector<double>>& keys,
                                     const std::vector<std::vector<double>>& values, double scale, double soft_cap = 0) {
  std::vector<double> scores;
  for (const auto& k : keys) {
    double score = 0;
    for (std::size_t d = 0; d < q.size(); ++d) score += q[d] * k[d];
    score *= scale;
    scores.push_back(soft_cap > 0 ? soft_cap * std::tanh(score / soft_cap) : score);
  }
  const double top = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (double& s : scores) total += s = std::exp(s - top);
  std::vector<double> out(q.size());
  for (std::size_t i = 0; i < keys.size(); ++i)
    for (std::size_t d = 0; d < q.size(); ++d) out[d] += scores[i] / total * values[i][d];
  return out;
}

}  // namespace blockattn_test
