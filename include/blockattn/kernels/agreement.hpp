// Whether two levels compute the same products: asked once of a level before it is chosen that few machines have (dispatch.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "blockattn/core/dtype.hpp"
#include "blockattn/kernels/interleave.hpp"
#include "blockattn/kernels/kernel_table.hpp"

namespace blockattn::inline v0::detail {

/// Sizes that leave remainders of tokens and of columns, and more columns than are multiplied at once.
struct product_case {
  index_t tokens, columns;
};
inline constexpr product_case product_cases[] = {{49, 416}, {35, 400}, {16, 32}, {5, 864}};

/// Numbers from -1 to 1, the same each time.
class check_numbers {
 public:
  [[nodiscard]] float next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<float>(static_cast<std::int32_t>(state_ >> 32)) * 0x1p-31F;
  }

 private:
  std::uint64_t state_ = 1;
};

/// Where everything that is compared lies; nothing is allocated.
struct check_memory {
  static constexpr index_t size = index_t{1} << 20;
  alignas(64) std::byte bytes[size];
  index_t used = 0;

  /// `count` objects, 64-byte aligned, or nullptr if they don't fit.
  template <class T>
  [[nodiscard]] T* take(index_t count) {
    const index_t start = used;
    used += (count * static_cast<index_t>(sizeof(T)) + 64 + 63) / 64 * 64;
    return used <= size ? reinterpret_cast<T*>(bytes + start) : nullptr;
  }
};

/// x [tokens, columns] times the rows of `w`, of bfloat16 or q8_0: y [tokens, w.rows]. False if the memory isn't enough.
[[nodiscard]] inline bool product_of(const kernel_table& k, const weight_view& w, const float* x, index_t tokens, float* y, check_memory& memory) {
  const index_t start = memory.used;
  for (index_t n = 0; n < w.rows; n += k.panel_rows, memory.used = start) {
    const index_t count = w.rows - n < k.panel_rows ? w.rows - n : k.panel_rows;
    if (is_float(w.type)) {
      auto* packed = memory.take<std::byte>(tokens * k.packed_bytes(arithmetic::fast, w.columns));
      auto* panel = memory.take<std::byte>(k.panel_bytes(arithmetic::fast, w.columns));
      if (packed == nullptr || panel == nullptr) return false;
      k.pack(arithmetic::fast, x, tokens, w.columns, packed);
      k.unpack_panel(arithmetic::fast, w, n, count, panel);
      k.multiply_panel(arithmetic::fast, packed, tokens, w.columns, panel, count, y + n, w.rows, false);
    } else {
      const activation_form form = k.integer.form_of(w.type, false, false);
      auto* quantised = memory.take<std::byte>(tokens * k.integer.quantised_bytes(form, w.columns));
      auto* panel = memory.take<std::byte>(interleaved_bytes(w.type, k.panel_rows, w.columns));
      auto* scratch = memory.take<std::byte>(k.integer.scratch_bytes(tokens));
      if (quantised == nullptr || panel == nullptr || scratch == nullptr) return false;
      k.integer.quantise(form, x, tokens, w.columns, quantised);
      interleave_panel(w, n, count, k.panel_rows, panel);
      k.integer.multiply(w.type, form, quantised, tokens, w.columns, panel, count, y + n, w.rows, scratch);
    }
  }
  return true;
}

/// Whether `level`'s products of float and of quantised weights are `trusted`'s within the rounding of activations to 8 bits. Takes about a millisecond.
[[nodiscard]] inline bool products_agree(const kernel_table& level, const kernel_table& trusted, check_memory& memory) {
  constexpr index_t rows = 70;  // two whole panels of 32 and a remainder
  for (const auto& [tokens, columns] : product_cases)
    for (const dtype type : {dtype::bf16, dtype::q8_0}) {
      if (columns % block_values(type) != 0) continue;
      memory.used = 0;
      check_numbers numbers;
      auto* x = memory.take<float>(tokens * columns);
      auto* got = memory.take<float>(tokens * rows);
      auto* expected = memory.take<float>(tokens * rows);
      auto* weights = memory.take<std::byte>(rows * row_bytes(type, columns));
      if (x == nullptr || got == nullptr || expected == nullptr || weights == nullptr) return false;
      for (index_t i = 0; i < tokens * columns; ++i) x[i] = numbers.next();
      for (index_t at = 0; at < rows * columns; at += block_values(type)) {
        std::byte* to = weights + at / block_values(type) * block_bytes(type);
        if (type == dtype::bf16) {
          const std::uint16_t bits = f32_to_bf16(numbers.next());
          std::memcpy(to, &bits, 2);
          continue;
        }
        const std::uint16_t scale = f32_to_f16(0.01F + 0.005F * numbers.next());
        std::memcpy(to, &scale, 2);
        for (index_t i = 0; i < 32; ++i) to[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(127 * numbers.next()));
      }
      const weight_view w{type, weights, rows, columns};
      if (!product_of(level, w, x, tokens, got, memory) || !product_of(trusted, w, x, tokens, expected, memory)) return false;
      double difference = 0, size = 0;
      for (index_t i = 0; i < tokens * rows; ++i) {
        difference += (static_cast<double>(got[i]) - expected[i]) * (static_cast<double>(got[i]) - expected[i]);
        size += static_cast<double>(expected[i]) * expected[i];
      }
      if (!(difference <= 4e-4 * size)) return false;  // 2 % of the whole; NaN counts as a difference
    }
  return true;
}

}  // namespace blockattn::inline v0::detail
