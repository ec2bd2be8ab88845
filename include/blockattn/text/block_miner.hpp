// Finds long runs of tokens that recur in a log of prompts, and proposes them as blocks.
//
// A suffix array over all prompts (prefix doubling, O(n log n)) with its longest common prefixes (Kasai et al., 2001) gives every repeat that can't be
// made longer to the right, as an interval of the array. Repeats are taken greedily by what they save, (occurrences - 1) x tokens, occurrences that overlap one already taken not counted.
// The work of choosing is bounded by 256 looks at each token, so that periodic text can't make it quadratic; what is left then isn't proposed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <queue>
#include <span>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

struct mining_options {
  index_t min_tokens = 32;     ///< of a block
  index_t min_occurrences = 2;
  index_t max_blocks = 100;
};

/// A run of tokens that recurs.
struct mined_block {
  std::vector<token_id> ids;
  struct place {
    index_t prompt, begin;
  };
  std::vector<place> places;  ///< non-overlapping, in the order of the log
  /// Tokens that needn't be computed if it is encoded once.
  [[nodiscard]] index_t saved() const { return (static_cast<index_t>(places.size()) - 1) * static_cast<index_t>(ids.size()); }
};

namespace detail {

class block_miner {
 public:
  block_miner(std::span<const std::vector<token_id>> prompts, const mining_options& options) : options_(options) {
    std::size_t total = prompts.size();
    for (const auto& prompt : prompts) total += prompt.size();
    if (total >= std::size_t{1} << 31) throw argument_error(cat("[miner] the log has ", total, " tokens; allowed: below 2^31. Mine a part of it."));
    std::int64_t separator = -1;  // a symbol of its own behind each prompt: no repeat goes across
    for (const auto& prompt : prompts) {
      starts_.push_back(static_cast<std::int64_t>(text_.size()));
      for (const token_id id : prompt) text_.push_back(id);
      text_.push_back(separator--);
    }
  }

  [[nodiscard]] std::vector<mined_block> mine() {
    if (text_.empty()) return {};
    sort_suffixes();
    find_common_prefixes();
    find_repeats();
    return choose();
  }

 private:
  struct repeat {
    std::int64_t gain;
    std::int64_t length, first, last;  ///< suffixes [first, last] of the array share `length` tokens
    friend bool operator<(const repeat& a, const repeat& b) { return std::pair(a.gain, -a.first) < std::pair(b.gain, -b.first); }
  };

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(text_.size()); }

  /// Prefix doubling; ranks are sorted by counting.
  void sort_suffixes() {
    const auto n = text_.size();
    suffixes_.resize(n);
    rank_.resize(n);
    std::iota(suffixes_.begin(), suffixes_.end(), 0);
    std::sort(suffixes_.begin(), suffixes_.end(), [&](std::int32_t a, std::int32_t b) { return at(a) != at(b) ? at(a) < at(b) : a < b; });
    std::int32_t ranks = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (i > 0 && at(suffixes_[i]) != at(suffixes_[i - 1])) ++ranks;
      rank_[index(suffixes_[i])] = ranks;
    }
    std::vector<std::int32_t> by_second(n), next(n), count;
    for (std::int64_t length = 1; ranks + 1 < static_cast<std::int32_t>(n) && length < size(); length *= 2) {
      std::size_t to = 0;
      for (std::int64_t i = size() - length; i < size(); ++i) by_second[to++] = static_cast<std::int32_t>(i);
      for (const std::int32_t s : suffixes_)
        if (s >= length) by_second[to++] = static_cast<std::int32_t>(s - length);
      count.assign(static_cast<std::size_t>(ranks) + 2, 0);
      for (const std::int32_t r : rank_) ++count[index(r) + 1];
      std::partial_sum(count.begin(), count.end(), count.begin());
      for (const std::int32_t s : by_second) suffixes_[index(count[index(rank_[index(s)])]++)] = s;
      const auto second = [&](std::int32_t s) { return s + length < size() ? rank_[index(s + length)] : -1; };
      ranks = 0;
      next[index(suffixes_[0])] = 0;
      for (std::size_t i = 1; i < n; ++i) {
        const std::int32_t a = suffixes_[i - 1], b = suffixes_[i];
        if (rank_[index(a)] != rank_[index(b)] || second(a) != second(b)) ++ranks;
        next[index(b)] = ranks;
      }
      rank_.swap(next);
    }
  }

  /// common_[i]: tokens that suffixes i - 1 and i of the array share.
  void find_common_prefixes() {
    common_.assign(text_.size() + 1, 0);
    std::int64_t shared = 0;
    for (std::int64_t i = 0; i < size(); ++i) {
      const std::int64_t place = rank_[index(i)];
      if (place == 0) {
        shared = 0;
        continue;
      }
      const std::int64_t other = suffixes_[index(place - 1)];
      while (std::max(i, other) + shared < size() && at(i + shared) == at(other + shared)) ++shared;
      common_[index(place)] = static_cast<std::int32_t>(shared);
      shared = std::max<std::int64_t>(shared - 1, 0);
    }
  }

  /// Intervals of the array whose suffixes share at least min_tokens.
  void find_repeats() {
    std::vector<std::pair<std::int64_t, std::int64_t>> open;  // length, first
    for (std::int64_t i = 1; i <= size(); ++i) {
      std::int64_t first = i - 1;
      const std::int64_t length = i < size() ? common_[index(i)] : 0;
      while (!open.empty() && open.back().first > length) {
        first = open.back().second;
        add_repeat(open.back().first, first, i - 1);
        open.pop_back();
      }
      if (length >= options_.min_tokens && (open.empty() || open.back().first < length)) open.emplace_back(length, first);
    }
  }

  /// Occurrences can't cover more than the log, which bounds what a repeat saves even where they overlap.
  void add_repeat(std::int64_t length, std::int64_t first, std::int64_t last) {
    const std::int64_t count = last - first + 1;
    if (count >= options_.min_occurrences) repeats_.push({std::min((count - 1) * length, size() - length), length, first, last});
  }

  /// Occurrences that touch no token already taken nor each other.
  [[nodiscard]] std::vector<std::int64_t> free_places(const repeat& r) {
    std::vector<std::int64_t> places;
    for (std::int64_t i = r.first; i <= r.last; ++i) places.push_back(suffixes_[index(i)]);
    work_ -= r.last - r.first + 1;
    std::sort(places.begin(), places.end());
    std::vector<std::int64_t> result;
    for (const std::int64_t place : places) {
      if (!result.empty() && place < result.back() + r.length) continue;
      const auto after = taken_.lower_bound(place);
      if (after != taken_.end() && after->first < place + r.length) continue;
      if (after != taken_.begin() && std::prev(after)->second > place) continue;
      result.push_back(place);
    }
    return result;
  }

  [[nodiscard]] std::vector<mined_block> choose() {
    std::vector<mined_block> blocks;
    work_ = 256 * size();
    while (!repeats_.empty() && work_ > 0 && static_cast<index_t>(blocks.size()) < options_.max_blocks) {
      repeat best = repeats_.top();
      repeats_.pop();
      const std::vector<std::int64_t> places = free_places(best);
      const auto count = static_cast<std::int64_t>(places.size());
      if (count < options_.min_occurrences) continue;
      if (const std::int64_t gain = (count - 1) * best.length; gain < best.gain) {  // fewer than was thought: back into the queue
        best.gain = gain;
        if (!repeats_.empty() && gain < repeats_.top().gain) {
          repeats_.push(best);
          continue;
        }
      }
      blocks.push_back(take(best, places));
    }
    return blocks;
  }

  [[nodiscard]] mined_block take(const repeat& r, const std::vector<std::int64_t>& places) {
    mined_block block;
    for (std::int64_t t = 0; t < r.length; ++t) block.ids.push_back(static_cast<token_id>(at(places.front() + t)));
    for (const std::int64_t place : places) {
      taken_.emplace(place, place + r.length);
      const auto prompt = std::upper_bound(starts_.begin(), starts_.end(), place) - starts_.begin() - 1;
      block.places.push_back({prompt, place - starts_[static_cast<std::size_t>(prompt)]});
    }
    return block;
  }

  template <class Integer>
  [[nodiscard]] static std::size_t index(Integer i) {
    return static_cast<std::size_t>(i);
  }
  [[nodiscard]] std::int64_t at(std::int64_t i) const { return text_[index(i)]; }

  mining_options options_;
  std::vector<std::int64_t> text_, starts_;
  std::vector<std::int32_t> suffixes_, rank_, common_;
  std::priority_queue<repeat> repeats_;
  std::map<std::int64_t, std::int64_t> taken_;  ///< begin -> end
  std::int64_t work_ = 0;
};

}  // namespace detail

/// Blocks that the log proposes, those that save most first. Throws argument_error for options below 1 (min_occurrences below 2) and logs of 2^31 tokens.
[[nodiscard]] inline std::vector<mined_block> mine_blocks(std::span<const std::vector<token_id>> prompts, const mining_options& options = {}) {
  if (options.min_tokens < 1 || options.min_occurrences < 2 || options.max_blocks < 0)
    throw argument_error(cat("[miner] min_tokens ", options.min_tokens, ", min_occurrences ", options.min_occurrences, ", max_blocks ", options.max_blocks,
                             "; allowed: at least 1, 2 and 0"));
  return detail::block_miner(prompts, options).mine();
}

}  // namespace blockattn::inline v0
