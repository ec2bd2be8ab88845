// What runs of tokens through a model need and give, whatever its family.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "blockattn/core/kv.hpp"
#include "blockattn/core/log.hpp"
#include "blockattn/model/kv_tail.hpp"

namespace blockattn::inline v0 {

/// A cached block at a place in a prompt.
struct placed_block {
  std::shared_ptr<const kv_block> block;
  index_t offset = 0;    ///< position of its first token: decides which queries see it, and windows
  bool rotated = false;  ///< its keys are a copy already rotated to where they belong
  std::optional<double> rotation = {};  ///< positions that its keys' rotation lacks, any real number; by default the offset

  [[nodiscard]] double lacks() const { return rotated ? 0.0 : rotation.value_or(static_cast<double>(offset)); }
};

/// Watches over a long run. All are called from the calling thread, between layers.
struct forward_control {
  progress_callback progress;       ///< tokens done, tokens in all; false cancels
  std::function<bool()> cancelled;  ///< true cancels
  std::function<void(std::size_t)> finished = {};  ///< run number i is complete, in order; its tail may be given away
};

/// Which final hidden states a run gives.
enum class hidden_rows { none, last, all };

/// Tokens to run at positions position, position + 1, …, after `tail` and all of `context`: token t sees the keys of context and tail whose positions are at
/// most its own.
struct forward_request {
  std::span<const token_id> ids;
  index_t position = 0;
  std::span<const placed_block> context;
  hidden_rows rows = hidden_rows::last;
  std::span<const double> rotations = {};  ///< [T] where RoPE places the tokens, any real numbers; empty: at their positions
};

/// One of several requests that go through the linear layers together. Runs don't see each other; each has a tail of its own.
struct forward_run {
  forward_request request;
  kv_tail* tail = nullptr;
};

}  // namespace blockattn::inline v0
