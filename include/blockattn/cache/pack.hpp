// A pack that is read: opened in the time it takes to map it and to check its index, and used as a tier. See
// pack_format.hpp. Needs no other library.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "blockattn/cache/block_tier.hpp"
#include "blockattn/cache/pack_format.hpp"
#include "blockattn/cache/tier_log.hpp"
#include "blockattn/io/mapped_file.hpp"

namespace blockattn::inline v0 {

/// An open pack, mapped. Immutable; any thread may read it. Throws io_error, and format_error for a file that isn't a
/// complete pack of this version.
class pack_file {
 public:
  explicit pack_file(const std::filesystem::path& path) : path_(path.string()), file_(path), bytes_(file_.bytes()), start_(detail::read_pack_head(bytes_, path_)) { read_index(); }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const fingerprint128& model() const { return start_.model; }
  [[nodiscard]] const fingerprint_parts& identity() const { return start_.identity; }
  [[nodiscard]] std::size_t blocks() const { return blocks_; }
  [[nodiscard]] std::size_t size_bytes() const { return bytes_.size(); }
  /// Entry number i of 0..blocks()-1, in the order of their hashes.
  [[nodiscard]] pack_entry entry(std::size_t i) const { return detail::load_entry(index_ + i * pack_entry::size); }
  [[nodiscard]] block_key key(std::size_t i) const { return {entry(i).hash, start_.model}; }

  /// Number of the block with this hash.
  [[nodiscard]] std::optional<std::size_t> find(const fingerprint128& hash) const {
    std::size_t first = 0, last = blocks_;
    while (first < last) {
      const std::size_t middle = first + (last - first) / 2;
      (entry(middle).hash < hash ? first : last) = entry(middle).hash < hash ? middle + 1 : middle;
    }
    return first < blocks_ && entry(first).hash == hash ? std::optional(first) : std::nullopt;
  }

  /// The record of block i, structurally sound but not verified; nothing if it's damaged.
  [[nodiscard]] std::optional<record_view> record(std::size_t i) const {
    const pack_entry e = entry(i);
    const auto found = detail::pack_record(bytes_, e.offset, records_end_);
    if (!found || found->first != e.hash || found->second.payload.size() != e.bytes || found->second.stamp != e.stamp || found->second.tokens != e.tokens) return std::nullopt;
    return found->second;
  }

  /// Blocks that fail their checksum. Reads everything. `progress` counts blocks; false cancels (cancelled_error).
  [[nodiscard]] std::vector<block_key> verify(const progress_callback& progress = {}) const {
    std::vector<block_key> damaged;
    for (std::size_t i = 0; i < blocks_; ++i) {
      const auto found = record(i);
      if (!found || !is_intact(key(i), *found)) damaged.push_back(key(i));
      if (progress && !progress(static_cast<std::int64_t>(i + 1), static_cast<std::int64_t>(blocks_))) throw cancelled_error("[pack] the verification was cancelled");
    }
    return damaged;
  }

 private:
  void read_index() {
    const auto damaged = [this](const char* what) { return format_error(cat("[pack] ", path_, ": ", what, ". Truncated or interrupted? Pack the documents again, or copy the file again.")); };
    if (bytes_.size() < start_.records + detail::pack_unit) throw damaged("it has no index");
    const std::byte* trailer = bytes_.data() + bytes_.size() - detail::pack_unit;
    if (std::memcmp(trailer, detail::index_magic.data(), detail::index_magic.size()) != 0) throw damaged("it has no index");
    const auto offset = detail::load<std::uint64_t>(trailer + 8), blocks = detail::load<std::uint64_t>(trailer + 16);
    if (detail::load<std::uint64_t>(trailer + 24) != bytes_.size()) throw damaged("it isn't as long as it says");
    const std::uint64_t room = bytes_.size() - detail::pack_unit;
    if (offset < start_.records || offset > room || blocks > (room - offset) / pack_entry::size) throw damaged("its index lies outside of it");
    const auto index = bytes_.subspan(offset, blocks * pack_entry::size);
    if (detail::checksum_of({trailer, 48}, index) != detail::fingerprint_of(trailer + 48)) throw damaged("its index is damaged");
    index_ = index.data();
    blocks_ = blocks;
    records_end_ = offset;
  }

  std::string path_;
  mapped_file file_;
  std::span<const std::byte> bytes_;
  detail::pack_start start_;
  const std::byte* index_ = nullptr;
  std::size_t blocks_ = 0;
  std::uint64_t records_end_ = 0;
};

/// A pack as a tier: blocks are attended to in the map; nothing is ever written.
class pack_tier final : public block_tier {
 public:
  explicit pack_tier(const std::filesystem::path& path, log_sink log = {})
      : pack_(std::make_shared<const pack_file>(path)), state_(std::make_unique<std::atomic<std::uint8_t>[]>(pack_->blocks())), log_(std::move(log)) {}

  [[nodiscard]] std::string name() const override { return cat("pack ", pack_->path()); }
  [[nodiscard]] bool in_place() const override { return true; }
  [[nodiscard]] const pack_file& pack() const { return *pack_; }

  /// Why no block of this pack can serve that model; empty if they do.
  [[nodiscard]] std::string why_useless(const fingerprint128& model, const fingerprint_parts& identity) const {
    return model == pack_->model() ? std::string() : why_foreign(model, identity, {{pack_->model(), pack_->identity()}});
  }

  void introduce(const fingerprint128& model, const fingerprint_parts& identity) override {
    if (const std::string why = why_useless(model, identity); !why.empty())
      log_.say(log_level::warning, cat("[pack] ", pack_->path(), ": not used: ", why, ". Pack the documents with this model and these flags."));
  }

  [[nodiscard]] std::shared_ptr<const kv_block> find(const block_key& key, const kv_layout& layout) override {
    const auto number = number_of(key);
    auto block = number ? look_up(*number, key, layout) : nullptr;
    ++(block != nullptr ? counters_.hits : counters_.misses);
    return block;
  }

  void put(const block_key&, std::shared_ptr<const kv_block>) override {}
  [[nodiscard]] bool contains(const block_key& key) override {
    const auto number = number_of(key);
    return number && state_[*number] != bad;
  }
  bool erase(const block_key&) override { return false; }
  bool pin(const block_key& key) override { return contains(key); }  // nothing is ever evicted
  bool unpin(const block_key& key) override { return contains(key); }

  [[nodiscard]] tier_stats stats() override {
    tier_stats result = counters_.stats();
    result.blocks = pack_->blocks();
    result.bytes = pack_->size_bytes();
    return result;
  }

 private:
  static constexpr std::uint8_t unknown = 0, good = 1, bad = 2;

  [[nodiscard]] std::optional<std::size_t> number_of(const block_key& key) const { return key.model == pack_->model() ? pack_->find(key.hash) : std::nullopt; }

  [[nodiscard]] std::shared_ptr<const kv_block> look_up(std::size_t number, const block_key& key, const kv_layout& layout) {
    if (state_[number] == bad) return nullptr;
    const auto record = pack_->record(number);
    const bool sound = record && has_layout(*record, layout) && (state_[number] == good || is_intact(key, *record));
    if (!sound) {
      if (state_[number].exchange(bad) != bad) {
        ++counters_.damaged;
        log_.say(log_level::warning, cat("[pack] ", pack_->path(), ": block ", to_string(key), " is damaged; it's computed again. Copy or make the pack again."));
      }
      return nullptr;
    }
    state_[number] = good;
    auto* data = const_cast<std::byte*>(record->payload.data());
    return std::make_shared<kv_block>(layout, record->tokens, std::shared_ptr<std::byte>(std::const_pointer_cast<pack_file>(pack_), data));
  }

  std::shared_ptr<const pack_file> pack_;
  std::unique_ptr<std::atomic<std::uint8_t>[]> state_;  ///< of each block: whether it was verified, and what came of it
  tier_counters counters_;
  warn_once log_;
};

}  // namespace blockattn::inline v0
