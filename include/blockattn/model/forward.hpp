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
#include "blockattn/ops/linear.hpp"

namespace blockattn::inline v0 {

/// A cached block at a place in a prompt.
struct placed_block {
  std::shared_ptr<const kv_block> block;
  index_t offset = 0;    ///< position of its first token: decides which queries see it, and windows
  bool rotated = false;  ///< its keys are a copy already rotated to where they belong
  std::optional<double> rotation = {};  ///< positions that its keys' rotation lacks, any real number; by default the offset

  index_t first = 0;       ///< tokens left out at its start: not seen by anyone
  index_t count = -1;      ///< of the tokens from `first` on, how many are seen; -1: all. The offset is that of token number `first`.
  segment_scaling scaling = {};

  [[nodiscard]] index_t seen() const { return count < 0 ? block->tokens() - first : count; }
  /// What attention reads of layer `l`.
  [[nodiscard]] kv_view layer(index_t l) const {
    kv_view view = block->layer(l);
    view.keys += first * block->layout().key_row_bytes();
    view.values += first * block->layout().value_row_bytes();
    view.tokens = seen();
    return view;
  }

  [[nodiscard]] double lacks() const { return rotated ? 0.0 : rotation.value_or(static_cast<double>(offset)); }
};

/// Watches over a long run. All are called from the calling thread, between layers.
struct forward_control {
  progress_callback progress;       ///< tokens done, tokens in all; false cancels
  std::function<bool()> cancelled;  ///< true cancels
  operation_counter* operations = nullptr;  ///< floating-point operations of matrix products and attention are added to it
  index_t layers = 0;  ///< only the first so many layers are run, for their keys and values; hidden states are those after them. 0: all
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
  /// [T] ascending: the tokens take these places of the tail, whose first token is at position 0, instead of what is there, and `position` plays no role; empty: they
  /// are appended.
  std::span<const index_t> places = {};

  [[nodiscard]] index_t position_of(index_t t) const { return places.empty() ? position + t : places[static_cast<std::size_t>(t)]; }
};

/// One of several requests that go through the linear layers together. Runs with tails of their own don't see each other; runs that share a tail, in
/// ascending positions, see those before them.
struct forward_run {
  forward_request request;
  kv_tail* tail = nullptr;
};

}  // namespace blockattn::inline v0
