// Blocks in an LMDB environment: what lies in its tables, and every change of it as one transaction.
//
//   meta    "format" -> "blockattn.store1"; "totals" -> u64 bytes, u64 pinned bytes, u64 blocks
//   models  fingerprint -> the text of its parts
//   blocks  key -> record (block_record.hpp)
//   uses    key -> u64 last use (µs since 1970), u64 bytes, u64 stamp, u32 tokens, u32 pins
//   order   last use (big-endian), key -> nothing: unpinned blocks, the least recently used first
//
// A key is the model's fingerprint and the block's hash, 16 bytes each. LMDB keeps a large value in pages of its own after
// 16 bytes of header, so after a record's 48 a payload starts at a multiple of 64 and can be attended to where it lies.
// `bytes` are those pages. The file never grows over the budget: blocks fill at most 4/5 of it, since LMDB needs a run of
// free pages for each and doesn't use pages again that a reader may still look at.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/cache/block_record.hpp"
#include "blockattn/cache/lmdb_env.hpp"
#include "blockattn/cache/write_behind.hpp"

namespace blockattn::inline v0 {

/// A block that was removed to make room.
struct evicted_block {
  block_key key;
  index_t tokens = 0;
  std::size_t bytes = 0;
};

/// Sums over a store.
struct store_totals {
  std::uint64_t bytes = 0, pinned_bytes = 0, blocks = 0;
};

/// What verify() found.
struct store_report {
  store_totals totals;
  std::vector<block_key> damaged;      ///< blocks that fail their checksum
  std::vector<std::string> problems;   ///< tables that disagree
  [[nodiscard]] bool clean() const { return damaged.empty() && problems.empty(); }
};

namespace detail {

using store_key = std::array<std::byte, 32>;

[[nodiscard]] inline store_key to_store_key(const block_key& key) {
  store_key result;
  const auto model = to_bytes(key.model), hash = to_bytes(key.hash);
  std::copy(model.begin(), model.end(), result.begin());
  std::copy(hash.begin(), hash.end(), result.begin() + 16);
  return result;
}

[[nodiscard]] inline fingerprint128 fingerprint_at(const std::byte* at) { return {load<std::uint64_t>(at), load<std::uint64_t>(at + 8)}; }

[[nodiscard]] inline block_key from_store_key(const std::byte* at) { return {fingerprint_at(at + 16), fingerprint_at(at)}; }

struct store_use {
  static constexpr std::size_t size = 32;
  std::uint64_t time = 0, bytes = 0, stamp = 0;
  std::uint32_t tokens = 0, pins = 0;

  [[nodiscard]] std::array<std::byte, size> to() const {
    std::array<std::byte, size> out{};
    store(out.data(), time);
    store(out.data() + 8, bytes);
    store(out.data() + 16, stamp);
    store(out.data() + 24, tokens);
    store(out.data() + 28, pins);
    return out;
  }
  [[nodiscard]] static store_use from(std::span<const std::byte> at) {
    if (at.size() != size) return {};
    return {load<std::uint64_t>(at.data()), load<std::uint64_t>(at.data() + 8), load<std::uint64_t>(at.data() + 16), load<std::uint32_t>(at.data() + 24),
            load<std::uint32_t>(at.data() + 28)};
  }
};

using order_key = std::array<std::byte, 40>;

[[nodiscard]] inline order_key to_order_key(std::uint64_t time, const store_key& key) {
  order_key result;
  for (std::size_t i = 0; i < 8; ++i) result[i] = static_cast<std::byte>(time >> (56 - 8 * i));
  std::copy(key.begin(), key.end(), result.begin() + 8);
  return result;
}

[[nodiscard]] inline std::span<const std::byte> text_bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }
[[nodiscard]] inline std::string_view bytes_text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

[[nodiscard]] inline std::uint64_t now_us() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

/// One change of a store: keeps its tables and sums in step.
class store_change {
 public:
  explicit store_change(lmdb_env& env) : env_(env), change_(env) {
    const auto bytes = change_.get(env_.dbs().meta, text_bytes("totals"));
    if (bytes && bytes->size() == 24) totals_ = {load<std::uint64_t>(bytes->data()), load<std::uint64_t>(bytes->data() + 8), load<std::uint64_t>(bytes->data() + 16)};
  }

  [[nodiscard]] const store_totals& totals() const { return totals_; }
  [[nodiscard]] std::optional<store_use> use(const store_key& key) {
    const auto bytes = change_.get(env_.dbs().uses, key);
    return bytes ? std::optional(store_use::from(*bytes)) : std::nullopt;
  }

  void add(const store_key& key, const block_key& name, const kv_block& block, std::size_t bytes) {
    const auto payload = payload_of(block);
    const store_use use{now_us(), bytes, new_stamp(), static_cast<std::uint32_t>(block.tokens()), 0};
    std::byte* out = change_.reserve(env_.dbs().blocks, key, record_header_bytes + payload.size());
    write_record_header(out, name, block.tokens(), payload, use.stamp);
    std::memcpy(out + record_header_bytes, payload.data(), payload.size());
    set(key, use);
    change_.put(env_.dbs().order, to_order_key(use.time, key), {});
    totals_.bytes += bytes;
    ++totals_.blocks;
  }

  void remove(const store_key& key, const store_use& use) {
    change_.remove(env_.dbs().blocks, key);
    change_.remove(env_.dbs().uses, key);
    if (use.pins == 0) change_.remove(env_.dbs().order, to_order_key(use.time, key));
    totals_.bytes -= std::min<std::uint64_t>(totals_.bytes, use.bytes);
    if (use.pins != 0) totals_.pinned_bytes -= std::min<std::uint64_t>(totals_.pinned_bytes, use.bytes);
    totals_.blocks -= std::min<std::uint64_t>(totals_.blocks, 1);
  }

  void touch(const store_key& key, std::uint64_t time) {
    auto use = this->use(key);
    if (!use || use->pins != 0 || use->time >= time) return;
    change_.remove(env_.dbs().order, to_order_key(use->time, key));
    use->time = time;
    set(key, *use);
    change_.put(env_.dbs().order, to_order_key(time, key), {});
  }

  /// Pins (by 1) or unpins (by -1). False if the block isn't there, or isn't pinned.
  bool pin(const store_key& key, int by) {
    auto use = this->use(key);
    if (!use || (by < 0 && use->pins == 0)) return false;
    const bool was = use->pins != 0;
    use->pins += static_cast<std::uint32_t>(by);
    const bool is = use->pins != 0;
    if (was != is) {
      if (is)
        change_.remove(env_.dbs().order, to_order_key(use->time, key));
      else
        change_.put(env_.dbs().order, to_order_key(use->time, key), {});
      totals_.pinned_bytes += is ? use->bytes : std::uint64_t{0} - use->bytes;
    }
    set(key, *use);
    return true;
  }

  /// Evicts least recently used blocks until at most `limit` bytes are left. False if pinned ones keep it from that.
  bool evict_to(std::uint64_t limit, std::vector<evicted_block>& evicted) {
    while (totals_.bytes > limit) {
      const auto first = oldest();
      if (!first) return false;
      store_key key;
      std::copy_n(first->data() + 8, key.size(), key.begin());
      const store_use use = this->use(key).value_or(store_use{});
      remove(key, use);
      change_.remove(env_.dbs().order, *first);  // whatever the other table said: each round takes one entry away
      evicted.push_back({from_store_key(key.data()), use.tokens, use.bytes});
    }
    return true;
  }

  void put_meta(std::string_view name, std::span<const std::byte> value) { change_.put(env_.dbs().meta, text_bytes(name), value); }
  [[nodiscard]] lmdb_change& raw() { return change_; }

  void commit() {
    std::array<std::byte, 24> bytes{};
    store(bytes.data(), totals_.bytes);
    store(bytes.data() + 8, totals_.pinned_bytes);
    store(bytes.data() + 16, totals_.blocks);
    put_meta("totals", bytes);
    change_.commit();
  }

 private:
  void set(const store_key& key, const store_use& use) { change_.put(env_.dbs().uses, key, use.to()); }

  [[nodiscard]] std::optional<order_key> oldest() {
    lmdb_cursor cursor(change_.txn(), env_.dbs().order);
    if (!cursor.next() || cursor.key().size() != sizeof(order_key)) return std::nullopt;
    order_key key;
    std::copy_n(cursor.key().data(), key.size(), key.begin());
    return key;
  }

  lmdb_env& env_;
  lmdb_change change_;
  store_totals totals_;
};

}  // namespace detail

/// An open store. Thread-safe; any number of processes may have it open. Functions throw lmdb_error for what LMDB or the
/// disk refuses; nothing has changed then.
class lmdb_store {
 public:
  static constexpr std::size_t least_budget = std::size_t{1} << 20;
  static constexpr std::string_view format = "blockattn.store1";

  /// Opens or makes the store in `folder`, whose file never grows over `byte_budget`. A store of an earlier, larger budget
  /// is cut down to this one, its file when it is next compacted. Throws argument_error (budget), io_error (folder, disk,
  /// address space) and format_error (another version's store).
  lmdb_store(const std::filesystem::path& folder, std::size_t byte_budget, const log_sink& log = {})
      : budget_(checked(folder, byte_budget)), env_(std::make_shared<lmdb_env>(folder, byte_budget, log)), page_(env_->page_bytes()) {
    const auto found = text("format");
    if (found && *found != format)
      throw format_error(cat("[disk cache] ", folder.string(), ": its format is '", *found, "'; this version reads and writes '", format,
                             "'. Choose another folder, or empty this one with 'blockattn cache clear'."));
    if (found && totals().bytes <= content_limit()) return;
    detail::store_change change(*env_);
    std::vector<evicted_block> evicted;
    change.put_meta("format", detail::text_bytes(format));
    change.evict_to(content_limit(), evicted);
    change.commit();
  }

  [[nodiscard]] const std::filesystem::path& folder() const { return env_->folder(); }
  [[nodiscard]] std::size_t byte_budget() const { return budget_; }
  /// Most bytes of blocks.
  [[nodiscard]] std::uint64_t content_limit() const { return budget_ / 5 * 4; }
  /// Pages that a block of so many bytes takes, in bytes.
  [[nodiscard]] std::size_t stored_bytes(std::size_t payload) const {
    const std::size_t record = payload + record_header_bytes;
    const std::size_t places = 256;  // of the key, three times, and of the nodes
    if (record < page_ / 2 - 64) return record + places;
    return (16 + record + page_ - 1) / page_ * page_ + places;
  }

  [[nodiscard]] std::shared_ptr<lmdb_snapshot> snapshot() const { return std::make_shared<lmdb_snapshot>(env_); }
  [[nodiscard]] std::uint64_t last_transaction() const { return env_->last_transaction(); }
  [[nodiscard]] static std::optional<std::span<const std::byte>> record(lmdb_snapshot& at, const lmdb_env::tables& dbs, const block_key& key) {
    return at.get(dbs.blocks, detail::to_store_key(key));
  }
  [[nodiscard]] const lmdb_env::tables& dbs() const { return env_->dbs(); }

  struct put_result {
    std::size_t written = 0, dropped = 0;
    std::vector<evicted_block> evicted;
  };

  /// Stores blocks that aren't there yet in one transaction, making room; what finds no room beside pinned blocks is
  /// dropped. Recencies of `touched` blocks are renewed with it.
  put_result put(std::span<const write_behind::item> items, std::span<const std::pair<block_key, std::uint64_t>> touched = {}) {
    put_result result;
    for (int attempt = 0;; ++attempt) {
      try {
        put_result done = put_once(items, touched);
        done.evicted.insert(done.evicted.begin(), result.evicted.begin(), result.evicted.end());
        return done;
      } catch (const lmdb_error& e) {
        if (e.code != MDB_MAP_FULL || attempt == 3) throw;
      }
      make_free_pages(items, static_cast<std::uint64_t>(attempt + 1), result.evicted);
    }
  }

  bool erase(const block_key& key, std::optional<std::uint64_t> only_stamp = {}) {
    detail::store_change change(*env_);
    const auto name = detail::to_store_key(key);
    const auto use = change.use(name);
    if (!use || (only_stamp && use->stamp != *only_stamp)) return false;
    change.remove(name, *use);
    change.commit();
    return true;
  }

  bool pin(const block_key& key, int by) {
    detail::store_change change(*env_);
    if (!change.pin(detail::to_store_key(key), by)) return false;
    change.commit();
    return true;
  }

  [[nodiscard]] bool contains(const block_key& key) const { return snapshot()->get(env_->dbs().uses, detail::to_store_key(key)).has_value(); }

  /// Keeps the parts of a model's fingerprint. Returns those of all models that it knows.
  std::vector<std::pair<fingerprint128, fingerprint_parts>> introduce(const fingerprint128& model, const fingerprint_parts& identity) {
    if (!snapshot()->get(env_->dbs().models, to_bytes(model))) {
      detail::store_change change(*env_);
      change.raw().put(env_->dbs().models, to_bytes(model), detail::text_bytes(identity.text()));
      change.commit();
    }
    return models();
  }

  [[nodiscard]] std::vector<std::pair<fingerprint128, fingerprint_parts>> models() const {
    std::vector<std::pair<fingerprint128, fingerprint_parts>> result;
    const auto at = snapshot();
    lmdb_cursor cursor(at->txn(), env_->dbs().models);
    while (cursor.next())
      if (cursor.key().size() == 16) result.emplace_back(detail::fingerprint_at(cursor.key().data()), fingerprint_parts::parse(detail::bytes_text(cursor.value())));
    return result;
  }

  [[nodiscard]] store_totals totals() const {
    const auto at = snapshot();
    const auto bytes = at->get(env_->dbs().meta, detail::text_bytes("totals"));
    if (!bytes || bytes->size() != 24) return {};
    return {detail::load<std::uint64_t>(bytes->data()), detail::load<std::uint64_t>(bytes->data() + 8), detail::load<std::uint64_t>(bytes->data() + 16)};
  }

  /// Calls visit(key, record bytes, tokens, bytes) for each block, of one model if it is given, in one snapshot.
  template <class Visit>
  void for_each(const Visit& visit, std::optional<fingerprint128> model = {}) const {
    const auto at = snapshot();
    lmdb_cursor cursor(at->txn(), env_->dbs().uses);
    while (cursor.next()) {
      if (cursor.key().size() != 32) continue;
      const block_key key = detail::from_store_key(cursor.key().data());
      if (model && key.model != *model) continue;
      const auto use = detail::store_use::from(cursor.value());
      visit(key, at->get(env_->dbs().blocks, cursor.key()).value_or(std::span<const std::byte>{}), use);
    }
  }

  /// Reads and checks everything. `progress` counts bytes; false cancels (cancelled_error).
  [[nodiscard]] store_report verify(const progress_callback& progress = {}) const {
    store_report report;
    report.totals = totals();
    store_totals seen;
    std::size_t unpinned = 0;
    for_each([&](const block_key& key, std::span<const std::byte> bytes, const detail::store_use& use) {
      const auto record = read_record(bytes);
      if (!record || record->stamp != use.stamp || record->tokens != use.tokens || !is_intact(key, *record)) report.damaged.push_back(key);
      seen.bytes += use.bytes;
      seen.pinned_bytes += use.pins != 0 ? use.bytes : 0;
      ++seen.blocks;
      unpinned += use.pins == 0 ? 1 : 0;
      if (progress && !progress(static_cast<std::int64_t>(seen.bytes), static_cast<std::int64_t>(report.totals.bytes)))
        throw cancelled_error("[disk cache] the verification was cancelled");
    });
    const auto at = snapshot();
    const auto count = [&](MDB_dbi table) {
      MDB_stat stat{};
      (void)::mdb_stat(at->txn(), table, &stat);
      return stat.ms_entries;
    };
    if (seen.blocks != report.totals.blocks || seen.bytes != report.totals.bytes || seen.pinned_bytes != report.totals.pinned_bytes)
      report.problems.push_back(cat("its sums are ", report.totals.blocks, " blocks, ", report.totals.bytes, " bytes; counted: ", seen.blocks, ", ", seen.bytes));
    if (count(env_->dbs().blocks) != seen.blocks || count(env_->dbs().order) != unpinned)
      report.problems.push_back(cat("tables of ", count(env_->dbs().blocks), " and ", count(env_->dbs().order), " entries for ", seen.blocks, " blocks"));
    return report;
  }

  /// Evicts until at most `limit` bytes of blocks are left, pinned ones not counted.
  std::vector<evicted_block> prune(std::uint64_t limit) {
    std::vector<evicted_block> evicted;
    detail::store_change change(*env_);
    change.evict_to(limit, evicted);
    change.commit();
    return evicted;
  }

  /// Removes every block, pinned or not, of one model if it is given. Returns how many.
  std::size_t clear(std::optional<fingerprint128> model = {}) {
    std::vector<std::pair<detail::store_key, detail::store_use>> all;
    for_each([&](const block_key& key, std::span<const std::byte>, const detail::store_use& use) { all.emplace_back(detail::to_store_key(key), use); }, model);
    detail::store_change change(*env_);
    for (const auto& [key, use] : all) change.remove(key, use);
    change.commit();
    return all.size();
  }

 private:
  static std::size_t checked(const std::filesystem::path& folder, std::size_t budget) {
    if (budget < least_budget || budget > (std::size_t{1} << 46))
      throw argument_error(cat("[disk cache] ", folder.string(), ": a budget of ", budget, " bytes; allowed: ", least_budget, " to ", std::size_t{1} << 46,
                               ". To have no disk cache, leave it out."));
    return budget / 65536 * 65536;
  }

  [[nodiscard]] std::optional<std::string> text(std::string_view name) const {
    const auto at = snapshot();
    const auto bytes = at->get(env_->dbs().meta, detail::text_bytes(name));
    return bytes ? std::optional(std::string(detail::bytes_text(*bytes))) : std::nullopt;
  }

  put_result put_once(std::span<const write_behind::item> items, std::span<const std::pair<block_key, std::uint64_t>> touched) {
    put_result result;
    detail::store_change change(*env_);
    for (const auto& [key, time] : touched) change.touch(detail::to_store_key(key), time);
    for (const write_behind::item& item : items) {
      const auto key = detail::to_store_key(item.key);
      if (change.use(key)) continue;
      const std::size_t bytes = stored_bytes(payload_of(*item.block).size());
      const std::uint64_t room = content_limit() - std::min<std::uint64_t>(content_limit(), change.totals().pinned_bytes);
      if (bytes > room) {
        ++result.dropped;
        continue;
      }
      change.evict_to(content_limit() - bytes, result.evicted);
      change.add(key, item.key, *item.block, bytes);
      ++result.written;
    }
    change.commit();
    return result;
  }

  /// The file is full, though the blocks aren't too many: its free pages are scattered, or readers hold them. Frees more,
  /// in a transaction of its own; pages that it freed may be used from the one after the next on.
  void make_free_pages(std::span<const write_behind::item> items, std::uint64_t times, std::vector<evicted_block>& evicted) {
    int dead = 0;
    (void)::mdb_reader_check(env_->get(), &dead);
    std::uint64_t wanted = content_limit() / 8;
    for (const auto& item : items) wanted = std::max<std::uint64_t>(wanted, 2 * stored_bytes(payload_of(*item.block).size()));
    {
      detail::store_change change(*env_);
      change.evict_to(change.totals().bytes - std::min<std::uint64_t>(change.totals().bytes, wanted * times), evicted);
      change.commit();
    }
    detail::store_change after(*env_);
    after.commit();
  }

  std::size_t budget_;
  std::shared_ptr<lmdb_env> env_;
  std::size_t page_;
};

/// Gives the space of removed blocks back to the disk, if nobody else has the store open. Returns whether it did; the file
/// is replaced whole or not at all. Throws io_error.
inline bool compact_store(const std::filesystem::path& folder, std::size_t map_bytes) {
  namespace fs = std::filesystem;
  const detail::use_lock lock(folder / "use.lock");
  if (!lock.try_alone()) return false;
  const fs::path part = folder / "compact.part";
  std::error_code ignored;
  fs::remove_all(part, ignored);
  fs::create_directory(part);
  MDB_env* env = nullptr;
  detail::lmdb_check_code(::mdb_env_create(&env), "can't create an environment");
  (void)::mdb_env_set_mapsize(env, map_bytes);
  int code = ::mdb_env_open(env, folder.c_str(), MDB_NOTLS, 0644);
  if (code == MDB_SUCCESS) code = ::mdb_env_copy2(env, part.c_str(), MDB_CP_COMPACT);
  ::mdb_env_close(env);
  if (code == MDB_SUCCESS) {
    fs::rename(part / "data.mdb", folder / "data.mdb");
    fs::remove(folder / "lock.mdb", ignored);
  }
  fs::remove_all(part, ignored);
  detail::lmdb_check_code(code, "can't compact");
  return true;
}

}  // namespace blockattn::inline v0
