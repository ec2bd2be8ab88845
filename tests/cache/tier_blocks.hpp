// What the tests of tiers share: blocks as large as real ones, a log that is kept, work in processes of its own.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/cache/block_cache.hpp"
#include "cache_blocks.hpp"
#include "command/scratch_folder.hpp"

namespace blockattn_test {

/// 2 layers of 2 heads of 64, bf16: 1 KiB a token.
inline constexpr blockattn::kv_layout tier_layout{2, 2, 64, blockattn::dtype::bf16};

inline blockattn::fingerprint_parts identity_of(const std::string& weights, const std::string& kv = "bf16") {
  blockattn::fingerprint_parts parts;
  parts.add("weights", weights);
  parts.add("kv", kv);
  return parts;
}

inline const blockattn::fingerprint_parts& tier_identity() {
  static const blockattn::fingerprint_parts parts = identity_of("1234");
  return parts;
}

/// Key number n of the model.
inline blockattn::block_key tier_key(std::uint64_t n, const blockattn::fingerprint_parts& identity = tier_identity()) {
  return blockattn::make_block_key(identity.hash(), std::vector<blockattn::token_id>{static_cast<blockattn::token_id>(n), 7});
}

inline std::shared_ptr<const blockattn::kv_block> tier_block(const blockattn::block_key& key, blockattn::index_t tokens = 20) {
  auto block = std::make_shared<blockattn::kv_block>(tier_layout, tokens);
  const auto pattern = pattern_of(key);
  const auto bytes = static_cast<std::size_t>(block->bytes());
  for (std::size_t at = 0; at < bytes; at += pattern.size()) std::memcpy(block->data() + at, pattern.data(), std::min(pattern.size(), bytes - at));
  return block;
}

/// Takes log lines from any thread.
struct log_book {
  std::mutex mutex;
  std::vector<std::pair<blockattn::log_level, std::string>> lines;

  blockattn::log_sink sink() {
    return [this](blockattn::log_level level, std::string_view line) {
      const std::lock_guard lock(mutex);
      lines.emplace_back(level, line);
    };
  }
  std::size_t count(blockattn::log_level level, std::string_view part = {}) {
    const std::lock_guard lock(mutex);
    return static_cast<std::size_t>(
        std::count_if(lines.begin(), lines.end(), [&](const auto& line) { return line.first == level && line.second.find(part) != std::string::npos; }));
  }
  std::string text() {
    const std::lock_guard lock(mutex);
    std::string result;
    for (const auto& line : lines) result += line.second + '\n';
    return result;
  }
};

/// A process that runs `work` and ends with what it returns; 100 for an exception.
template <class Work>
pid_t start_child(const Work& work) {
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child != 0) return child;
  int status = 100;
  try {
    status = work();
  } catch (...) {
  }
  ::_exit(status);
}

/// Exit status, or 128 + signal.
inline int wait_for_child(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) throw std::runtime_error("waitpid failed");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

template <class Work>
int in_child(const Work& work) {
  return wait_for_child(start_child(work));
}

}  // namespace blockattn_test
