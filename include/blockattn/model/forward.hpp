// What a run of tokens through a model needs and gives, whatever its family.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "blockattn/core/kv.hpp"
#include "blockattn/core/log.hpp"
#include "blockattn/model/kv_tail.hpp"

namespace blockattn::inline v0 {

/// A cached block at a place in a prompt.
struct placed_block {
  std::shared_ptr<const kv_block> block;
  index_t offset = 0;    ///< position of its first token
  bool rotated = false;  ///< its keys are a copy already rotated by `offset`
};

/// Watches over a long run. Both are called from the calling thread, between layers.
struct forward_control {
  progress_callback progress;       ///< tokens done, tokens in all; false cancels
  std::function<bool()> cancelled;  ///< true cancels
};

/// Which final hidden states a run gives.
enum class hidden_rows { none, last, all };

/// Tokens to run at positions position, position + 1, …, after `tail` and all of `context`.
struct forward_request {
  std::span<const token_id> ids;
  index_t position = 0;
  std::span<const placed_block> context;
  hidden_rows rows = hidden_rows::last;
};

}  // namespace blockattn::inline v0
