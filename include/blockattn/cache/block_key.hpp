// What a cached block is found by: its content, not its place in a prompt.
//
// XXH3-128 with seed 0 over this stream, little-endian:
//   16 bytes  "blockattn.block1" (no other stream of this library begins so; a new encoding of blocks gets a new tag)
//   16 bytes  the model's fingerprint (weights, adapter, dtype of keys and values, encoding), low half first
//    8 bytes  number of tokens
//    4 bytes  a token id, for each token
// Two blocks with the same tokens of one model are the same block. At 128 bits, among a thousand million blocks the
// chance that any two different ones share a key is below 1e-20.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/fingerprint.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

/// Key of a block in a cache. `model` follows from `hash`, which is made of it; it's kept so that what lies on disk can
/// be told apart by model.
struct block_key {
  fingerprint128 hash;
  fingerprint128 model = {};

  friend constexpr bool operator==(const block_key&, const block_key&) = default;
  friend constexpr auto operator<=>(const block_key&, const block_key&) = default;
};

/// Key of the block `ids` as the model with this fingerprint encodes it. An empty block has a key too.
[[nodiscard]] inline block_key make_block_key(const fingerprint128& model, std::span<const token_id> ids) {
  constexpr std::string_view tag = "blockattn.block1";
  std::vector<std::byte> stream(tag.size() + 16 + 8 + 4 * ids.size());
  std::byte* out =
      std::transform(tag.begin(), tag.end(), stream.data(), [](char c) { return static_cast<std::byte>(c); });
  const auto model_bytes = to_bytes(model);
  out = std::copy(model_bytes.begin(), model_bytes.end(), out);
  const auto put = [&out](std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) *out++ = static_cast<std::byte>(value >> (8 * i));
  };
  put(ids.size(), 8);
  for (const token_id id : ids) put(static_cast<std::uint32_t>(id), 4);
  return {hash_bytes(stream), model};
}

/// 32 hexadecimal digits, for logs and messages.
[[nodiscard]] inline std::string to_string(const block_key& key) { return to_string(key.hash); }

}  // namespace blockattn::inline v0

template <>
struct std::hash<blockattn::block_key> {
  [[nodiscard]] std::size_t operator()(const blockattn::block_key& key) const noexcept {
    return std::hash<blockattn::fingerprint128>{}(key.hash);
  }
};
