// Writing later: a bounded queue of blocks and a thread that hands them on in batches, so that whoever encoded a block
// doesn't wait for a disk or a network. A full queue refuses; destruction writes what is left.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blockattn/cache/block_key.hpp"
#include "blockattn/core/kv.hpp"

namespace blockattn::inline v0 {

/// Thread-safe.
class write_behind {
 public:
  struct item {
    block_key key;
    std::shared_ptr<const kv_block> block;
  };
  /// Called by the queue's thread with one or more items; must not throw.
  using writer = std::function<void(std::span<const item>)>;

  /// Holds at most `byte_limit` bytes of blocks; hands on about `batch_bytes` at a time.
  write_behind(std::size_t byte_limit, std::size_t batch_bytes, writer write)
      : byte_limit_(byte_limit), batch_bytes_(batch_bytes), write_(std::move(write)) {}

  write_behind(const write_behind&) = delete;
  write_behind& operator=(const write_behind&) = delete;

  ~write_behind() {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    work_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  /// False if the queue is full, and nothing has happened then. A block that waits already isn't taken twice.
  [[nodiscard]] bool push(const block_key& key, std::shared_ptr<const kv_block> block) {
    const auto bytes = static_cast<std::size_t>(block->bytes());
    {
      const std::lock_guard lock(mutex_);
      if (waiting_.contains(key)) return true;
      if (bytes > byte_limit_ || bytes_ > byte_limit_ - bytes) return false;
      if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
      waiting_.emplace(key, block);
      queue_.push_back({key, std::move(block)});
      bytes_ += bytes;
      ++pushed_;
    }
    work_.notify_one();
    return true;
  }

  /// A block that waits to be written, or nullptr.
  [[nodiscard]] std::shared_ptr<const kv_block> find(const block_key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = waiting_.find(key);
    return found == waiting_.end() ? nullptr : found->second;
  }

  /// Returns once everything pushed before has been handed on.
  void flush() {
    std::unique_lock lock(mutex_);
    const std::uint64_t until = pushed_;
    done_.wait(lock, [&] { return written_ >= until; });
  }

  [[nodiscard]] std::size_t queued_bytes() {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      std::vector<item> batch;
      std::size_t bytes = 0;
      while (!queue_.empty() && (batch.empty() || bytes < batch_bytes_)) {
        bytes += static_cast<std::size_t>(queue_.front().block->bytes());
        batch.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      lock.unlock();
      write_(batch);
      lock.lock();
      for (const item& each : batch) waiting_.erase(each.key);
      bytes_ -= bytes;
      written_ += batch.size();
      lock.unlock();
      batch.clear();  // blocks may be large: given back where nobody waits
      done_.notify_all();
      lock.lock();
    }
  }

  const std::size_t byte_limit_, batch_bytes_;
  const writer write_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<item> queue_;
  std::unordered_map<block_key, std::shared_ptr<const kv_block>> waiting_;  ///< queued, or being written now
  std::size_t bytes_ = 0;
  std::uint64_t pushed_ = 0, written_ = 0;
  bool closing_ = false;
  std::thread thread_;  ///< started by the first push
};

}  // namespace blockattn::inline v0
