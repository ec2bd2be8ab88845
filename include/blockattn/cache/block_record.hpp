// A block outside of memory: 48 bytes of header, then the block's bytes as core/kv.hpp lays them out.
//
//   u32 "BAKV"   u16 version 1   u16 0   u64 bytes of the payload   u32 tokens   u32 0   u64 stamp   16 bytes checksum
//
// Little-endian. The checksum is XXH3-128 of the payload, its seed made of the block's key and the number of tokens: a
// block that lies under another block's key is as wrong as one with a flipped bit. The stamp is a random number of this
// writing, by which a reader knows content again that it has verified.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <span>

#include "blockattn/cache/block_key.hpp"
#include "blockattn/core/kv.hpp"
#include "blockattn/io/mapped_file.hpp"

namespace blockattn::inline v0 {

static_assert(std::endian::native == std::endian::little, "blocks are kept as they lie in memory, which is little-endian");

inline constexpr std::size_t record_header_bytes = 48;

/// A record that is structurally sound; its content is to be trusted once is_intact() said so.
struct record_view {
  index_t tokens = 0;
  std::uint64_t stamp = 0;
  fingerprint128 checksum;
  std::span<const std::byte> payload;
};

namespace detail {

inline constexpr std::uint32_t record_magic = 0x564B4142;  // "BAKV"
inline constexpr std::uint16_t record_version = 1;

template <class T>
[[nodiscard]] T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

template <class T>
void store(std::byte* at, const T& value) {
  std::memcpy(at, &value, sizeof(T));
}

[[nodiscard]] inline fingerprint128 record_checksum(const block_key& key, index_t tokens, std::span<const std::byte> payload) {
  const std::uint64_t seed = key.hash.low ^ std::rotl(key.hash.high, 21) ^ (static_cast<std::uint64_t>(tokens) * 0x9e3779b97f4a7c15U);
  return hash_bytes(payload, seed);
}

}  // namespace detail

/// A stamp for one writing: random, so that no two writings of a key share it but by a chance of 2^-64.
[[nodiscard]] inline std::uint64_t new_stamp() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return random();
}

/// Writes the header of `payload` to out[0, record_header_bytes).
inline void write_record_header(std::byte* out, const block_key& key, index_t tokens, std::span<const std::byte> payload, std::uint64_t stamp) {
  std::memset(out, 0, record_header_bytes);
  detail::store(out, detail::record_magic);
  detail::store(out + 4, detail::record_version);
  detail::store(out + 8, static_cast<std::uint64_t>(payload.size()));
  detail::store(out + 16, static_cast<std::uint32_t>(tokens));
  detail::store(out + 24, stamp);
  const auto checksum = to_bytes(detail::record_checksum(key, tokens, payload));
  std::memcpy(out + 32, checksum.data(), checksum.size());
}

/// The bytes of a block, as a payload.
[[nodiscard]] inline std::span<const std::byte> payload_of(const kv_block& block) { return {block.data(), static_cast<std::size_t>(block.bytes())}; }

/// Reads a header; nothing if `record` isn't one of this version, or holds another number of bytes than it says.
[[nodiscard]] inline std::optional<record_view> read_record(std::span<const std::byte> record) {
  if (record.size() < record_header_bytes || detail::load<std::uint32_t>(record.data()) != detail::record_magic ||
      detail::load<std::uint16_t>(record.data() + 4) != detail::record_version)
    return std::nullopt;
  record_view view;
  view.payload = record.subspan(record_header_bytes);
  view.tokens = detail::load<std::uint32_t>(record.data() + 16);
  view.stamp = detail::load<std::uint64_t>(record.data() + 24);
  view.checksum = {detail::load<std::uint64_t>(record.data() + 32), detail::load<std::uint64_t>(record.data() + 40)};
  if (detail::load<std::uint64_t>(record.data() + 8) != view.payload.size()) return std::nullopt;
  return view;
}

/// Whether the payload is the one that was written under this key. Reads all of it.
[[nodiscard]] inline bool is_intact(const block_key& key, const record_view& record) {
  populate(record.payload);
  return detail::record_checksum(key, record.tokens, record.payload) == record.checksum;
}

/// Whether the payload has the size of a block of this layout.
[[nodiscard]] inline bool has_layout(const record_view& record, const kv_layout& layout) {
  return record.tokens > 0 && static_cast<std::size_t>(kv_block(layout, record.tokens, nullptr).bytes()) == record.payload.size();
}

/// The record's block in memory of its own.
[[nodiscard]] inline std::shared_ptr<const kv_block> copy_of(const record_view& record, const kv_layout& layout) {
  auto block = std::make_shared<kv_block>(layout, record.tokens);
  std::memcpy(block->data(), record.payload.data(), record.payload.size());
  return block;
}

}  // namespace blockattn::inline v0
