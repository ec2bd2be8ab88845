// y = x · Wᵀ for weights of any type where they lie, with low-rank adapters (LoRA, arXiv 2106.09685) on top: y += s · (x · Aᵀ) · Bᵀ.
//
// Few tokens: each weight row is streamed once against each token in float32. Many tokens: a panel of rows at a time is unpacked into the
// arithmetic's units and multiplied with all tokens, so unpacking is paid once a panel. Adapters are applied by the task that computes the rows, in both paths.
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
  bool batched = false;  ///< linear layers compute few tokens as they compute many, so that bits don't depend on what else is in the batch
};

/// A low-rank change of a weight matrix [N, K]: scale · B · A.
struct low_rank_update {
  weight_view a;    ///< [r, K]
  weight_view b;    ///< [N, r]
  float scale = 1;  ///< alpha / r times the user's scale
};

/// A weight matrix [N, K] and the changes that lie on it.
struct linear_weight {
  weight_view base;
  std::vector<low_rank_update> updates;
};

/// One weight matrix and where its product goes: y [T, N].
struct linear_product {
  const linear_weight* weight;
  float* y;
};

namespace detail {

/// Up to this many tokens, streaming rows of weights beats unpacking panels of them.
inline constexpr index_t vector_tokens = 4;

/// Rows of one task of the streaming path: enough work to pay for a task, whatever the number of threads.
[[nodiscard]] inline index_t vector_grain(const weight_view& w) {
  const index_t bytes = row_bytes(w.type, w.columns);
  return bytes >= 65536 ? 1 : 65536 / std::max<index_t>(bytes, 1);
}

/// Rows [first, last) of one product, one task's work.
struct linear_piece {
  const linear_product* product;
  std::size_t index;  ///< of the product
  index_t first, last;
};

[[nodiscard]] inline std::vector<linear_piece> pieces_of(std::span<const linear_product> products, index_t panel_rows) {
  std::vector<linear_piece> pieces;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const weight_view& w = products[i].weight->base;
    const index_t grain = panel_rows > 0 ? panel_rows : vector_grain(w);
    for (index_t n = 0; n < w.rows; n += grain) pieces.push_back({&products[i], i, n, std::min(n + grain, w.rows)});
  }
  return pieces;
}

/// Sums of the blocks of 32 of each row of x [rows, columns]: [rows, columns / 32].
[[nodiscard]] inline std::vector<float> block_sums(const float* x, index_t rows, index_t columns) {
  std::vector<float> sums(static_cast<std::size_t>(rows * (columns / 32)));
  for (index_t r = 0, at = 0; r < rows; ++r)
    for (index_t b = 0; b < columns / 32; ++b, ++at) {
      float sum = 0;
      for (index_t i = 0; i < 32; ++i) sum += x[r * columns + b * 32 + i];
      sums[static_cast<std::size_t>(at)] = sum;
    }
  return sums;
}

/// x · Aᵀ · scale of one update: [T, r], with its block sums.
struct reduced_input {
  std::vector<float> values, sums;
};

[[nodiscard]] inline reduced_input reduce_vectors(const float* x, index_t tokens, const float* sums, const low_rank_update& update,
                                                  const compute_options& compute) {
  reduced_input result;
  const index_t rank = update.a.rows;
  const index_t columns = update.a.columns;
  result.values.resize(static_cast<std::size_t>(tokens * rank));
  for (index_t t = 0; t < tokens; ++t)
    compute.kernels->multiply_vector(update.a, 0, rank, x + t * columns, sums + t * (columns / 32), result.values.data() + t * rank);
  for (float& value : result.values) value *= update.scale;
  result.sums = block_sums(result.values.data(), tokens, rank);
  return result;
}

inline void linear_vectors(const float* x, index_t tokens, std::span<const linear_product> products, const compute_options& compute) {
  const index_t columns = products[0].weight->base.columns;
  const std::vector<float> sums = block_sums(x, tokens, columns);
  std::vector<std::vector<reduced_input>> reduced(products.size());  // small: not worth tasks of its own
  for (std::size_t i = 0; i < products.size(); ++i)
    for (const low_rank_update& u : products[i].weight->updates) reduced[i].push_back(reduce_vectors(x, tokens, sums.data(), u, compute));
  const auto pieces = pieces_of(products, 0);
  parallel_tasks(static_cast<index_t>(pieces.size()), [&](index_t i) {
    const auto& [product, index, first, last] = pieces[static_cast<std::size_t>(i)];
    const linear_weight& w = *product->weight;
    for (index_t t = 0; t < tokens; ++t) {
      float* y = product->y + t * w.base.rows;
      compute.kernels->multiply_vector(w.base, first, last, x + t * columns, sums.data() + t * (columns / 32), y);
      for (std::size_t u = 0; u < w.updates.size(); ++u) {
        const reduced_input& r = reduced[index][u];
        const index_t rank = w.updates[u].a.rows;
        float* change = reinterpret_cast<float*>(thread_scratch(w.base.rows * static_cast<index_t>(sizeof(float))));
        compute.kernels->multiply_vector(w.updates[u].b, first, last, r.values.data() + t * rank, r.sums.data() + t * (rank / 32), change);
        for (index_t n = first; n < last; ++n) y[n] += change[n];
      }
    }
  });
}

/// Activations [T, columns] as the kernels multiply them.
class packed_input {
 public:
  packed_input(const float* x, index_t tokens, index_t columns, const compute_options& compute) : columns_(columns) {
    const index_t row = compute.kernels->packed_bytes(compute.kind, columns);
    bytes_.resize(static_cast<std::size_t>(tokens * row));
    parallel_pieces(tokens, 64, [&](index_t first, index_t last) {
      compute.kernels->pack(compute.kind, x + first * columns, last - first, columns, bytes_.data() + first * row);
    });
  }
  [[nodiscard]] const std::byte* data() const { return bytes_.data(); }
  [[nodiscard]] index_t columns() const { return columns_; }

 private:
  index_t columns_;
  std::vector<std::byte> bytes_;
};

/// y[:, first..last) = or += packed · rows of w, unpacked into the thread's scratch.
inline void multiply_rows(const packed_input& x, index_t tokens, const weight_view& w, index_t first, index_t last, float* y, index_t stride, bool add,
                          const compute_options& compute) {
  const kernel_table& k = *compute.kernels;
  std::byte* panel = thread_scratch(k.panel_bytes(compute.kind, w.columns));
  k.unpack_panel(compute.kind, w, first, last - first, panel);
  k.multiply_panel(compute.kind, x.data(), tokens, w.columns, panel, last - first, y, stride, add);
}

[[nodiscard]] inline packed_input reduce_panels(const packed_input& x, index_t tokens, const low_rank_update& update, const compute_options& compute) {
  const index_t rank = update.a.rows;
  matrix values(tokens, rank);
  const index_t rows = compute.kernels->panel_rows;
  for (index_t n = 0; n < rank; n += rows) multiply_rows(x, tokens, update.a, n, std::min(n + rows, rank), values.data() + n, rank, false, compute);
  values *= update.scale;
  return {values.data(), tokens, rank, compute};
}

inline void linear_panels(const float* x, index_t tokens, std::span<const linear_product> products, const compute_options& compute) {
  const packed_input packed(x, tokens, products[0].weight->base.columns, compute);
  std::vector<std::vector<packed_input>> reduced(products.size());
  parallel_tasks(static_cast<index_t>(products.size()), [&](index_t i) {
    const auto at = static_cast<std::size_t>(i);
    for (const low_rank_update& u : products[at].weight->updates) reduced[at].push_back(reduce_panels(packed, tokens, u, compute));
  });
  const auto pieces = pieces_of(products, compute.kernels->panel_rows);
  parallel_tasks(static_cast<index_t>(pieces.size()), [&](index_t i) {
    const auto& [product, index, first, last] = pieces[static_cast<std::size_t>(i)];
    const linear_weight& w = *product->weight;
    float* y = product->y + first;
    multiply_rows(packed, tokens, w.base, first, last, y, w.base.rows, false, compute);
    for (std::size_t u = 0; u < w.updates.size(); ++u)
      multiply_rows(reduced[index][u], tokens, w.updates[u].b, first, last, y, w.base.rows, true, compute);
  });
}

}  // namespace detail

/// y = x · Wᵀ for each product; x is [tokens, K], all weights are [N_i, K]. Which path is taken depends on `tokens` and
/// compute.batched alone.
inline void linear(const float* x, index_t tokens, std::span<const linear_product> products, const compute_options& compute) {
  if (tokens == 0) return;
  if (tokens <= detail::vector_tokens && !compute.batched)
    detail::linear_vectors(x, tokens, products, compute);
  else
    detail::linear_panels(x, tokens, products, compute);
}

inline void linear(const float* x, index_t tokens, const linear_weight& weight, float* y, const compute_options& compute) {
  const std::array products = {linear_product{&weight, y}};
  linear(x, tokens, products, compute);
}

}  // namespace blockattn::inline v0
