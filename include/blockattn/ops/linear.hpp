// y = x · Wᵀ for weights of any type, with low-rank adapters (LoRA, arXiv 2106.09685) on top: y += s · (x · Aᵀ) · Bᵀ.
//
// Each product goes one of three ways:
//   integers    quantised weights under `fast` arithmetic: panels of interleaved weights (from the store, or made in scratch) times quantised
//               activations, for any number of tokens; without a store, few tokens go the next way
//   rows        few tokens: each weight row is streamed once against each token in float32
//   panels      many tokens: a panel of rows at a time is unpacked into the arithmetic's units and multiplied with all tokens
// Adapters are applied in float arithmetic by the task that computes the rows, whichever way these go.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <span>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/kernels/dispatch.hpp"
#include "blockattn/ops/interleaved_store.hpp"
#include "blockattn/ops/matrix.hpp"
#include "blockattn/ops/parallel.hpp"

namespace blockattn::inline v0 {

/// Floating-point operations of matrix products and attention.
using operation_counter = std::atomic<index_t>;

/// How the engine computes: which kernels and which arithmetic, and where interleaved copies of quantised weights are kept (nullptr: nowhere).
struct compute_options {
  const kernel_table* kernels = nullptr;
  arithmetic kind = arithmetic::fast;
  bool batched = false;  ///< linear layers compute few tokens as they compute many, so that bits don't depend on what else is in the batch
  interleaved_store* store = nullptr;
  operation_counter* operations = nullptr;  ///< what is computed is counted there, if it is given

  /// Counts floating-point operations, a multiplication and an addition each being one.
  void count(index_t more) const {
    if (operations != nullptr) operations->fetch_add(more, std::memory_order_relaxed);
  }
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
  bool wide = false;  ///< what it multiplies is rounded to 16 bits, not 8, where the arithmetic rounds to integers
};

/// One weight matrix and where its product goes: y [T, N].
struct linear_product {
  const linear_weight* weight;
  float* y;
};

namespace detail {

/// Up to this many tokens, streaming rows of weights beats unpacking panels of them.
inline constexpr index_t vector_tokens = 4;

enum class linear_way { integers, rows, panels };

[[nodiscard]] inline bool are_few(index_t tokens, const compute_options& compute) { return tokens <= vector_tokens && !compute.batched; }

/// Depends on the weight, the options and whether tokens are few alone.
[[nodiscard]] inline linear_way way_of(const linear_weight& w, bool few, const compute_options& compute) {
  if (compute.kind == arithmetic::fast && !is_float(w.base.type) && !(few && compute.store == nullptr)) return linear_way::integers;
  return few ? linear_way::rows : linear_way::panels;
}

/// Rows of one task: enough work to pay for a task, whatever the number of threads. Whole panels for all ways but `rows`.
[[nodiscard]] inline index_t rows_of_task(const weight_view& w, linear_way way, index_t tokens, index_t panel_rows) {
  constexpr index_t most_bytes = 65536, most_products = 2 << 20, least_rows = 32;
  const index_t bytes = std::max<index_t>(row_bytes(w.type, w.columns), 1);
  const index_t rows = std::max(std::min(most_bytes / bytes, most_products / (tokens * w.columns)), least_rows);
  if (way == linear_way::rows) return std::max<index_t>(most_bytes / bytes, 1);
  return way == linear_way::panels ? panel_rows : rows / panel_rows * panel_rows;
}

/// Tokens that the panels of one task are multiplied with before the next ones: their integers stay in the second cache meanwhile. All of them for
/// tiles, where expanding a panel costs as much as multiplying it with this many.
[[nodiscard]] inline index_t tokens_at_once(activation_form form, index_t tokens) {
  return form == activation_form::halves ? tokens : std::min<index_t>(tokens, 128);
}

/// Rows [first, last) of one product, one task's work.
struct linear_piece {
  const linear_product* product;
  std::size_t index;  ///< of the product
  linear_way way;
  index_t first, last;
};

/// The pieces of interleaved weights get smaller towards the end of the loop, down to a panel, so that all threads end at about the same time. Rows don't
/// depend on each other, so no result depends on where pieces end.
[[nodiscard]] inline std::vector<linear_piece> pieces_of(std::span<const linear_product> products, index_t tokens, const compute_options& compute) {
  const bool few = are_few(tokens, compute);
  const index_t panel = compute.kernels->panel_rows, shares = 2 * parallel_width();
  index_t left = 0;  // bytes of weights
  for (const linear_product& product : products) left += product.weight->base.rows * row_bytes(product.weight->base.type, product.weight->base.columns);
  std::vector<linear_piece> pieces;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const weight_view& w = products[i].weight->base;
    const linear_way way = way_of(*products[i].weight, few, compute);
    const index_t grain = rows_of_task(w, way, tokens, panel), bytes = row_bytes(w.type, w.columns);
    for (index_t n = 0; n < w.rows;) {
      index_t rows = grain;
      if (way == linear_way::integers) {
        const index_t share = std::max(left / shares / bytes / panel * panel, panel);
        rows = few ? share : std::min(share, grain);
      }
      rows = std::min(rows, w.rows - n);
      pieces.push_back({&products[i], i, way, n, n + rows});
      n += rows;
      left -= rows * bytes;
    }
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

/// Activations [T, columns] as panels of floats multiply them.
class packed_input {
 public:
  packed_input(const float* x, index_t tokens, index_t columns, const compute_options& compute) {
    const index_t row = compute.kernels->packed_bytes(compute.kind, columns);
    bytes_.resize(static_cast<std::size_t>(tokens * row));
    parallel_pieces(tokens, 64, [&](index_t first, index_t last) {
      compute.kernels->pack(compute.kind, x + first * columns, last - first, columns, bytes_.data() + first * row);
    });
  }
  [[nodiscard]] const std::byte* data() const { return bytes_.data(); }

 private:
  std::vector<std::byte> bytes_;
};

/// Activations [T, columns] as integers.
class quantised_input {
 public:
  quantised_input(activation_form form, const float* x, index_t tokens, index_t columns, const compute_options& compute) {
    const integer_kernels& k = compute.kernels->integer;
    const index_t row = k.quantised_bytes(form, columns);
    bytes_.reset(new std::byte[static_cast<std::size_t>(tokens * row)]);
    parallel_pieces(tokens, 32, [&](index_t first, index_t last) { k.quantise(form, x + first * columns, last - first, columns, bytes_.get() + first * row); });
  }
  [[nodiscard]] const std::byte* data() const { return bytes_.get(); }

 private:
  std::unique_ptr<std::byte[]> bytes_;
};

/// x [T, K] in the forms that the products of one call need.
struct linear_input {
  const float* x;
  index_t tokens, columns;
  bool few;
  std::vector<float> sums;               ///< for rows
  std::optional<packed_input> packed;    ///< for panels
  std::optional<quantised_input> bytes, words;  ///< for integers

  linear_input(const float* values, index_t count, std::span<const linear_product> products, const compute_options& compute)
      : x(values), tokens(count), columns(products[0].weight->base.columns), few(are_few(count, compute)) {
    for (const linear_product& product : products) {
      const linear_weight& w = *product.weight;
      const bool integers = way_of(w, few, compute) == linear_way::integers;
      if (integers) quantise(compute.kernels->integer.form_of(w.base.type, w.wide, few), compute);
      if (integers && w.updates.empty()) continue;
      if (few && sums.empty()) sums = block_sums(x, tokens, columns);
      if (!few && !packed) packed.emplace(x, tokens, columns, compute);
    }
  }
  [[nodiscard]] const std::byte* quantised(activation_form form) const { return (form == activation_form::bytes ? bytes : words)->data(); }

 private:
  void quantise(activation_form form, const compute_options& compute) {
    auto& input = form == activation_form::bytes ? bytes : words;
    if (!input) input.emplace(form, x, tokens, columns, compute);
  }
};

/// y[:, first..last) of a quantised matrix; first is at the beginning of a panel.
inline void integer_rows(const linear_input& in, const linear_weight& w, index_t first, index_t last, float* y, const compute_options& compute) {
  const integer_kernels& k = compute.kernels->integer;
  const index_t width = compute.kernels->panel_rows;
  const activation_form form = k.form_of(w.base.type, w.wide, in.few);
  const interleaved_weight* copy = compute.store != nullptr ? &compute.store->of(w.base, width) : nullptr;
  const index_t most = tokens_at_once(form, in.tokens), scratch = (k.scratch_bytes(most) + 63) / 64 * 64;
  const index_t panel_bytes = interleaved_bytes(w.base.type, width, w.base.columns), row = k.quantised_bytes(form, in.columns);
  std::byte* memory = thread_scratch(scratch + (copy == nullptr ? (last - first + width - 1) / width * panel_bytes : 0));
  for (index_t n = first; copy == nullptr && n < last; n += width)
    interleave_panel(w.base, n, std::min(width, last - n), width, memory + scratch + (n - first) / width * panel_bytes);
  for (index_t t = 0; t < in.tokens; t += most)
    for (index_t n = first; n < last; n += width) {
      const std::byte* panel = copy != nullptr ? copy->panel(n) : memory + scratch + (n - first) / width * panel_bytes;
      k.multiply(w.base.type, form, in.quantised(form) + t * row, std::min(most, in.tokens - t), in.columns, panel, std::min(width, last - n),
                 y + t * w.base.rows + n, w.base.rows, memory);
    }
}

/// y[:, first..last) = or += packed · rows of w, unpacked into the thread's scratch.
inline void panel_rows(const packed_input& x, index_t tokens, const weight_view& w, index_t first, index_t last, float* y, index_t stride, bool add,
                       const compute_options& compute) {
  const kernel_table& k = *compute.kernels;
  std::byte* panel = thread_scratch(k.panel_bytes(compute.kind, w.columns));
  for (index_t n = first; n < last; n += k.panel_rows) {
    const index_t count = std::min(k.panel_rows, last - n);
    k.unpack_panel(compute.kind, w, n, count, panel);
    k.multiply_panel(compute.kind, x.data(), tokens, w.columns, panel, count, y + n, stride, add);
  }
}

/// x · Aᵀ · scale of one update: [T, r], as the product with B takes it.
struct reduced_input {
  std::vector<float> values, sums;     ///< few tokens
  std::optional<packed_input> packed;  ///< many
};

[[nodiscard]] inline reduced_input reduce(const linear_input& in, const low_rank_update& update, const compute_options& compute) {
  reduced_input result;
  const index_t rank = update.a.rows;
  result.values.resize(static_cast<std::size_t>(in.tokens * rank));
  if (in.packed)
    panel_rows(*in.packed, in.tokens, update.a, 0, rank, result.values.data(), rank, false, compute);
  else
    for (index_t t = 0; t < in.tokens; ++t)
      compute.kernels->multiply_vector(update.a, 0, rank, in.x + t * in.columns, in.sums.data() + t * (in.columns / 32), result.values.data() + t * rank);
  for (float& value : result.values) value *= update.scale;
  if (in.packed)
    result.packed.emplace(result.values.data(), in.tokens, rank, compute);
  else
    result.sums = block_sums(result.values.data(), in.tokens, rank);
  return result;
}

/// y[:, first..last) += reduced · Bᵀ.
inline void add_update(const linear_input& in, const reduced_input& reduced, const weight_view& b, index_t first, index_t last, float* y,
                       const compute_options& compute) {
  if (reduced.packed) return panel_rows(*reduced.packed, in.tokens, b, first, last, y, b.rows, true, compute);
  auto* change = reinterpret_cast<float*>(thread_scratch(b.rows * static_cast<index_t>(sizeof(float))));
  for (index_t t = 0; t < in.tokens; ++t) {
    compute.kernels->multiply_vector(b, first, last, reduced.values.data() + t * b.columns, reduced.sums.data() + t * (b.columns / 32), change);
    for (index_t n = first; n < last; ++n) y[t * b.rows + n] += change[n];
  }
}

/// One task's work.
inline void multiply_piece(const linear_input& in, const linear_piece& piece, const std::vector<reduced_input>& reduced, const compute_options& compute) {
  const auto& [product, index, way, first, last] = piece;
  const linear_weight& w = *product->weight;
  if (way == linear_way::integers)
    integer_rows(in, w, first, last, product->y, compute);
  else if (way == linear_way::panels)
    panel_rows(*in.packed, in.tokens, w.base, first, last, product->y, w.base.rows, false, compute);
  else
    for (index_t t = 0; t < in.tokens; ++t)
      compute.kernels->multiply_vector(w.base, first, last, in.x + t * in.columns, in.sums.data() + t * (in.columns / 32), product->y + t * w.base.rows);
  for (std::size_t u = 0; u < w.updates.size(); ++u) add_update(in, reduced[u], w.updates[u].b, first, last, product->y, compute);
}

}  // namespace detail

/// y = x · Wᵀ for each product; x is [tokens, K], all weights are [N_i, K]. Which way is taken depends on the weight, the options and whether
/// tokens are few (compute.batched: never) alone.
inline void linear(const float* x, index_t tokens, std::span<const linear_product> products, const compute_options& compute) {
  if (tokens == 0) return;
  for (const linear_product& p : products) {
    compute.count(2 * tokens * p.weight->base.rows * p.weight->base.columns);
    for (const low_rank_update& u : p.weight->updates) compute.count(2 * tokens * u.a.rows * (u.a.columns + u.b.rows));
  }
  const detail::linear_input in(x, tokens, products, compute);
  std::vector<std::vector<detail::reduced_input>> reduced(products.size());
  parallel_tasks(static_cast<index_t>(products.size()), [&](index_t i) {
    const auto at = static_cast<std::size_t>(i);
    for (const low_rank_update& u : products[at].weight->updates) reduced[at].push_back(detail::reduce(in, u, compute));
  });
  const auto pieces = detail::pieces_of(products, tokens, compute);
  parallel_tasks(static_cast<index_t>(pieces.size()), [&](index_t i) {
    const detail::linear_piece& piece = pieces[static_cast<std::size_t>(i)];
    detail::multiply_piece(in, piece, reduced[piece.index], compute);
  });
}

inline void linear(const float* x, index_t tokens, const linear_weight& weight, float* y, const compute_options& compute) {
  const std::array products = {linear_product{&weight, y}};
  linear(x, tokens, products, compute);
}

}  // namespace blockattn::inline v0
