// What tiers have in common: how they count, and how they say once what goes wrong again and again.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/cache/block_tier.hpp"
#include "blockattn/core/log.hpp"

namespace blockattn::inline v0 {

/// Counters of a tier, changed by any thread.
struct tier_counters {
  std::atomic<std::uint64_t> hits{0}, misses{0}, writes{0}, evictions{0}, dropped{0}, damaged{0}, errors{0};

  [[nodiscard]] tier_stats stats() const {
    tier_stats result;
    result.hits = hits;
    result.misses = misses;
    result.writes = writes;
    result.evictions = evictions;
    result.dropped = dropped;
    result.damaged = damaged;
    result.errors = errors;
    return result;
  }
};

/// A log sink that says the same warning once, until it was forgotten. Thread-safe.
class warn_once {
 public:
  explicit warn_once(log_sink sink) : sink_(std::move(sink)) {}

  void warn(const std::string& line) {
    {
      const std::lock_guard lock(mutex_);
      last_ = std::chrono::steady_clock::now();
      if (!said_.insert(line).second) return;
    }
    log(sink_, log_level::warning, line);
  }
  /// All is well again: the next warning is said in any case. True if there was one.
  bool forget() {
    const std::lock_guard lock(mutex_);
    return !std::exchange(said_, {}).empty();
  }
  /// Something went well: forgets if nothing went wrong for a minute, so that trouble that comes and goes (a disk that is nearly full) is said once.
  void settle() {
    const std::lock_guard lock(mutex_);
    if (std::chrono::steady_clock::now() - last_ > std::chrono::minutes(1)) said_.clear();
  }
  void say(log_level level, std::string_view line) const { log(sink_, level, line); }
  [[nodiscard]] const log_sink& sink() const { return sink_; }

 private:
  log_sink sink_;
  std::mutex mutex_;
  std::set<std::string> said_;  ///< since all was well
  std::chrono::steady_clock::time_point last_;  ///< when something last went wrong
};

/// Why a tier that has blocks has none of this model: in what the models that it knows differ. The nearest one is named.
[[nodiscard]] inline std::string why_foreign(const fingerprint128& model, const fingerprint_parts& identity,
                                             const std::vector<std::pair<fingerprint128, fingerprint_parts>>& known) {
  std::string best;
  for (const auto& [other, parts] : known) {
    const std::string text = cat("its blocks are of model ", to_string(other), ", this one is ", to_string(model), "; ", difference(parts, identity));
    if (best.empty() || text.size() < best.size()) best = text;
  }
  return best;
}

}  // namespace blockattn::inline v0
