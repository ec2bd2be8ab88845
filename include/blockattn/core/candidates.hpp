// The part of a row of logits that a choice needs: its highest ones, in the order in which a sampler takes them.
#pragma once

#include <span>

#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

struct token_candidate {
  float logit = 0;
  token_id id = 0;

  /// Total, so that a choice doesn't depend on how a library sorts: the higher logit first, of equal ones the lower id.
  [[nodiscard]] friend constexpr bool before(const token_candidate& a, const token_candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }
};

/// The `count` highest logits that are numbers above -infinity, after the repetition penalty (l > 0 ? l / penalty : l * penalty) of the ids in `penalised`.
struct candidate_request {
  index_t count = 1;
  std::span<const token_id> penalised = {};  ///< each once, all in [0, V)
  float penalty = 1;
};

}  // namespace blockattn::inline v0
