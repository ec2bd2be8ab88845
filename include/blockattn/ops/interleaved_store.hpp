// Interleaved copies of quantised weights (kernels/interleave.hpp), made panel by panel when a panel is first multiplied.
//
// A copy takes about what the matrix takes in the file. Weights that are never multiplied cost nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "blockattn/core/dtype.hpp"
#include "blockattn/kernels/interleave.hpp"
#include "blockattn/ops/huge_memory.hpp"

namespace blockattn::inline v0 {

/// The panels of one quantised matrix, each made by the first thread that asks for it while others that want it wait. Nothing here starts
/// or runs a task, so a thread that waits can't be waited for.
class interleaved_weight {
 public:
  /// `w` and `memory` must outlive the object; panels have `width` rows.
  interleaved_weight(const weight_view& w, index_t width, huge_memory& memory)
      : view_(w), width_(width), panel_bytes_(interleaved_bytes(w.type, width, w.columns)), panels_((w.rows + width - 1) / width),
        bytes_(memory.take(bytes())),
        states_(std::make_unique<std::atomic<std::uint8_t>[]>(static_cast<std::size_t>(panels_))) {}

  [[nodiscard]] index_t bytes() const { return panels_ * panel_bytes_; }

  /// The panel that begins at row `first`, a multiple of the width.
  [[nodiscard]] const std::byte* panel(index_t first) const {
    const index_t number = first / width_;
    std::byte* at = bytes_ + number * panel_bytes_;
    std::atomic<std::uint8_t>& state = states_[static_cast<std::size_t>(number)];
    std::uint8_t seen = state.load(std::memory_order_acquire);
    if (seen == ready) return at;
    if (seen == empty && state.compare_exchange_strong(seen, busy, std::memory_order_acquire)) {
      interleave_panel(view_, first, view_.rows - first < width_ ? view_.rows - first : width_, width_, at);
      state.store(ready, std::memory_order_release);
      state.notify_all();
      return at;
    }
    while ((seen = state.load(std::memory_order_acquire)) != ready) state.wait(seen);
    return at;
  }

 private:
  static constexpr std::uint8_t empty = 0, busy = 1, ready = 2;

  weight_view view_;
  index_t width_, panel_bytes_, panels_;
  std::byte* bytes_;
  std::unique_ptr<std::atomic<std::uint8_t>[]> states_;
};

/// The copies of a model's matrices, found by where a matrix lies. Used by any number of threads.
class interleaved_store {
 public:
  /// The copy of `w`, which must outlive the store. Room for it is taken at the first call; throws std::bad_alloc.
  [[nodiscard]] const interleaved_weight& of(const weight_view& w, index_t width) {
    {
      const std::shared_lock lock(mutex_);
      if (const auto found = weights_.find(w.data); found != weights_.end()) return *found->second;
    }
    const std::unique_lock lock(mutex_);
    auto& entry = weights_[w.data];
    if (entry == nullptr) {
      entry = std::make_unique<interleaved_weight>(w, width, memory_);
      bytes_ += entry->bytes();
    }
    return *entry;
  }

  /// Bytes of all copies so far.
  [[nodiscard]] index_t bytes() const { return bytes_.load(); }

 private:
  std::shared_mutex mutex_;
  huge_memory memory_;
  std::unordered_map<const std::byte*, std::unique_ptr<interleaved_weight>> weights_;
  std::atomic<index_t> bytes_ = 0;
};

}  // namespace blockattn::inline v0
