// Where warnings go: a function that the application gives. Without one, they are dropped.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

namespace blockattn::inline v0 {

enum class log_level { debug, info, warning };

/// Takes one line without a line feed. May be called from any thread, one call at a time or not: the sink sees to that.
using log_sink = std::function<void(log_level, std::string_view)>;

/// Calls `sink` if there is one.
inline void log(const log_sink& sink, log_level level, std::string_view line) {
  if (sink) sink(level, line);
}

/// Progress of a long step: `done` of `total` units (tokens, bytes, passages; the callee says which). Return false to cancel.
using progress_callback = std::function<bool(std::int64_t done, std::int64_t total)>;

}  // namespace blockattn::inline v0
