// The disk tier: blocks in a folder, in an LMDB store (lmdb_store.hpp). They survive the program, and any number of
// processes share them. Needs liblmdb: link blockattn::lmdb.
//
// A block that is found is attended to where it lies in the map. It holds a snapshot of the store for as long as it lives,
// so that its pages stay as they are even if another process evicts it. Snapshots are begun by lookups and end with
// their last block: a session that holds blocks for hours holds one that long, and pages freed meanwhile can't be used
// again; the file doesn't grow over its budget for that, but new blocks may be dropped (counted, said once). Payloads that
// LMDB keeps inside of a page of its tree (under 2 KB) are copied, since they aren't aligned.
//
// Writing is done by a thread of the tier, in batches of one transaction. Recencies are written with the next batch, at
// flush() and at the end: a killed process loses those, and blocks that still waited, and nothing else.
#pragma once

#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blockattn/cache/block_tier.hpp"
#include "blockattn/cache/lmdb_store.hpp"
#include "blockattn/cache/tier_log.hpp"
#include "blockattn/cache/write_behind.hpp"

namespace blockattn::inline v0 {

struct lmdb_options {
  std::filesystem::path folder;
  std::size_t byte_budget = std::size_t{4} << 30;    ///< most bytes of the file; blocks fill up to 4/5 of it
  std::size_t queue_bytes = std::size_t{256} << 20;  ///< most bytes that wait to be written; what comes then is dropped
  log_sink log = {};
};

class lmdb_tier final : public block_tier {
 public:
  /// Opens or makes the store. Throws what lmdb_store's constructor throws. A store that is open in this process already is
  /// shared; its budget stays.
  explicit lmdb_tier(const lmdb_options& options)
      : store_(open(options)), log_(options.log), queue_(options.queue_bytes, batch_bytes(store_->byte_budget()), [this](auto items) { write(items); }) {
    warn_of_small_disk(options);
  }
  ~lmdb_tier() override { flush(); }

  [[nodiscard]] std::string name() const override { return cat("disk ", store_->folder().string()); }
  [[nodiscard]] bool in_place() const override { return true; }
  [[nodiscard]] lmdb_store& store() { return *store_; }

  void introduce(const fingerprint128& model, const fingerprint_parts& identity) override {
    guarded([&] {
      const auto known = store_->introduce(model, identity);
      bool any = false, own = false;
      store_->for_each([&](const block_key& key, auto, const auto&) {
        any = true;
        own |= key.model == model;
      });
      std::vector<std::pair<fingerprint128, fingerprint_parts>> others;
      for (const auto& each : known)
        if (each.first != model) others.push_back(each);
      if (any && !own && !others.empty())
        log_.say(log_level::info, cat("[disk cache] ", store_->folder().string(), ": nothing for this model: ", why_foreign(model, identity, others)));
    });
  }

  [[nodiscard]] std::shared_ptr<const kv_block> find(const block_key& key, const kv_layout& layout) override {
    std::shared_ptr<const kv_block> block = queue_.find(key);
    if (block == nullptr) guarded([&] { block = look_up(key, layout); });
    ++(block != nullptr ? counters_.hits : counters_.misses);
    return block;
  }

  void put(const block_key& key, std::shared_ptr<const kv_block> block) override {
    if (queue_.push(key, std::move(block))) return;
    ++counters_.dropped;
    log_.warn("[disk cache] the queue of blocks to write is full: some are not stored. A slow disk? Give lmdb_options::queue_bytes more. (Said once.)");
  }

  [[nodiscard]] bool contains(const block_key& key) override {
    bool result = queue_.find(key) != nullptr;
    if (!result) guarded([&] { result = store_->contains(key); });
    return result;
  }

  bool erase(const block_key& key) override { return change([&] { return store_->erase(key); }); }
  bool pin(const block_key& key) override { return change([&] { return store_->pin(key, 1); }); }
  bool unpin(const block_key& key) override { return change([&] { return store_->pin(key, -1); }); }

  void flush() override {
    queue_.flush();
    write({});
  }

  [[nodiscard]] tier_stats stats() override {
    tier_stats result = counters_.stats();
    result.byte_budget = store_->byte_budget();
    result.queued_bytes = queue_.queued_bytes();
    guarded([&] {
      const store_totals totals = store_->totals();
      result.blocks = totals.blocks;
      result.bytes = totals.bytes;
      result.pinned_bytes = totals.pinned_bytes;
    });
    return result;
  }

 private:
  static constexpr std::size_t most_remembered = std::size_t{1} << 18;

  [[nodiscard]] static std::size_t batch_bytes(std::size_t budget) { return std::min(std::size_t{32} << 20, budget / 16); }

  /// One store a folder in this process: LMDB mustn't open a file twice.
  static std::shared_ptr<lmdb_store> open(const lmdb_options& options) {
    static std::mutex mutex;
    static std::map<std::filesystem::path, std::weak_ptr<lmdb_store>> open_stores;
    const std::lock_guard lock(mutex);
    std::error_code failed;
    const auto path = std::filesystem::weakly_canonical(options.folder, failed);
    auto& known = open_stores[failed ? options.folder : path];
    auto store = known.lock();
    if (store == nullptr) known = store = std::make_shared<lmdb_store>(options.folder, options.byte_budget, options.log);
    return store;
  }

  void warn_of_small_disk(const lmdb_options& options) {
    struct ::statvfs disk {};
    if (::statvfs(options.folder.c_str(), &disk) != 0) return;
    const std::size_t free = std::size_t{disk.f_bavail} * disk.f_frsize;
    const std::size_t held = store_->totals().bytes;
    if (free + held < options.byte_budget)
      log_.say(log_level::warning, cat("[disk cache] ", options.folder.string(), ": the disk has ", free, " bytes free, the budget is ", options.byte_budget,
                                       "; what doesn't fit will not be stored."));
  }

  /// Runs `work`; what it throws is counted and said once.
  template <class Work>
  void guarded(const Work& work) {
    try {
      work();
    } catch (const std::exception& e) {
      ++counters_.errors;
      log_.warn(cat(e.what(), " (", store_->folder().string(), "; said once)"));
    }
  }

  template <class Work>
  bool change(const Work& work) {
    queue_.flush();
    bool result = false;
    guarded([&] { result = work(); });
    return result;
  }

  /// The snapshot of the last write, shared with whoever holds one of it.
  std::shared_ptr<lmdb_snapshot> snapshot() {
    auto current = snapshot_.lock();
    if (current == nullptr || current->number() != store_->last_transaction()) snapshot_ = current = store_->snapshot();
    return current;
  }

  [[nodiscard]] std::shared_ptr<const kv_block> look_up(const block_key& key, const kv_layout& layout) {
    std::shared_ptr<lmdb_snapshot> at;
    std::optional<std::span<const std::byte>> bytes;
    {
      const std::lock_guard lock(mutex_);
      at = snapshot();
      bytes = lmdb_store::record(*at, store_->dbs(), key);
    }
    if (!bytes) return nullptr;
    const auto record = read_record(*bytes);
    if (!record || !has_layout(*record, layout) || !verified(key, *record)) return drop_damaged(key, record);
    remember(key, record->stamp);
    if (reinterpret_cast<std::uintptr_t>(record->payload.data()) % 64 != 0) return copy_of(*record, layout);
    return std::make_shared<kv_block>(layout, record->tokens, std::shared_ptr<std::byte>(std::move(at), const_cast<std::byte*>(record->payload.data())));
  }

  [[nodiscard]] bool verified(const block_key& key, const record_view& record) {
    {
      const std::lock_guard lock(mutex_);
      const auto known = verified_.find(key);
      if (known != verified_.end() && known->second == record.stamp) return true;
    }
    return is_intact(key, record);
  }

  void remember(const block_key& key, std::uint64_t stamp) {
    const std::lock_guard lock(mutex_);
    if (verified_.size() > most_remembered) verified_.clear();
    verified_[key] = stamp;
    touched_[key] = detail::now_us();
  }

  std::shared_ptr<const kv_block> drop_damaged(const block_key& key, const std::optional<record_view>& record) {
    ++counters_.damaged;
    log_.say(log_level::warning, cat("[disk cache] ", store_->folder().string(), ": block ", to_string(key), " is damaged; it's removed and computed again."));
    (void)store_->erase(key, record ? std::optional(record->stamp) : std::nullopt);
    return nullptr;
  }

  void write(std::span<const write_behind::item> items) {
    std::vector<std::pair<block_key, std::uint64_t>> touched;
    {
      const std::lock_guard lock(mutex_);
      touched.assign(touched_.begin(), touched_.end());
      touched_.clear();
    }
    if (items.empty() && touched.empty()) return;
    try {
      const auto result = store_->put(items, touched);
      counters_.writes += result.written;
      counters_.dropped += result.dropped;
      counters_.evictions += result.evicted.size();
      report(result);
    } catch (const std::exception& e) {
      counters_.dropped += items.size();
      const auto* from_lmdb = dynamic_cast<const lmdb_error*>(&e);
      if (from_lmdb != nullptr && from_lmdb->code == MDB_MAP_FULL)
        return log_.warn(cat("[disk cache] ", store_->folder().string(), ": the file is at its ", store_->byte_budget(),
                             " bytes, and readers still look at what was evicted: some blocks are not stored. (Said once.)"));
      ++counters_.errors;
      const bool full = from_lmdb != nullptr && is_full(from_lmdb->code, items);
      log_.warn(cat(full ? std::string("[disk cache] no space left on the disk") : std::string(e.what()), " (", store_->folder().string(),
                    "): blocks are not stored, answers don't change. (Said once.)"));
    }
  }

  /// Whether it was the disk's lack of room: LMDB says of a file of which only a part could be written that its input or output failed.
  [[nodiscard]] bool is_full(int code, std::span<const write_behind::item> items) const {
    if (code != EIO) return code == ENOSPC;
    std::uintmax_t bytes = 0;
    for (const auto& item : items) bytes += item.block->bytes();
    std::error_code unknown;
    const auto space = std::filesystem::space(store_->folder(), unknown);
    return !unknown && space.available < bytes;
  }

  void report(const lmdb_store::put_result& result) {
    for (const evicted_block& block : result.evicted)
      log_.say(log_level::debug, cat("[disk cache] evicted block ", to_string(block.key), " (", block.tokens, " tokens, ", block.bytes, " bytes)"));
    if (result.dropped != 0)
      log_.warn(cat("[disk cache] ", store_->folder().string(), ": no room for a block beside those that are pinned, or it's larger than the budget of ",
                    store_->byte_budget(), " bytes; it's not stored. Give a larger budget or unpin some. (Said once.)"));
    else if (result.written != 0)
      log_.settle();
  }

  std::shared_ptr<lmdb_store> store_;
  warn_once log_;
  tier_counters counters_;
  std::mutex mutex_;
  std::weak_ptr<lmdb_snapshot> snapshot_;
  std::unordered_map<block_key, std::uint64_t> verified_;  ///< stamp of the content that was verified
  std::unordered_map<block_key, std::uint64_t> touched_;   ///< last uses that the store doesn't know yet
  write_behind queue_;  ///< the last member: its thread uses the others
};

}  // namespace blockattn::inline v0
