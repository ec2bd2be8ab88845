// From logits to the next token.
//
// With temperature 0 (greedy) the token with the highest logit after step 1 is taken, of equal ones the lowest id.
// Otherwise, in this order:
//   1. repetition penalty   each token that occurs among the recent ones, once: l > 0 ? l / penalty : l * penalty
//                           (CTRL, arXiv 1909.05858)
//   2. top-k                the k highest logits stay, of equal ones the lowest ids
//   3. top-p                of p = softmax(l) over what stayed: the shortest run of the most probable tokens whose sum
//                           reaches top_p (arXiv 1904.09751)
//   4. min-p                tokens with p >= min_p * max p stay   (arXiv 2407.01082)
//   5. temperature          a draw from softmax(l / temperature) over what stayed
// The filters see the model's own distribution and temperature comes last, as in llama.cpp: a high temperature then
// spreads the choice over tokens that the model itself finds likely and lets no others in. (transformers applies
// temperature before 2 to 4; for temperature 1 both agree, but for ties.) At least one token stays in each step.
//
// The draw is the first token whose cumulative weight exceeds u * sum, with u = (next() >> 11) * 2^-53 of
// std::mt19937_64: one seed gives one sequence on every machine whose std::exp gives the same doubles.
// Each draw takes one number; greedy choices take none.
//
// NaN counts as "no such token", as does -infinity. If there is +infinity, only such tokens are drawn, evenly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "blockattn/core/candidates.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

/// How the next token is chosen. The defaults are greedy.
struct sampling_options {
  float temperature = 0;  ///< >= 0; 0 takes the most probable token and looks at none of top_k, top_p, min_p, seed
  int top_k = 0;          ///< >= 0; 0: no limit
  float top_p = 1;        ///< in (0, 1]; 1: no limit
  float min_p = 0;        ///< in [0, 1]; 0: no limit
  float repetition_penalty = 1;  ///< > 0; 1: none, more than 1 makes repetitions rarer
  int repetition_window = 64;    ///< tokens looked back at, the most recent ones; 0: none, -1: all that are given
  std::uint64_t seed = 0;
};

/// Throws argument_error that names the first option which is out of its range.
inline void validate(const sampling_options& options) {
  const auto require = [](bool ok, const char* name, auto got, const char* allowed) {
    if (!ok) throw argument_error(cat("[sampler] ", name, " is out of range; got ", got, "; allowed: ", allowed));
  };
  require(std::isfinite(options.temperature) && options.temperature >= 0, "temperature", options.temperature,
          "0 (greedy) or any positive number.");
  require(options.top_k >= 0, "top_k", options.top_k, "1 or more, or 0 for no limit.");
  require(options.top_p > 0 && options.top_p <= 1, "top_p", options.top_p, "more than 0, up to 1 (no limit).");
  require(options.min_p >= 0 && options.min_p <= 1, "min_p", options.min_p, "0 (no limit) to 1.");
  require(std::isfinite(options.repetition_penalty) && options.repetition_penalty > 0, "repetition_penalty",
          options.repetition_penalty, "any positive number; 1 for none.");
  require(options.repetition_window >= -1, "repetition_window", options.repetition_window,
          "0 (none) or more, or -1 for all tokens.");
}

/// Chooses tokens. Holds the state of its random numbers and its scratch memory: one object a generation, one thread at
/// a time.
class sampler {
 public:
  /// Throws argument_error for an option out of its range.
  explicit sampler(const sampling_options& options = {}) : options_(options), random_(options.seed) {
    validate(options);
  }

  /// The next token. `logits` [V] are changed where the repetition penalty applies; `recent`: the tokens so far, the
  /// latest last. Throws argument_error if no logit is a number above -infinity, or, with a repetition penalty, if a
  /// recent token isn't in [0, V).
  [[nodiscard]] token_id sample(std::span<float> logits, std::span<const token_id> recent = {}) {
    penalise(logits, recent);
    const token_id best = most_probable(logits);
    if (options_.temperature == 0) return best;
    const float highest = logits[static_cast<std::size_t>(best)];
    if (options_.top_k == 0 && options_.top_p == 1) {
      keep_probable(logits, highest);
    } else {
      if (options_.top_k > 0) keep_highest(logits, static_cast<std::size_t>(options_.top_k));
      if (options_.top_p < 1) keep_nucleus(logits, highest);
      drop_improbable(highest);
    }
    return draw(highest);
  }

  /// What is enough to know of the logits for the next choice, where a GPU can pick that out; nullopt: all of them. Valid until the next call. Throws as sample() for
  /// recent tokens.
  [[nodiscard]] std::optional<candidate_request> request(std::span<const token_id> recent, index_t vocabulary) {
    const bool greedy = options_.temperature == 0;
    if (!greedy && options_.top_k == 0) return std::nullopt;  // top-p and min-p alone are of all logits
    list_seen(recent, static_cast<std::size_t>(vocabulary));
    return candidate_request{greedy ? 1 : std::min<index_t>(options_.top_k, vocabulary), seen_, options_.repetition_penalty};
  }

  /// The next token by the answer to request(): the one that sample() finds in all logits.
  [[nodiscard]] token_id sample_from(std::span<const token_candidate> highest, index_t vocabulary) {
    if (highest.empty()) no_token(static_cast<std::size_t>(vocabulary));
    if (options_.temperature == 0) return highest.front().id;
    kept_.assign(highest.begin(), highest.end());
    const float best = kept_.front().logit;
    if (options_.top_p < 1) keep_nucleus({}, best);
    drop_improbable(best);
    return draw(best);
  }

  [[nodiscard]] const sampling_options& options() const { return options_; }

 private:
  using candidate = token_candidate;

  [[nodiscard]] static bool in_order(const candidate& a, const candidate& b) { return before(a, b); }

  /// l - highest in double precision; 0 for the highest, even if infinite.
  [[nodiscard]] static double below(float logit, float highest) {
    return logit == highest ? 0.0 : static_cast<double>(logit) - static_cast<double>(highest);
  }

  void penalise(std::span<float> logits, std::span<const token_id> recent) {
    list_seen(recent, logits.size());
    for (const token_id id : seen_) {
      float& logit = logits[static_cast<std::size_t>(id)];
      logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    }
  }

  /// seen_ = the tokens that the repetition penalty applies to, each once.
  void list_seen(std::span<const token_id> recent, std::size_t vocabulary) {
    seen_.clear();
    if (options_.repetition_penalty == 1 || options_.repetition_window == 0) return;
    const auto window = static_cast<std::size_t>(options_.repetition_window);
    if (options_.repetition_window > 0 && recent.size() > window) recent = recent.last(window);
    seen_.assign(recent.begin(), recent.end());
    std::sort(seen_.begin(), seen_.end());
    seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
    if (!seen_.empty() && (seen_.front() < 0 || static_cast<std::size_t>(seen_.back()) >= vocabulary))
      throw argument_error(cat("[sampler] a recent token isn't in the vocabulary; got ",
                               seen_.front() < 0 ? seen_.front() : seen_.back(), "; allowed: 0 to ",
                               static_cast<index_t>(vocabulary) - 1, ". Are the logits of another model?"));
  }

  [[noreturn]] static void no_token(std::size_t vocabulary) {
    throw argument_error(
        cat("[sampler] no token can be chosen: none of the ", vocabulary,
            " logits is a number above -infinity. The model's weights or its computation are damaged."));
  }

  [[nodiscard]] static token_id most_probable(std::span<const float> logits) {
    float best = -std::numeric_limits<float>::infinity();
    std::size_t at = logits.size();
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] > best) {  // false for NaN
        best = logits[i];
        at = i;
      }
    }
    if (at == logits.size()) no_token(logits.size());
    return static_cast<token_id>(at);
  }

  /// kept_ = the `count` highest logits, sorted. One pass; the buffer is cut back whenever it holds twice as many.
  void keep_highest(std::span<const float> logits, std::size_t count) {
    count = std::min(count, logits.size());
    kept_.clear();
    const std::size_t room = std::max<std::size_t>(2 * count, 256);
    float floor = -std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (!(logits[i] > floor)) continue;  // an equal one has a higher id than all that are kept
      kept_.push_back({logits[i], static_cast<token_id>(i)});
      if (kept_.size() < room) continue;
      cut(count);
      floor = kept_[count - 1].logit;
    }
    if (kept_.size() > count) cut(count);
    std::sort(kept_.begin(), kept_.end(), in_order);
  }

  /// Leaves the first `count` candidates, the last of them in its place. Precondition: 0 < count < kept_.size().
  void cut(std::size_t count) {
    std::nth_element(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(count - 1), kept_.end(), in_order);
    kept_.resize(count);
  }

  /// Leaves in kept_ the shortest beginning of all candidates (those of top-k if there are, else all logits) whose
  /// probability reaches top_p.
  void keep_nucleus(std::span<const float> logits, float highest) {
    const bool all = options_.top_k == 0;
    double total = 0;
    if (all) {
      for (const float logit : logits)
        if (!std::isnan(logit)) total += std::exp(below(logit, highest));
    } else {
      for (const candidate& c : kept_) total += std::exp(below(c.logit, highest));
    }
    const double enough = static_cast<double>(options_.top_p) * total;
    std::size_t count = all ? 128 : kept_.size();
    for (;; count *= 8) {  // a nucleus is small as a rule: don't sort the whole vocabulary for it
      if (all) keep_highest(logits, count);
      double sum = 0;
      for (std::size_t i = 0; i < kept_.size(); ++i) {
        sum += std::exp(below(kept_[i].logit, highest));
        if (sum >= enough) return kept_.resize(i + 1);
      }
      if (count >= logits.size() || !all) return;
    }
  }

  /// Min-p over kept_, which is sorted.
  void drop_improbable(float highest) {
    if (options_.min_p == 0) return;
    const double limit = std::log(static_cast<double>(options_.min_p));
    const auto end =
        std::find_if(kept_.begin(), kept_.end(), [&](const candidate& c) { return below(c.logit, highest) < limit; });
    kept_.erase(end, kept_.end());
  }

  /// Min-p over all logits: kept_ = those that pass, by id. Needs no sorting.
  void keep_probable(std::span<const float> logits, float highest) {
    kept_.clear();
    const double limit =
        options_.min_p == 0 ? -std::numeric_limits<double>::infinity() : std::log(static_cast<double>(options_.min_p));
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (below(logits[i], highest) >= limit) kept_.push_back({logits[i], static_cast<token_id>(i)});  // false for NaN
  }

  /// Draws from kept_, which holds at least the candidate with the highest logit.
  [[nodiscard]] token_id draw(float highest) {
    const double temperature = static_cast<double>(options_.temperature);
    weights_.resize(kept_.size());
    double sum = 0;
    for (std::size_t i = 0; i < kept_.size(); ++i) {
      weights_[i] = std::exp(below(kept_[i].logit, highest) / temperature);
      sum += weights_[i];
    }
    const double target = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;
    double reached = 0;
    for (std::size_t i = 0; i < kept_.size(); ++i) {
      reached += weights_[i];
      if (reached > target) return kept_[i].id;
    }
    return kept_.front().id;  // not reached: target < sum
  }

  sampling_options options_;
  std::mt19937_64 random_;
  std::vector<candidate> kept_;
  std::vector<double> weights_;
  std::vector<token_id> seen_;
};

}  // namespace blockattn::inline v0
