// Whether two levels compute the same products: asked once of a level before it is chosen that few machines have (dispatch.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

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

struct aligned_bytes {
  explicit aligned_bytes(index_t bytes) : data(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(bytes) + 64, std::align_val_t{64}))) {}
  struct release {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte, release> data;
};

/// x [tokens, columns] times the rows of `w`, of bfloat16 or q8_0: y [tokens, w.rows].
[[nodiscard]] inline std::vector<float> product_of(const kernel_table& k, const weight_view& w, const std::vector<float>& x, index_t tokens) {
  std::vector<float> y(static_cast<std::size_t>(tokens * w.rows));
  for (index_t n = 0; n < w.rows; n += k.panel_rows) {
    const index_t count = w.rows - n < k.panel_rows ? w.rows - n : k.panel_rows;
    if (is_float(w.type)) {
      const aligned_bytes packed(tokens * k.packed_bytes(arithmetic::fast, w.columns)), panel(k.panel_bytes(arithmetic::fast, w.columns));
      k.pack(arithmetic::fast, x.data(), tokens, w.columns, packed.data.get());
      k.unpack_panel(arithmetic::fast, w, n, count, panel.data.get());
      k.multiply_panel(arithmetic::fast, packed.data.get(), tokens, w.columns, panel.data.get(), count, y.data() + n, w.rows, false);
    } else {
      const activation_form form = k.integer.form_of(w.type, false, false);
      const aligned_bytes quantised(tokens * k.integer.quantised_bytes(form, w.columns)), panel(interleaved_bytes(w.type, k.panel_rows, w.columns)), scratch(k.integer.scratch_bytes(tokens));
      k.integer.quantise(form, x.data(), tokens, w.columns, quantised.data.get());
      interleave_panel(w, n, count, k.panel_rows, panel.data.get());
      k.integer.multiply(w.type, form, quantised.data.get(), tokens, w.columns, panel.data.get(), count, y.data() + n, w.rows, scratch.data.get());
    }
  }
  return y;
}

/// Whether `level`'s products of float and of quantised weights are `trusted`'s within the rounding of activations to 8 bits. Takes about a millisecond.
[[nodiscard]] inline bool products_agree(const kernel_table& level, const kernel_table& trusted) {
  constexpr index_t rows = 70;  // two whole panels of 32 and a remainder
  for (const auto& [tokens, columns] : product_cases)
    for (const dtype type : {dtype::bf16, dtype::q8_0}) {
      check_numbers numbers;
      std::vector<float> x(static_cast<std::size_t>(tokens * columns));
      for (float& value : x) value = numbers.next();
      if (columns % block_values(type) != 0) continue;
      const aligned_bytes weights(rows * row_bytes(type, columns));
      for (index_t at = 0; at < rows * columns; at += block_values(type)) {
        std::byte* to = weights.data.get() + at / block_values(type) * block_bytes(type);
        if (type == dtype::bf16) {
          const std::uint16_t bits = f32_to_bf16(numbers.next());
          std::memcpy(to, &bits, 2);
          continue;
        }
        const std::uint16_t scale = f32_to_f16(0.01F + 0.005F * numbers.next());
        std::memcpy(to, &scale, 2);
        for (index_t i = 0; i < 32; ++i) to[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(127 * numbers.next()));
      }
      const weight_view w{type, weights.data.get(), rows, columns};
      const std::vector<float> got = product_of(level, w, x, tokens), expected = product_of(trusted, w, x, tokens);
      double difference = 0, size = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        difference += (static_cast<double>(got[i]) - expected[i]) * (static_cast<double>(got[i]) - expected[i]);
        size += static_cast<double>(expected[i]) * expected[i];
      }
      if (!(difference <= 4e-4 * size)) return false;  // 2 % of the whole; NaN counts as a difference
    }
  return true;
}

}  // namespace blockattn::inline v0::detail
