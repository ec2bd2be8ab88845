// Blocks of keys and values in other types than they were computed in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "blockattn/core/kv.hpp"
#include "blockattn/kernels/kernel_table.hpp"
#include "blockattn/ops/parallel.hpp"

namespace blockattn::inline v0 {

namespace detail {

/// `n` numbers of type `from` to type `to`, both whole blocks.
inline void convert_kv(dtype from, const std::byte* in, dtype to, std::byte* out, index_t n, const kernel_table& kernels) {
  if (from == to) {
    std::copy_n(in, row_bytes(from, n), out);
    return;
  }
  std::vector<float> numbers(static_cast<std::size_t>(n));
  kernels.load_kv(from, in, n, numbers.data());
  kernels.store_kv(to, numbers.data(), n, out);
}

}  // namespace detail

/// `block` itself if its keys and values are stored as `types`, else a copy that is, each number rounded to its new type once. A block in the host's memory.
/// Throws argument_error if its heads can't be stored so.
[[nodiscard]] inline std::shared_ptr<const kv_block> stored_as(const kv_types& types, std::shared_ptr<const kv_block> block, const kernel_table& kernels) {
  const kv_layout from = block->layout();
  if (from.types == types) return block;
  if (block->memory() != nullptr) throw argument_error(cat("[kv] a block in a device's memory, of ", to_string(from.types), ", to be stored as ", to_string(types), "; only the host converts"));
  const kv_layout to = checked({from.layers, from.kv_heads, from.head_dim, types});
  const index_t tokens = block->tokens();
  auto result = std::make_shared<kv_block>(to, tokens);
  const index_t channels = tokens * from.head_dim;  // of a head
  parallel_tasks(from.layers * from.kv_heads, [&](index_t task) {
    const index_t l = task / from.kv_heads, head = task % from.kv_heads;
    const kv_view source = block->layer(l);
    std::byte* keys = result->data() + l * (to.key_bytes(tokens) + to.value_bytes(tokens));
    std::byte* values = keys + to.key_bytes(tokens);
    detail::convert_kv(from.types.keys, source.keys + head * tokens * from.key_row_bytes(), types.keys, keys + head * tokens * to.key_row_bytes(), channels, kernels);
    detail::convert_kv(from.types.values, source.values + head * tokens * from.value_row_bytes(), types.values, values + head * tokens * to.value_row_bytes(), channels, kernels);
  });
  return result;
}

}  // namespace blockattn::inline v0
