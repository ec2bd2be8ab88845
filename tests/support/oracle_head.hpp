// The oracle's logits from its stored hidden states: the file's output matrix, dequantised to float32 by code of the
// tests' own.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/io/gguf.hpp"

namespace blockattn_test {

/// Output matrix [V, D] of a model file, float32.
class oracle_head {
 public:
  explicit oracle_head(const blockattn::checkpoint& file) : oracle_head(output_of(file)) {}

  /// Some rows of an output matrix.
  explicit oracle_head(const blockattn::weight_view& w) {
    weights_.resize(w.rows, w.columns);
    for (blockattn::index_t r = 0; r < w.rows; ++r) unpack_row(w, r);
  }

  [[nodiscard]] static blockattn::weight_view output_of(const blockattn::checkpoint& file) {
    const blockattn::gguf_tensor* output = file.find_tensor("output.weight");
    if (output == nullptr) output = file.find_tensor("token_embd.weight");  // tied
    if (output == nullptr) throw std::runtime_error("oracle_head: the file has no output matrix");
    return output->matrix();
  }

  /// Logits [n, V] of hidden states [n, D] (after the last norm).
  [[nodiscard]] std::vector<float> logits(std::span<const float> hidden) const {
    const Eigen::Index rows = static_cast<Eigen::Index>(hidden.size()) / weights_.cols();
    std::vector<float> result(static_cast<std::size_t>(rows * weights_.rows()));
    Eigen::Map<matrix> out(result.data(), rows, weights_.rows());
    out.noalias() = Eigen::Map<const matrix>(hidden.data(), rows, weights_.cols()) * weights_.transpose();
    return result;
  }

 private:
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  void unpack_row(const blockattn::weight_view& w, blockattn::index_t r) {
    const std::byte* at = w.row(r);
    if (w.type == blockattn::dtype::f32) {
      std::memcpy(&weights_(r, 0), at, static_cast<std::size_t>(w.columns) * sizeof(float));
      return;
    }
    if (w.type != blockattn::dtype::q8_0)
      throw std::runtime_error("oracle_head: knows output matrices in f32 and q8_0 only");
    for (blockattn::index_t c = 0; c < w.columns; c += 32, at += 34) {
      std::uint16_t scale = 0;
      std::memcpy(&scale, at, 2);
      for (blockattn::index_t i = 0; i < 32; ++i)
        weights_(r, c + i) = blockattn::f16_to_f32(scale) * static_cast<float>(static_cast<std::int8_t>(at[2 + i]));
    }
  }

  matrix weights_;
};

/// The same logits for a large vocabulary, without the whole matrix in float32: some rows at a time.
inline std::vector<float> streamed_logits(const blockattn::checkpoint& file, std::span<const float> hidden) {
  const blockattn::weight_view whole = oracle_head::output_of(file);
  const auto rows = static_cast<std::size_t>(hidden.size()) / static_cast<std::size_t>(whole.columns);
  std::vector<float> result(rows * static_cast<std::size_t>(whole.rows));
  for (blockattn::index_t first = 0; first < whole.rows; first += 8192) {
    const blockattn::index_t count = std::min<blockattn::index_t>(8192, whole.rows - first);
    const auto part = oracle_head(blockattn::weight_view{whole.type, whole.row(first), count, whole.columns}).logits(hidden);
    for (std::size_t r = 0; r < rows; ++r)
      std::copy_n(part.begin() + static_cast<std::ptrdiff_t>(r) * count, count, result.begin() + static_cast<std::ptrdiff_t>(r) * whole.rows + first);
  }
  return result;
}

}  // namespace blockattn_test
