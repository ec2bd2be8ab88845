// A place below memory where blocks are kept: a folder on disk, a pack that came with an application, a server.
//
// What the owner of a reservation didn't find in memory, block_cache looks for in its tiers, the first one first, and
// what is encoded goes to all of them. A tier never makes a request fail: what goes wrong in it is counted, said once to
// the log sink, and the block is a miss. What it hands out is verified: the bytes that were put under this key, or
// nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/cache/block_key.hpp"
#include "blockattn/core/fingerprint.hpp"
#include "blockattn/core/kv.hpp"

namespace blockattn::inline v0 {

/// What a tier did in this process, and what it holds now (for a shared one: whoever put it there).
struct tier_stats {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t writes = 0;     ///< blocks stored
  std::uint64_t evictions = 0;  ///< blocks removed to make room
  std::uint64_t dropped = 0;    ///< blocks not stored: the queue was full, there was no room, or the tier was down
  std::uint64_t damaged = 0;    ///< blocks that failed their checksum, removed
  std::uint64_t errors = 0;     ///< operations that failed for another reason
  std::size_t blocks = 0;
  std::size_t bytes = 0;
  std::size_t pinned_bytes = 0;  ///< the part of `bytes` that is pinned
  std::size_t queued_bytes = 0;  ///< accepted, not stored yet
  std::size_t byte_budget = 0;   ///< 0: none of its own
};

/// All functions may be called from any thread. None throws for what is wrong with the tier.
class block_tier {
 public:
  block_tier() = default;
  block_tier(const block_tier&) = delete;
  block_tier& operator=(const block_tier&) = delete;
  virtual ~block_tier() = default;

  /// What messages and statistics call it, e.g. "disk /home/me/.cache/blockattn/blocks".
  [[nodiscard]] virtual std::string name() const = 0;

  /// Tells the tier that blocks of this model will be asked for: it says so to the log if it has none, and in what its
  /// own models differ.
  virtual void introduce(const fingerprint128& model, const fingerprint_parts& identity) = 0;

  /// The block, verified, or nullptr. A block of another size than `layout` gives counts as damaged.
  [[nodiscard]] virtual std::shared_ptr<const kv_block> find(const block_key& key, const kv_layout& layout) = 0;

  /// Stores a block, now or a little later. Doesn't wait for anything slow.
  virtual void put(const block_key& key, std::shared_ptr<const kv_block> block) = 0;

  /// The cache has let go of a block to make room for others. For a tier that takes what memory had; doesn't wait either.
  virtual void evicted(const block_key& /*key*/, const std::shared_ptr<const kv_block>& /*block*/) {}

  /// Whether a find() would probably hit. Renews nothing, counts nothing, verifies nothing.
  [[nodiscard]] virtual bool contains(const block_key& key) = 0;

  /// Removes a block, pinned or not; true if it was there.
  virtual bool erase(const block_key& key) = 0;

  /// Protects a block from eviction until as many unpin() calls, in any process. False if it isn't there.
  virtual bool pin(const block_key& key) = 0;
  virtual bool unpin(const block_key& key) = 0;

  /// Returns once everything put so far is stored or dropped.
  virtual void flush() {}

  [[nodiscard]] virtual tier_stats stats() = 0;

  /// Whether what find() gives lies in a file's map: the memory tier then doesn't keep it, since the system does.
  [[nodiscard]] virtual bool in_place() const { return false; }
};

using tier_list = std::vector<std::shared_ptr<block_tier>>;

}  // namespace blockattn::inline v0
