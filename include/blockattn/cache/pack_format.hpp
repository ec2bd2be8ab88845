// A pack: blocks of one model in one file, to be shipped with an application and mapped by any number of processes.
//
//   head     64 bytes: "BAKVPACK", u32 version 1, u32 0, u64 offset of the first record, u64 bytes of the identity, 16 bytes fingerprint of the model,
//            16 bytes checksum of the 48 bytes before it and the identity; then the identity (text of the fingerprint's parts)
//   records  16 bytes hash of the block's key, a record (block_record.hpp: 48 bytes of header, the payload)
//   index    48 bytes a block, sorted by hash: 16 bytes hash, u64 offset of its record, u64 bytes of its payload, u64 stamp, u32 tokens, u32 0
//   trailer  64 bytes: "BAKVINDX", u64 offset of the index, u64 blocks, u64 size of the file, 16 bytes 0, 16 bytes checksum of the 48 bytes before it and the index
//
// Little-endian; head, records, index and trailer start at multiples of 64, so payloads do too. Checksums are XXH3-128.
// Until it is whole, a pack is written to "<name>.part", which has no index: its records are found one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/cache/block_record.hpp"
#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

/// A block in a pack.
struct pack_entry {
  static constexpr std::size_t size = 48;
  fingerprint128 hash;
  std::uint64_t offset = 0;  ///< of the record: the hash, then the header
  std::uint64_t bytes = 0;   ///< of the payload
  std::uint64_t stamp = 0;
  std::uint32_t tokens = 0;
};

namespace detail {

inline constexpr std::string_view pack_magic = "BAKVPACK", index_magic = "BAKVINDX";
inline constexpr std::uint32_t pack_version = 1;
inline constexpr std::size_t pack_unit = 64;

[[nodiscard]] constexpr std::uint64_t pack_align(std::uint64_t offset) { return (offset + pack_unit - 1) / pack_unit * pack_unit; }

[[nodiscard]] inline fingerprint128 fingerprint_of(const std::byte* at) { return {load<std::uint64_t>(at), load<std::uint64_t>(at + 8)}; }

inline void store_fingerprint(std::byte* at, const fingerprint128& value) {
  const auto bytes = to_bytes(value);
  std::memcpy(at, bytes.data(), bytes.size());
}

[[nodiscard]] inline fingerprint128 checksum_of(std::span<const std::byte> first, std::span<const std::byte> second) {
  return combine(hash_bytes(first), hash_bytes(second));
}

/// Head and identity of a pack, padded to where the first record begins.
[[nodiscard]] inline std::vector<std::byte> pack_head(const fingerprint128& model, const std::string& identity) {
  std::vector<std::byte> head(pack_align(pack_unit + identity.size()));
  std::memcpy(head.data(), pack_magic.data(), pack_magic.size());
  store(head.data() + 8, pack_version);
  store(head.data() + 16, std::uint64_t{head.size()});
  store(head.data() + 24, std::uint64_t{identity.size()});
  store_fingerprint(head.data() + 32, model);
  std::memcpy(head.data() + pack_unit, identity.data(), identity.size());
  const std::span<const std::byte> all(head);
  store_fingerprint(head.data() + 48, checksum_of(all.first(48), all.subspan(pack_unit, identity.size())));
  return head;
}

struct pack_start {
  fingerprint128 model;
  fingerprint_parts identity;
  std::uint64_t records = 0;  ///< offset of the first one
};

/// Reads a pack's head. Throws format_error that names what is wrong.
[[nodiscard]] inline pack_start read_pack_head(std::span<const std::byte> file, const std::string& path) {
  if (file.size() < pack_unit || std::memcmp(file.data(), pack_magic.data(), pack_magic.size()) != 0)
    throw format_error(cat("[pack] ", path, ": isn't a pack of blocks (it doesn't begin with 'BAKVPACK'). Give a file that 'blockattn pack' wrote."));
  const auto version = load<std::uint32_t>(file.data() + 8);
  if (version != pack_version)
    throw format_error(cat("[pack] ", path, ": its format is version ", version, "; this version reads ", pack_version, ". Pack the documents again."));
  const auto records = load<std::uint64_t>(file.data() + 16), identity = load<std::uint64_t>(file.data() + 24);
  if (records > file.size() || identity > file.size() - pack_unit || records != pack_align(pack_unit + identity) ||
      checksum_of(file.first(48), file.subspan(pack_unit, identity)) != fingerprint_of(file.data() + 48))
    throw format_error(cat("[pack] ", path, ": its head is damaged. Pack the documents again."));
  const auto text = file.subspan(pack_unit, identity);
  return {fingerprint_of(file.data() + 32), fingerprint_parts::parse({reinterpret_cast<const char*>(text.data()), text.size()}), records};
}

/// The record at `offset` before `end`, structurally sound, with its hash; nothing otherwise.
[[nodiscard]] inline std::optional<std::pair<fingerprint128, record_view>> pack_record(std::span<const std::byte> file, std::uint64_t offset, std::uint64_t end) {
  if (offset % pack_unit != 0 || offset > end || end - offset < pack_unit || end > file.size()) return std::nullopt;
  const auto bytes = load<std::uint64_t>(file.data() + offset + 16 + 8);  // of the payload, as the header says
  if (bytes > end - offset - pack_unit) return std::nullopt;
  const auto record = read_record(file.subspan(offset + 16, record_header_bytes + bytes));
  return record ? std::optional(std::pair(fingerprint_of(file.data() + offset), *record)) : std::nullopt;
}

inline void store_entry(std::byte* at, const pack_entry& entry) {
  std::memset(at, 0, pack_entry::size);
  store_fingerprint(at, entry.hash);
  store(at + 16, entry.offset);
  store(at + 24, entry.bytes);
  store(at + 32, entry.stamp);
  store(at + 40, entry.tokens);
}

[[nodiscard]] inline pack_entry load_entry(const std::byte* at) {
  return {fingerprint_of(at), load<std::uint64_t>(at + 16), load<std::uint64_t>(at + 24), load<std::uint64_t>(at + 32), load<std::uint32_t>(at + 40)};
}

/// The index (its entries sorted) and the trailer, for a file in which the index begins at `offset`.
[[nodiscard]] inline std::vector<std::byte> pack_index(const std::vector<pack_entry>& sorted, std::uint64_t offset) {
  const std::uint64_t index_bytes = sorted.size() * pack_entry::size, trailer = pack_align(index_bytes);
  std::vector<std::byte> out(trailer + pack_unit);
  for (std::size_t i = 0; i < sorted.size(); ++i) store_entry(out.data() + i * pack_entry::size, sorted[i]);
  std::memcpy(out.data() + trailer, index_magic.data(), index_magic.size());
  store(out.data() + trailer + 8, offset);
  store(out.data() + trailer + 16, std::uint64_t{sorted.size()});
  store(out.data() + trailer + 24, offset + out.size());
  const std::span<const std::byte> all(out);
  store_fingerprint(out.data() + trailer + 48, checksum_of(all.subspan(trailer, 48), all.first(index_bytes)));
  return out;
}

}  // namespace detail

}  // namespace blockattn::inline v0
