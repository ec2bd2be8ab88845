// Operands of the kernel tests: memory at a chosen misalignment, random weights of every type, and what they are worth by the types' definitions.
#pragma once

#include <catch2/catch.hpp>

#include <cmath>
#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "blockattn/core/dtype_decode.hpp"
#include "blockattn/core/kv.hpp"
#include "blockattn/kernels/dispatch.hpp"
#include "ref/reference.hpp"

namespace blockattn_test {

using namespace blockattn;

using generator = std::mt19937;

inline std::vector<isa> levels() {
  std::vector<isa> result;
  for (const isa level : all_isas) {
    if (supports(level))
      result.push_back(level);
    else
      WARN("left out, this processor lacks it: " << name(level));
  }
  return result;
}

/// Memory that starts `shift` bytes after a 64-byte boundary and ends where it ends, so that a sanitizer sees every overrun.
template <class T>
class buffer {
 public:
  explicit buffer(index_t count, index_t shift = 0)
      : memory_(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(count) * sizeof(T) + static_cast<std::size_t>(shift), std::align_val_t{64}))),
        shift_(shift) {}
  ~buffer() { ::operator delete(memory_, std::align_val_t{64}); }
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  T* data() { return reinterpret_cast<T*>(memory_ + shift_); }
  T& operator[](index_t i) { return data()[i]; }

 private:
  std::byte* memory_;
  index_t shift_;
};

inline float draw(generator& g) {
  std::normal_distribution<float> normal;
  return normal(g);
}

inline void put_half(std::byte* to, float value) {
  const std::uint16_t bits = f32_to_f16(value);
  std::memcpy(to, &bits, 2);
}

/// Random bytes for a matrix, with scales that are numbers.
inline void fill_weights(generator& g, dtype type, index_t values, std::byte* data) {
  const index_t bytes = row_bytes(type, values);
  for (index_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(g());
  for (index_t at = 0; at < bytes; at += block_bytes(type)) {
    switch (type) {
      case dtype::f32: {
        const float x = draw(g);
        std::memcpy(data + at, &x, 4);
        break;
      }
      case dtype::f16: put_half(data + at, draw(g)); break;
      case dtype::bf16: {
        const std::uint16_t bits = f32_to_bf16(draw(g));
        std::memcpy(data + at, &bits, 2);
        break;
      }
      default:
        for (index_t i = 0; i < facts(type).scales; ++i) put_half(data + at + facts(type).scale_at + 2 * i, 0.02f * draw(g));
    }
  }
}

constexpr dtype kv_storage[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::q8_0, dtype::q4_0, dtype::q5_h, dtype::q4_h};

/// Value i of the transform of 64 that a block of q5_h or q4_h holds.
inline double transformed_value(dtype type, const std::byte* block, index_t i) {
  constexpr int four[] = {-127, -97, -75, -58, -44, -30, -18, -6, 6, 18, 30, 44, 58, 75, 97, 127}, five[] = {3, 9, 15, 21, 27, 33, 39, 46, 52, 60, 67, 75, 84, 95, 108, 127};
  const auto byte = [&](index_t at) { return std::to_integer<int>(block[at]); };
  std::uint16_t scale;
  std::memcpy(&scale, block, 2);
  const index_t at = (type == dtype::q5_h ? 10 : 2) + i / 32 * 16 + i % 16;
  const int nibble = i % 32 < 16 ? byte(at) & 15 : byte(at) >> 4;
  if (type == dtype::q4_h) return half_value(scale) * four[nibble];
  return half_value(scale) * ((byte(2 + i / 8) >> (i % 8) & 1) != 0 ? -five[nibble] : five[nibble]);
}

/// One weight by the definition of its type; for the types that only the reference decoder knows, by that, which tests/core holds to gguf-py.
inline double weight_value(const weight_view& w, index_t row, index_t column) {
  const std::byte* p = w.row(row) + column / block_values(w.type) * block_bytes(w.type);
  const auto half_at = [&](index_t at) {
    std::uint16_t bits;
    std::memcpy(&bits, p + at, 2);
    return bits;
  };
  const index_t i = column % 32;
  const auto byte = [&](index_t at) { return std::to_integer<int>(p[at]); };
  const auto nibble = [&](index_t from) { return i < 16 ? byte(from + i) & 15 : byte(from + i - 16) >> 4; };
  switch (w.type) {
    case dtype::f32: {
      float x;
      std::memcpy(&x, p, 4);
      return x;
    }
    case dtype::f16: return half_value(half_at(0));
    case dtype::bf16: return bf16_to_f32(half_at(0));
    case dtype::q8_0: return half_value(half_at(0)) * static_cast<std::int8_t>(byte(2 + i));
    case dtype::q4_0: return half_value(half_at(0)) * (nibble(2) - 8);
    case dtype::q4_1: return half_value(half_at(0)) * nibble(4) + half_value(half_at(2));
    case dtype::q5_h:
    case dtype::q4_h: {
      double sum = 0;
      for (index_t j = 0; j < 64; ++j) {
        bool odd = false;
        for (index_t common = j & column; common != 0; common >>= 1) odd ^= (common & 1) != 0;
        sum += (odd ? -1 : 1) * transformed_value(w.type, p, j);
      }
      return sum / 8;
    }
    default: {
      float group[32];
      detail::decode_group(w.type, p, column % block_values(w.type) / 32, group);
      return group[i];
    }
  }
}

/// A row by weight_value; of transformed types the same sums, faster.
inline std::vector<double> row_values(const weight_view& w, index_t row) {
  std::vector<double> result;
  for (index_t c = 0; c < w.columns; ++c)
    result.push_back(is_transformed(w.type) ? transformed_value(w.type, w.row(row) + c / 64 * block_bytes(w.type), c % 64) / 8 : weight_value(w, row, c));
  if (!is_transformed(w.type)) return result;
  for (std::size_t h = 1; h < 64; h *= 2)
    for (std::size_t i = 0; i < result.size(); ++i) {
      if ((i & h) != 0) continue;
      const double a = result[i], b = result[i + h];
      result[i] = a + b;
      result[i + h] = a - b;
    }
  return result;
}

/// All weights of a matrix by weight_value, row-major.
inline std::vector<double> weight_values(const weight_view& w) {
  std::vector<double> result;
  for (index_t r = 0; r < w.rows; ++r)
    for (index_t c = 0; c < w.columns; ++c) result.push_back(weight_value(w, r, c));
  return result;
}

inline constexpr auto types = all_dtypes;

/// Columns to try: quantised types come in blocks of 32 or 256, float types in any number.
inline std::vector<index_t> columns_of(dtype type) {
  if (block_values(type) == 256) return {256, 768};
  if (block_values(type) == 32) return {32, 96, 576};
  return {1, 2, 31, 32, 33, 47, 64, 95, 576};
}

}  // namespace blockattn_test
