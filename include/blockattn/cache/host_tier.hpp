// Host memory below a GPU's: blocks that the cache lets go of to make room in device memory wait here, in pinned memory, and are copied back when they are asked for.
//
// Its own budget, of the same kind as the cache's: least recently used first, pinned ones stay. A block that was copied back is kept here too, so that letting go of it again
// costs nothing. Copies to the host are made by a thread of the tier; until one is made, the block lies on the device still, beyond the cache's budget, up to `queue_bytes` of them.
#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "blockattn/cache/block_cache.hpp"
#include "blockattn/cache/tier_log.hpp"
#include "blockattn/cache/write_behind.hpp"

namespace blockattn::inline v0 {

/// Blocks of one model's GPU memory; those of other memories are left alone. Give it to block_cache as its first tier.
class host_tier final : public block_tier {
 public:
  /// `device`: where the model's blocks lie (model::memory()). Throws argument_error if it is null.
  host_tier(std::shared_ptr<kv_memory> device, std::size_t byte_budget, log_sink sink = {}, std::size_t queue_bytes = std::size_t{256} << 20)
      : device_(std::move(device)),
        log_(sink),
        store_(byte_budget, std::move(sink)),
        queue_(queue_bytes, std::size_t{1} << 20, [this](std::span<const write_behind::item> items) { write(items); }) {
    if (device_ == nullptr) throw argument_error("[host tier] blocks of this model lie in host memory already; give the cache's budget to block_cache itself");
  }

  [[nodiscard]] std::string name() const override { return "host memory"; }
  void introduce(const fingerprint128&, const fingerprint_parts&) override {}

  /// A copy in device memory, or the block itself while it waits to be copied.
  [[nodiscard]] std::shared_ptr<const kv_block> find(const block_key& key, const kv_layout& layout) override {
    auto block = queue_.find(key);
    if (block == nullptr) block = store_.find(key);
    if (block != nullptr && block->layout() == layout) {
      try {
        auto result = block->memory() != nullptr ? std::move(block) : on_device(*block);
        ++counters_.hits;
        return result;
      } catch (const std::exception& e) {
        ++counters_.errors;
        log_.warn(cat("[host tier] a block can't be copied to the device: ", e.what(), " It is computed anew. (Said once.)"));
      }
    }
    ++counters_.misses;
    return nullptr;
  }

  /// Nothing: blocks come here when memory lets go of them.
  void put(const block_key&, std::shared_ptr<const kv_block>) override {}

  void evicted(const block_key& key, const std::shared_ptr<const kv_block>& block) override {
    if (block->memory() != device_.get() || store_.find(key) != nullptr) return;
    if (block_cache::cost(*block) > store_.stats().byte_budget || !queue_.push(key, block)) ++counters_.dropped;
  }

  [[nodiscard]] bool contains(const block_key& key) override { return queue_.find(key) != nullptr || store_.contains(key); }
  bool erase(const block_key& key) override {
    queue_.flush();
    return store_.erase(key);
  }
  bool pin(const block_key& key) override { return store_.pin(key); }
  bool unpin(const block_key& key) override { return store_.unpin(key); }
  void flush() override { queue_.flush(); }

  [[nodiscard]] tier_stats stats() override {
    tier_stats result = counters_.stats();
    const cache_stats kept = store_.stats();
    result.evictions = kept.evictions, result.dropped += kept.rejected;
    result.blocks = kept.blocks, result.bytes = kept.bytes, result.pinned_bytes = kept.pinned_bytes, result.byte_budget = kept.byte_budget;
    result.queued_bytes = queue_.queued_bytes();
    return result;
  }

 private:
  [[nodiscard]] std::shared_ptr<const kv_block> on_device(const kv_block& from) const {
    auto result = std::make_shared<kv_block>(from.layout(), from.tokens(), device_.get());
    device_->copy(result->data(), from.bytes(), from.data(), from.bytes(), from.bytes(), 1, kv_memory::direction::to_device);
    return result;
  }

  void write(std::span<const write_behind::item> items) {
    for (const auto& [key, block] : items) {
      try {
        auto copy = std::make_shared<kv_block>(block->layout(), block->tokens(), device_->allocate_host(block->bytes()));
        device_->copy(copy->data(), block->bytes(), block->data(), block->bytes(), block->bytes(), 1, kv_memory::direction::to_host);
        auto place = store_.reserve(key);
        if (place.owner()) place.publish(std::move(copy));
        ++counters_.writes;
      } catch (const std::exception& e) {
        ++counters_.dropped, ++counters_.errors;
        log_.warn(cat("[host tier] a block can't be copied to host memory: ", e.what(), " Lower the budget of the tier. (Said once.)"));
      }
    }
  }

  std::shared_ptr<kv_memory> device_;
  warn_once log_;
  tier_counters counters_;
  block_cache store_;    ///< blocks in host memory
  write_behind queue_;   ///< the last member: its thread uses the others
};

}  // namespace blockattn::inline v0
