// y = x · Wᵀ for weights of any type, where they lie.
//
// Few tokens: each weight row is streamed once against each token in float32. Many tokens: a panel of rows at a time is unpacked into the
// arithmetic's units and multiplied with all tokens, so unpacking is paid once a panel.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/kernels/dispatch.hpp"
#include "blockattn/ops/matrix.hpp"
#include "blockattn/ops/parallel.hpp"

namespace blockattn::inline v0 {

/// How the engine computes: which kernels and which arithmetic.
struct compute_options {
  const kernel_table* kernels = nullptr;
  arithmetic kind = arithmetic::fast;
};

/// One weight matrix [N, K] and where its product goes: y [T, N].
struct linear_product {
  const weight_view* weight;
  float* y;
};

namespace detail {

/// Up to this many tokens, streaming rows of weights beats unpacking panels of them.
inline constexpr index_t vector_tokens = 4;

/// Rows of one task of the streaming path: enough work to pay for a task, whatever the number of threads.
[[nodiscard]] inline index_t vector_grain(const weight_view& w) {
  const index_t bytes = row_bytes(w.type, w.columns);
  return bytes >= 65536 ? 1 : 65536 / (bytes > 0 ? bytes : 1);
}

inline void linear_vectors(const float* x, index_t tokens, std::span<const linear_product> products, const compute_options& compute) {
  const index_t columns = products[0].weight->columns;
  const index_t blocks = columns / 32;
  std::vector<float> sums(static_cast<std::size_t>(tokens * blocks));
  for (index_t t = 0; t < tokens; ++t)
    for (index_t b = 0; b < blocks; ++b) {
      float sum = 0;
      for (index_t i = 0; i < 32; ++i) sum += x[t * columns + b * 32 + i];
      sums[static_cast<std::size_t>(t * blocks + b)] = sum;
    }
  struct piece {
    const linear_product* product;
    index_t first, last;
  };
  std::vector<piece> pieces;
  for (const linear_product& p : products) {
    const index_t grain = vector_grain(*p.weight);
    for (index_t n = 0; n < p.weight->rows; n += grain) pieces.push_back({&p, n, std::min(n + grain, p.weight->rows)});
  }
  parallel_tasks(static_cast<index_t>(pieces.size()), [&](index_t i) {
    const piece& task = pieces[static_cast<std::size_t>(i)];
    const weight_view& w = *task.product->weight;
    for (index_t t = 0; t < tokens; ++t)
      compute.kernels->multiply_vector(w, task.first, task.last, x + t * columns, sums.data() + t * blocks, task.product->y + t * w.rows);
  });
}

inline void linear_panels(const float* x, index_t tokens, std::span<const linear_product> products, const compute_options& compute) {
  const kernel_table& k = *compute.kernels;
  const index_t columns = products[0].weight->columns;
  const index_t packed_row = k.packed_bytes(compute.kind, columns);
  std::vector<std::byte> packed(static_cast<std::size_t>(tokens * packed_row));
  parallel_pieces(tokens, 64, [&](index_t first, index_t last) {
    k.pack(compute.kind, x + first * columns, last - first, columns, packed.data() + first * packed_row);
  });
  struct piece {
    const linear_product* product;
    index_t first;
  };
  std::vector<piece> pieces;
  for (const linear_product& p : products)
    for (index_t n = 0; n < p.weight->rows; n += k.panel_rows) pieces.push_back({&p, n});
  parallel_tasks(static_cast<index_t>(pieces.size()), [&](index_t i) {
    const piece& task = pieces[static_cast<std::size_t>(i)];
    const weight_view& w = *task.product->weight;
    const index_t count = std::min(k.panel_rows, w.rows - task.first);
    std::byte* panel = thread_scratch(k.panel_bytes(compute.kind, columns));
    k.unpack_panel(compute.kind, w, task.first, count, panel);
    k.multiply_panel(compute.kind, packed.data(), tokens, columns, panel, count, task.product->y + task.first, w.rows);
  });
}

}  // namespace detail

/// y = x · Wᵀ for each product; x is [tokens, K], all weights are [N_i, K]. Which path is taken depends on `tokens` alone.
inline void linear(const float* x, index_t tokens, std::span<const linear_product> products, const compute_options& compute) {
  if (tokens == 0) return;
  if (tokens <= detail::vector_tokens)
    detail::linear_vectors(x, tokens, products, compute);
  else
    detail::linear_panels(x, tokens, products, compute);
}

inline void linear(const float* x, index_t tokens, const weight_view& weight, float* y, const compute_options& compute) {
  const std::array products = {linear_product{&weight, y}};
  linear(x, tokens, products, compute);
}

}  // namespace blockattn::inline v0
