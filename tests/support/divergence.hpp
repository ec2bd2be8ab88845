// How far two next-token distributions are from each other, in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace blockattn_test {

/// log softmax(logits).
inline std::vector<double> log_softmax(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - top);
  const double shift = top + std::log(sum);
  std::vector<double> result;
  result.reserve(logits.size());
  for (const float x : logits) result.push_back(x - shift);
  return result;
}

/// KL(p || q) in nats, both given as logits of equal size. NaN in, NaN out.
inline double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const std::vector<double> p = log_softmax(p_logits);
  const std::vector<double> q = log_softmax(q_logits);
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

/// Index of the largest value; the first of equals.
inline std::size_t argmax(std::span<const float> values) {
  return static_cast<std::size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

}  // namespace blockattn_test
