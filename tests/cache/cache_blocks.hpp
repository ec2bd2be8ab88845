// Blocks for the tests of the cache: small, filled from their key, and checkable.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "blockattn/cache/block_cache.hpp"

namespace blockattn_test {

inline constexpr blockattn::kv_layout small_layout{1, 1, 8, blockattn::dtype::f32};

inline blockattn::block_key key_of(std::uint64_t n) { return {{n * 0x9e3779b97f4a7c15U, n}}; }

inline std::byte expected_byte(const blockattn::block_key& key, std::size_t i) {
  return static_cast<std::byte>((key.hash.low >> (8 * (i % 8))) + i);
}

/// A block of `tokens` tokens (64 bytes each) whose content follows from its key.
inline std::shared_ptr<const blockattn::kv_block> block_of(const blockattn::block_key& key,
                                                           blockattn::index_t tokens = 4) {
  auto block = std::make_shared<blockattn::kv_block>(small_layout, tokens);
  for (std::size_t i = 0; i < static_cast<std::size_t>(block->bytes()); ++i) block->data()[i] = expected_byte(key, i);
  return block;
}

/// The content of a key's block, which repeats after 256 bytes.
inline std::array<std::byte, 256> pattern_of(const blockattn::block_key& key) {
  std::array<std::byte, 256> pattern{};
  for (std::size_t i = 0; i < pattern.size(); ++i) pattern[i] = expected_byte(key, i);
  return pattern;
}

inline bool is_block_of(const blockattn::block_key& key, const blockattn::kv_block& block) {
  const auto pattern = pattern_of(key);
  const auto bytes = static_cast<std::size_t>(block.bytes());
  for (std::size_t at = 0; at < bytes; at += pattern.size())
    if (std::memcmp(block.data() + at, pattern.data(), std::min(pattern.size(), bytes - at)) != 0) return false;
  return true;
}

/// What a block of `tokens` tokens counts in a cache.
inline std::size_t cost_of(blockattn::index_t tokens = 4) {
  return static_cast<std::size_t>(small_layout.token_bytes() * tokens) + blockattn::block_cache::entry_overhead;
}

}  // namespace blockattn_test
