// Keys and values of blocks, kept by content: least recently used goes first, in bytes, with pinning and single flight.
//
// How a block is asked for. reserve(key) never blocks and answers with a reservation in one of three states:
//   hit      block() is there;
//   owner    nobody has it: encode it and publish() it; destroying the reservation (an exception does) gives it up;
//   waiting  another reservation is the owner: wait() until it published, which makes this one a hit, or gave up, which
//            makes one of those who wait the owner.
// So for each key there is at most one owner at any time, whatever is erased, evicted or given up meanwhile.
// Publish or give up all that you own before you wait(): threads that first wait for each other's blocks never wake.
//
// What is kept. The sum of cost() over kept blocks stays within the budget; room is made by evicting the least recently
// used ones. A block for which no room can be made (larger than the budget, or pinned blocks fill it) is handed to its
// owner and its waiters and not kept. An evicted or erased block lives on for as long as someone holds its shared_ptr;
// its memory is not counted then.
//
// Pinning. Pins are counted: a block is evictable again after as many unpin() as pin(). Pinned blocks count in the
// budget and are never evicted; erase() and clear() remove them all the same. Only a kept block can be pinned, so
// pinned blocks exceed the budget only after it was lowered; then nothing else is kept until enough is unpinned.
//
// Tiers below. What isn't kept here may lie on disk or on a server: an owner asks with fetch() before it encodes. What is
// published goes to every tier, what is evicted to those that take such blocks (host_tier); what a tier found goes to those above it, and is kept here too unless it lies in a map,
// where the system keeps it. pin(), unpin(), erase() and contains() reach into the tiers; the others don't.
//
// Recency is renewed by a reservation that hits, by find() and by the last unpin(). All functions may be called from
// any thread. The log sink and the destructors of blocks run outside of the cache's lock. What the sink throws reaches
// the caller of the function that logged, after that function has done its work.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "blockattn/cache/block_key.hpp"
#include "blockattn/cache/block_tier.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/kv.hpp"
#include "blockattn/core/log.hpp"

namespace blockattn::inline v0 {

/// What a cache did so far, and what it holds now.
struct cache_stats {
  std::uint64_t hits = 0;        ///< reservations answered from the cache
  std::uint64_t misses = 0;      ///< reservations that became the owner, at once or after a wait: encodings begun, but for `fetched`
  std::uint64_t fetched = 0;     ///< of these, the blocks that a tier below had
  std::uint64_t waits = 0;       ///< reservations that met an owner at work
  std::uint64_t evictions = 0;   ///< blocks removed to make room
  std::uint64_t rejected = 0;    ///< published blocks that were not kept for want of room
  std::size_t bytes = 0;         ///< cost of the kept blocks
  std::size_t pinned_bytes = 0;  ///< the part of it that is pinned
  std::size_t blocks = 0;        ///< kept blocks
  std::size_t in_flight = 0;     ///< keys that someone encodes or should encode now
  std::size_t byte_budget = 0;
};

namespace detail {

enum class flight { encoding, vacant, landed };

struct cache_entry;
using cache_list = std::list<std::shared_ptr<cache_entry>>;

/// One key: first in flight, then kept. All members are guarded by the cache's mutex, but for `key`.
struct cache_entry {
  explicit cache_entry(const block_key& k) : key(k) {}

  const block_key key;
  flight stage = flight::encoding;
  bool keep = true;         ///< false: erased or cleared while in flight
  std::size_t holders = 0;  ///< reservations that own it or wait for it
  std::uint64_t pins = 0;
  std::size_t cost = 0;
  std::shared_ptr<const kv_block> block;
  std::condition_variable changed;  ///< `stage` left `encoding`
  cache_list::iterator place;       ///< its node, in one of the cache's lists
};

/// Lines to log once the mutex is free.
struct cache_news {
  cache_list evicted;
  std::size_t too_large = 0;  ///< cost of a block larger than the whole budget, to warn of
  std::size_t no_room = 0;    ///< cost of a block that pinned blocks leave no room for, to warn of
  std::size_t bytes = 0, pinned_bytes = 0, byte_budget = 0;
};

/// The cache itself, shared with its reservations so that these may outlive it. Nodes of the lists are made when a
/// flight begins and only moved from then on: publishing, evicting and giving up allocate nothing, so they can't fail
/// half-way.
class cache_state {
 public:
  cache_state(std::size_t byte_budget, log_sink sink, tier_list tiers) : lower(std::move(tiers)), byte_budget_(byte_budget), sink_(std::move(sink)) {}

  const tier_list lower;

  std::mutex mutex;

  // All functions below want the mutex held, but for report().

  [[nodiscard]] std::shared_ptr<cache_entry> find(const block_key& key) const {
    const auto found = entries_.find(key);
    return found == entries_.end() ? nullptr : found->second;
  }

  [[nodiscard]] std::shared_ptr<cache_entry> find_kept(const block_key& key) const {
    auto entry = find(key);
    return entry != nullptr && entry->stage == flight::landed ? entry : nullptr;
  }

  std::shared_ptr<cache_entry> begin_flight(const block_key& key) {
    auto entry = std::make_shared<cache_entry>(key);
    cache_list node{entry};
    entries_.emplace(key, entry);
    entry->place = node.begin();
    in_flight_.splice(in_flight_.begin(), node);
    return entry;
  }

  void own(cache_entry& entry) {
    entry.stage = flight::encoding;
    entry.keep = true;
    ++counts.misses;
  }

  void touch(cache_entry& entry) {
    if (entry.pins == 0) recent_.splice(recent_.begin(), recent_, entry.place);
  }

  /// The owner has `block`: its waiters get it in any case, later comers if it is to be kept and there is room.
  void land(cache_entry& entry, std::shared_ptr<const kv_block> block, std::size_t cost, bool keep, cache_news& news) {
    entry.block = std::move(block);
    entry.cost = cost;
    entry.stage = flight::landed;
    if (keep && entry.keep && make_room(cost, news)) {
      recent_.splice(recent_.begin(), in_flight_, entry.place);
      bytes_ += cost;
    } else {
      cache_list not_kept;  // the caller holds the entry, so nothing is destroyed here
      forget(entry, in_flight_, not_kept);
    }
    summarise(news);
  }

  /// A reservation lets go of an entry that it owned (`owner`) or waited for. True if a waiter should be woken to take
  /// over.
  [[nodiscard]] bool leave(cache_entry& entry, bool owner, cache_list& removed) {
    --entry.holders;
    if (owner) entry.stage = flight::vacant;
    if (entry.stage != flight::vacant) return false;
    if (entry.holders == 0) forget(entry, in_flight_, removed);
    return entry.holders != 0;
  }

  void pin(cache_entry& entry) {
    if (entry.pins++ != 0) return;
    pinned_.splice(pinned_.begin(), recent_, entry.place);
    pinned_bytes_ += entry.cost;
  }

  /// Precondition: entry.pins > 0.
  void unpin(cache_entry& entry, cache_news& news) {
    if (--entry.pins != 0) return;
    recent_.splice(recent_.begin(), pinned_, entry.place);
    pinned_bytes_ -= entry.cost;
    evict_to(byte_budget_, news);
  }

  /// Removes a kept block, pinned or not; a block in flight will not be kept. Returns whether a block was removed.
  bool erase(cache_entry& entry, cache_list& removed) {
    if (entry.stage != flight::landed) {
      entry.keep = false;
      return false;
    }
    bytes_ -= entry.cost;
    if (entry.pins != 0) pinned_bytes_ -= entry.cost;
    forget(entry, entry.pins != 0 ? pinned_ : recent_, removed);
    return true;
  }

  void clear(cache_list& removed) {
    for (const auto& entry : in_flight_) entry->keep = false;
    while (!recent_.empty()) erase(*recent_.back(), removed);
    while (!pinned_.empty()) erase(*pinned_.back(), removed);
  }

  void set_budget(std::size_t byte_budget, cache_news& news) {
    byte_budget_ = byte_budget;
    warned_too_large_ = warned_no_room_ = false;
    evict_to(byte_budget_, news);
  }

  /// Evicts `bytes` or all that isn't pinned; returns how many.
  std::size_t release(std::size_t bytes, cache_news& news) {
    const std::size_t before = bytes_;
    evict_to(bytes_ > bytes ? bytes_ - bytes : 0, news);
    return before - bytes_;
  }

  [[nodiscard]] cache_stats stats() const {
    cache_stats result = counts;
    result.bytes = bytes_;
    result.pinned_bytes = pinned_bytes_;
    result.blocks = recent_.size() + pinned_.size();
    result.in_flight = in_flight_.size();
    result.byte_budget = byte_budget_;
    return result;
  }

  /// Tells the tiers and the sink what happened. The mutex must be free.
  void report(const cache_news& news) const {
    for (const auto& entry : news.evicted)
      for (const auto& tier : lower) tier->evicted(entry->key, entry->block);
    if (!sink_) return;
    for (const auto& entry : news.evicted)
      log(sink_, log_level::debug,
          cat("[cache] evicted block ", to_string(entry->key), " (", entry->block->tokens(), " tokens, ", entry->cost,
              " bytes); ", news.bytes, " of ", news.byte_budget, " bytes in use"));
    if (news.too_large != 0)
      log(sink_, log_level::warning,
          cat("[cache] a block of ", news.too_large, " bytes is larger than the whole budget of ", news.byte_budget,
              " bytes: it's used but not kept, so it will be encoded anew each time. Give the cache at least ",
              news.too_large, " bytes, or cut the text into smaller blocks. (Said once.)"));
    if (news.no_room != 0)
      log(sink_, log_level::warning,
          cat("[cache] pinned blocks hold ", news.pinned_bytes, " of ", news.byte_budget,
              " bytes, which leaves no room for a block of ", news.no_room,
              " bytes: it's used but not kept. Unpin some blocks or give the cache a larger budget. (Said once.)"));
  }

  cache_stats counts;  ///< its counters only
  std::unordered_set<fingerprint128> introduced;

 private:
  /// Evicts until `cost` more bytes fit. If they can't, evicts nothing and returns false.
  bool make_room(std::size_t cost, cache_news& news) {
    const std::size_t free = byte_budget_ > pinned_bytes_ ? byte_budget_ - pinned_bytes_ : 0;
    if (cost <= free) {
      evict_to(byte_budget_ - cost, news);
      return true;
    }
    ++counts.rejected;
    if (byte_budget_ == 0) return false;  // a budget of 0 says that nothing shall be kept
    if (cost > byte_budget_ && !std::exchange(warned_too_large_, true)) news.too_large = cost;
    if (cost <= byte_budget_ && !std::exchange(warned_no_room_, true)) news.no_room = cost;
    return false;
  }

  void evict_to(std::size_t limit, cache_news& news) {
    while (bytes_ > limit && !recent_.empty()) {
      erase(*recent_.back(), news.evicted);
      ++counts.evictions;
    }
    summarise(news);
  }

  /// Takes an entry out of the cache; its node goes to `removed`, to be destroyed where the mutex is free.
  void forget(const cache_entry& entry, cache_list& from, cache_list& removed) {
    removed.splice(removed.end(), from, entry.place);
    entries_.erase(entry.key);
  }

  void summarise(cache_news& news) const {
    news.bytes = bytes_;
    news.pinned_bytes = pinned_bytes_;
    news.byte_budget = byte_budget_;
  }

  std::unordered_map<block_key, std::shared_ptr<cache_entry>> entries_;
  cache_list in_flight_;
  cache_list recent_;  ///< kept and not pinned, the most recently used first
  cache_list pinned_;
  std::size_t bytes_ = 0, pinned_bytes_ = 0, byte_budget_ = 0;
  bool warned_too_large_ = false, warned_no_room_ = false;
  const log_sink sink_;
};

}  // namespace detail

/// A thread-safe cache of encoded blocks, to be shared by any number of sessions of any models. The rules are at the
/// head of this file.
class block_cache {
 public:
  /// Bytes that each kept block counts for its book-keeping, beside its keys and values.
  static constexpr std::size_t entry_overhead = 512;

  /// What a block counts against the budget.
  [[nodiscard]] static std::size_t cost(const kv_block& block) {
    return static_cast<std::size_t>(block.bytes()) + entry_overhead;
  }

  class reservation;

  /// Keeps blocks of up to `byte_budget` bytes in all; 0 keeps none (single flight works all the same).
  /// `sink` gets a debug line for each eviction, and one warning when a block is larger than the budget or pinned
  /// blocks leave no room. `tiers` are asked in their order, so the fastest comes first.
  explicit block_cache(std::size_t byte_budget, log_sink sink = {}, tier_list tiers = {})
      : state_(std::make_shared<detail::cache_state>(byte_budget, std::move(sink), std::move(tiers))) {}

  block_cache(const block_cache&) = delete;
  block_cache& operator=(const block_cache&) = delete;
  ~block_cache() = default;

  /// Asks for a block. Never blocks: the answer is a hit, or you are to encode it, or someone else does.
  [[nodiscard]] reservation reserve(const block_key& key);

  /// For an owner: looks for the block in the tiers, and publishes what one has. Returns whether this is a hit now. Reads
  /// and verifies the whole block when it's found for the first time: call it from several threads for several blocks.
  bool fetch(reservation& r, const kv_layout& layout);

  /// fetch() for a block that nobody waits for: true if it's at hand now, in memory or in the system's cache of a map.
  bool prefetch(const block_key& key, const kv_layout& layout);

  /// The tiers below, as given.
  [[nodiscard]] const tier_list& tiers() const { return state_->lower; }

  /// To be called before a model's blocks are asked for; tells the tiers, once a model. `identity` must hash to `model`.
  void introduce(const fingerprint128& model, const fingerprint_parts& identity) {
    if (state_->lower.empty()) return;
    {
      const std::lock_guard lock(state_->mutex);
      if (!state_->introduced.insert(model).second) return;
    }
    for (const auto& tier : state_->lower) tier->introduce(model, identity);
  }

  /// Waits until the tiers have stored what was published.
  void flush() {
    for (const auto& tier : state_->lower) tier->flush();
  }

  /// A look: the block if it is kept here, else nullptr. Renews its recency; not counted as hit or miss.
  [[nodiscard]] std::shared_ptr<const kv_block> find(const block_key& key) {
    const std::lock_guard lock(state_->mutex);
    const auto entry = state_->find_kept(key);
    if (entry == nullptr) return nullptr;
    state_->touch(*entry);
    return entry->block;
  }

  /// Whether the block is kept here or in a tier. Changes nothing.
  [[nodiscard]] bool contains(const block_key& key) const {
    {
      const std::lock_guard lock(state_->mutex);
      if (state_->find_kept(key) != nullptr) return true;
    }
    for (const auto& tier : state_->lower)
      if (tier->contains(key)) return true;
    return false;
  }

  /// Protects a kept block from eviction until as many unpin() calls, here and in every tier that has it. False if it
  /// isn't kept anywhere.
  bool pin(const block_key& key) {
    bool any = false;
    {
      const std::lock_guard lock(state_->mutex);
      const auto entry = state_->find_kept(key);
      if (entry != nullptr) state_->pin(*entry);
      any = entry != nullptr;
    }
    for (const auto& tier : state_->lower) any |= tier->pin(key);
    return any;
  }

  /// Takes one pin() back. False if the block isn't kept or isn't pinned.
  bool unpin(const block_key& key) {
    detail::cache_news news;
    bool any = false;
    {
      const std::lock_guard lock(state_->mutex);
      const auto entry = state_->find_kept(key);
      if (entry != nullptr && entry->pins != 0) {
        state_->unpin(*entry, news);
        any = true;
      }
    }
    state_->report(news);
    for (const auto& tier : state_->lower) any |= tier->unpin(key);
    return any;
  }

  /// Removes a block here and in the tiers, pinned or not; true if it was kept. If it is being encoded now, its waiters
  /// will get it but it will not be kept, unless someone asks for it again meanwhile.
  bool erase(const block_key& key) {
    detail::cache_list removed;
    bool any = false;
    {
      const std::lock_guard lock(state_->mutex);
      const auto entry = state_->find(key);
      any = entry != nullptr && state_->erase(*entry, removed);
    }
    for (const auto& tier : state_->lower) any |= tier->erase(key);
    return any;
  }

  /// Removes all blocks that are kept in memory. The counters of stats() stay.
  void clear() {
    detail::cache_list removed;
    const std::lock_guard lock(state_->mutex);
    state_->clear(removed);
  }

  /// Changes the budget; blocks that don't fit any more are evicted, but for pinned ones.
  void set_byte_budget(std::size_t byte_budget) {
    detail::cache_news news;
    {
      const std::lock_guard lock(state_->mutex);
      state_->set_budget(byte_budget, news);
    }
    state_->report(news);
  }

  /// Gives memory back at once: evicts at least `bytes`, or all that isn't pinned, and returns how many bytes that was. Waits until the tiers have taken what they want.
  std::size_t release(std::size_t bytes) {
    std::size_t released = 0;
    {
      detail::cache_news news;
      {
        const std::lock_guard lock(state_->mutex);
        released = state_->release(bytes, news);
      }
      state_->report(news);
    }
    flush();
    return released;
  }

  [[nodiscard]] cache_stats stats() const {
    const std::lock_guard lock(state_->mutex);
    return state_->stats();
  }

 private:
  std::shared_ptr<detail::cache_state> state_;
};

/// The answer to reserve(). Used by one thread at a time; may be moved to another thread and may outlive the cache.
/// A moved-from or default-made one is empty: neither hit, owner nor waiting.
class block_cache::reservation {
 public:
  reservation() = default;
  reservation(reservation&& other) noexcept
      : state_(std::move(other.state_)),
        entry_(std::move(other.entry_)),
        block_(std::move(other.block_)),
        owner_(std::exchange(other.owner_, false)) {}
  reservation& operator=(reservation&& other) noexcept {
    reservation moved(std::move(other));  // leaves this one's former entry at the end of this function
    std::swap(state_, moved.state_);
    std::swap(entry_, moved.entry_);
    std::swap(block_, moved.block_);
    std::swap(owner_, moved.owner_);
    return *this;
  }
  reservation(const reservation&) = delete;
  reservation& operator=(const reservation&) = delete;

  /// An owner that hasn't published gives up: one of those who wait takes over.
  ~reservation() {
    if (entry_ == nullptr) return;
    bool wake = false;
    detail::cache_list removed;
    {
      const std::lock_guard lock(state_->mutex);
      wake = state_->leave(*entry_, owner_, removed);
    }
    if (wake) entry_->changed.notify_one();
  }

  [[nodiscard]] bool hit() const { return block_ != nullptr; }
  [[nodiscard]] bool owner() const { return owner_; }
  [[nodiscard]] bool waiting() const { return entry_ != nullptr && !owner_; }

  /// The block of a hit, else nullptr.
  [[nodiscard]] std::shared_ptr<const kv_block> block() const { return block_; }

  /// Hands over the encoded block, to be called once by the owner, which becomes a hit. The tiers get it too.
  /// Throws argument_error if this isn't the owner or `block` is null; then nothing has changed.
  void publish(std::shared_ptr<const kv_block> block) {
    check_publish(block);
    const auto state = state_;
    const block_key key = entry_->key;
    land(block, true, false);
    if (block->memory() != nullptr) return;  // tiers read blocks; those of a GPU they can't
    for (const auto& tier : state->lower) tier->put(key, block);
  }
  /// Blocks while someone else encodes the block. Afterwards this is a hit, or the owner if that one gave up. Returns
  /// at once for a hit or an owner. Throws argument_error for an empty reservation.
  void wait() {
    settle([](detail::cache_entry& entry, std::unique_lock<std::mutex>& lock, const auto& changed) {
      entry.changed.wait(lock, changed);
      return true;
    });
  }

  /// As wait(), but for `limit` at most (to look at a cancellation now and then). False if it is still waiting.
  [[nodiscard]] bool wait_for(std::chrono::milliseconds limit) {
    return settle([limit](detail::cache_entry& entry, std::unique_lock<std::mutex>& lock, const auto& changed) {
      return entry.changed.wait_for(lock, limit, changed);
    });
  }

 private:
  friend class block_cache;

  reservation(std::shared_ptr<detail::cache_state> state, std::shared_ptr<detail::cache_entry> entry, bool owner)
      : state_(std::move(state)), entry_(std::move(entry)), owner_(owner) {}
  explicit reservation(std::shared_ptr<const kv_block> block) : block_(std::move(block)) {}

  void check_publish(const std::shared_ptr<const kv_block>& block) const {
    if (!owner_)
      throw argument_error(cat("[cache] publish: this reservation ",
                               entry_ != nullptr ? "waits for another one"
                               : hit()           ? "has its block already"
                                                 : "is empty",
                               "; only an owner publishes, once. Check owner() first."));
    if (block == nullptr)
      throw argument_error(
          "[cache] publish: the block is null; give the encoded block, or destroy the reservation to give up.");
  }

  /// The owner becomes a hit, and so do those who wait.
  void land(std::shared_ptr<const kv_block> block, bool keep, bool fetched) {
    const std::size_t bytes = cost(*block);
    detail::cache_news news;
    const auto state = state_;
    {
      const std::lock_guard lock(state->mutex);
      if (fetched) ++state->counts.fetched;
      state->land(*entry_, block, bytes, keep, news);
      --entry_->holders;
    }
    entry_->changed.notify_all();
    become_hit(std::move(block));
    state->report(news);
  }

  /// Waits by `sleep` and takes what came: the block, or the ownership that was given up. False if `sleep` says that
  /// nothing came.
  template <class Sleep>
  bool settle(const Sleep& sleep) {
    if (owner_ || hit()) return true;
    if (entry_ == nullptr)
      throw argument_error(
          "[cache] wait: this reservation is empty (moved from); wait on the one that it was moved to.");
    std::unique_lock lock(state_->mutex);
    if (!sleep(*entry_, lock, [this] { return entry_->stage != detail::flight::encoding; })) return false;
    if (entry_->stage == detail::flight::vacant) {
      state_->own(*entry_);
      owner_ = true;
      return true;
    }
    --entry_->holders;
    lock.unlock();
    become_hit(entry_->block);
    return true;
  }

  void become_hit(std::shared_ptr<const kv_block> block) {
    block_ = std::move(block);
    owner_ = false;
    entry_.reset();
    state_.reset();
  }

  std::shared_ptr<detail::cache_state> state_;
  std::shared_ptr<detail::cache_entry> entry_;  ///< null for a hit
  std::shared_ptr<const kv_block> block_;
  bool owner_ = false;
};

inline bool block_cache::fetch(reservation& r, const kv_layout& layout) {
  if (!r.owner()) return r.hit();
  const block_key key = r.entry_->key;
  const tier_list& tiers = state_->lower;
  for (std::size_t i = 0; i < tiers.size(); ++i) {
    auto block = tiers[i]->find(key, layout);
    if (block == nullptr) continue;
    for (std::size_t above = 0; above < i; ++above) tiers[above]->put(key, block);
    r.land(std::move(block), !tiers[i]->in_place(), true);
    return true;
  }
  return false;
}

inline bool block_cache::prefetch(const block_key& key, const kv_layout& layout) {
  reservation r = reserve(key);
  return fetch(r, layout);
}

inline block_cache::reservation block_cache::reserve(const block_key& key) {
  const std::lock_guard lock(state_->mutex);
  auto entry = state_->find(key);
  if (entry != nullptr && entry->stage == detail::flight::landed) {
    state_->touch(*entry);
    ++state_->counts.hits;
    return reservation(entry->block);
  }
  if (entry == nullptr)
    entry = state_->begin_flight(key);
  else if (entry->stage == detail::flight::encoding) {
    entry->keep = true;
    ++entry->holders;
    ++state_->counts.waits;
    return {state_, std::move(entry), false};
  }
  state_->own(*entry);
  ++entry->holders;
  return {state_, std::move(entry), true};
}

}  // namespace blockattn::inline v0
