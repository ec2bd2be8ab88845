// Encoding ahead of time: blocks that will be asked for later go into a cache and its tiers, or into a pack.
#pragma once

#include <oneapi/tbb/task_arena.h>

#include <chrono>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "blockattn/cache/block_cache.hpp"
#include "blockattn/model/model.hpp"

namespace blockattn::inline v0 {

/// What precompute() did: total == found + encoded.
struct precompute_result {
  index_t total = 0, found = 0, encoded = 0;
};

/// Makes each block available, from the tiers or by encoding it; in order, so that a cancelled call keeps what is done.
/// `control.progress` counts blocks. Blocks must not be empty. Throws cancelled_error, and what encoding throws.
inline precompute_result precompute(const model& m, block_cache& cache, std::span<const std::vector<token_id>> blocks, const forward_control& control = {}) {
  precompute_result result;
  cache.introduce(m.fingerprint(), m.identity());
  for (const auto& ids : blocks) {
    auto reservation = cache.reserve(make_block_key(m.fingerprint(), ids));
    while (reservation.waiting() && !reservation.wait_for(std::chrono::milliseconds(20)))
      if (control.cancelled && control.cancelled()) throw cancelled_error("[cache] cancelled by the caller");
    const bool missing = reservation.owner() && !cache.fetch(reservation, m.kv());
    if (missing) reservation.publish(oneapi::tbb::this_task_arena::isolate([&] { return m.encode(ids, {{}, control.cancelled}); }));
    ++(missing ? result.encoded : result.found);
    ++result.total;
    if (control.progress && !control.progress(result.total, static_cast<index_t>(blocks.size()))) throw cancelled_error("[cache] cancelled by the progress callback");
  }
  return result;
}

}  // namespace blockattn::inline v0
