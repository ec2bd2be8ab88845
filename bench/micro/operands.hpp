// Operands of the micro-benchmarks: random values of the shapes of a small model, the same in every run, and the check
// that precedes each timing.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "blockattn/kernels/dispatch.hpp"

namespace blockattn_bench {

using blockattn::dtype;
using blockattn::index_t;
using blockattn::isa;

/// Bytes at a 64-byte boundary.
class aligned_bytes {
 public:
  explicit aligned_bytes(index_t size)
      : size_(static_cast<std::size_t>(size)),
        data_(static_cast<std::byte*>(::operator new (size_, std::align_val_t{64}))) {
    std::memset(data_, 0, size_);
  }
  ~aligned_bytes() { ::operator delete (data_, std::align_val_t{64}); }
  aligned_bytes(const aligned_bytes&) = delete;
  aligned_bytes& operator=(const aligned_bytes&) = delete;
  [[nodiscard]] std::byte* data() { return data_; }

 private:
  std::size_t size_;
  std::byte* data_;
};

/// Values of the normal distribution.
[[nodiscard]] inline std::vector<float> random_values(index_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

/// A weight matrix with random bytes and scales near 1/64. Shape [rows, columns].
struct random_weights {
  std::vector<std::byte> bytes;
  blockattn::weight_view view;

  random_weights(dtype type, index_t rows, index_t columns, unsigned seed)
      : bytes(static_cast<std::size_t>(rows * blockattn::row_bytes(type, columns))) {
    std::mt19937 random(seed);
    if (blockattn::block_values(type) == 1) {
      const std::vector<float> values = random_values(rows * columns, seed);
      for (std::size_t i = 0; i < values.size(); ++i) put(type, i, values[i] / 16);
    } else {
      for (std::byte& b : bytes) b = static_cast<std::byte>(random());
      const auto block = static_cast<std::size_t>(blockattn::block_bytes(type));
      for (std::size_t at = 0; at < bytes.size(); at += block) {
        const blockattn::dtype_facts& f = blockattn::facts(type);
        put_f16(at + static_cast<std::size_t>(f.scale_at), blockattn::block_values(type) == 256 ? 1.0F / 1024 : 1.0F / 64);
        if (f.scales == 2) put_f16(at + static_cast<std::size_t>(f.scale_at) + 2, blockattn::block_values(type) == 256 ? 1.0F / 128 : -0.125F);
      }
    }
    view = {type, bytes.data(), rows, columns};
  }

 private:
  void put_f16(std::size_t at, float value) {
    const std::uint16_t bits = blockattn::f32_to_f16(value);
    std::memcpy(bytes.data() + at, &bits, 2);
  }
  void put(dtype type, std::size_t i, float value) {
    if (type == dtype::f32)
      std::memcpy(bytes.data() + 4 * i, &value, 4);
    else if (type == dtype::f16)
      put_f16(2 * i, value);
    else {
      const std::uint16_t bits = blockattn::f32_to_bf16(value);
      std::memcpy(bytes.data() + 2 * i, &bits, 2);
    }
  }
};

/// Whether `got` is `expected` but for a share `tolerance` of the largest expected value. If not, the benchmark ends
/// with an error instead of a time.
inline bool answers_agree(benchmark::State& state, std::span<const float> got, std::span<const float> expected,
                          float tolerance) {
  float largest = 0;
  for (const float e : expected) largest = std::max(largest, std::abs(e));
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (!(std::abs(got[i] - expected[i]) <= tolerance * largest)) {
      state.SkipWithError(("value " + std::to_string(i) + " is " + std::to_string(got[i]) + " instead of " +
                           std::to_string(expected[i]))
                              .c_str());
      return false;
    }
  return true;
}

/// Levels that this processor has.
[[nodiscard]] inline std::vector<isa> supported_levels() {
  std::vector<isa> levels;
  for (const isa level : blockattn::all_isas)
    if (supports(level)) levels.push_back(level);
  return levels;
}

}  // namespace blockattn_bench
