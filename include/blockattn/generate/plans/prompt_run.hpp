// The engine that every attention plan of the rivals runs on: encodes blocks through the cache, places them, runs tokens behind them.
//
// A plan describes a prompt with four operations, and none has code below this file:
//   encode   keys and values of blocks, each seeing itself and what the plan names, cached by everything that they depend on
//   place    such a block, or a part of it, at a position; what its keys' rotation lacks is any real number
//   extend   tokens behind all that was placed: runs in ascending positions that see everything before them, those before them included
//   finish   the rest of the prompt, whose last token gives the logits
// Positions decide what is seen (a token sees what lies at or before its own) and, unless a plan says otherwise, the rotation.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/cache/block_cache.hpp"
#include "blockattn/model/model.hpp"

namespace blockattn::inline v0 {

/// Blocks of a prompt that were encoded on their own: total == reused + encoded.
struct block_counts {
  index_t total = 0;
  index_t reused = 0;   ///< found in the cache, or encoded at that moment for another request
  index_t encoded = 0;  ///< encoded for this request
};

/// How one block is encoded.
struct block_encoding {
  std::span<const token_id> ids;
  index_t position = 0;                        ///< of its first token
  std::vector<double> rotations = {};          ///< [T] where RoPE places its tokens; empty: at their positions
  std::span<const placed_block> context = {};  ///< what its tokens see besides themselves
  fingerprint128 salt = {};                    ///< of all that its keys and values depend on besides the model and its ids; zero: nothing, it is encoded alone at 0
  hidden_rows rows = hidden_rows::none;
};

/// Tokens that see everything before them.
struct token_run {
  std::vector<token_id> ids;
  index_t position = 0;
  std::vector<index_t> places = {};  ///< as forward_request::places
};

class prompt_run {
 public:
  /// `blocks`: all of the prompt; the first `reusable` may be encoded on their own. `task_tokens`: the last so many tokens of the prompt aren't the user's words,
  /// but what ends the turn and opens the answer; 0: unknown. Everything given must outlive this object.
  prompt_run(const model& m, block_cache& cache, std::span<const std::vector<token_id>> blocks, index_t reusable, index_t task_tokens, const forward_control& control)
      : model_(&m), cache_(&cache), blocks_(blocks), reusable_(reusable), task_tokens_(task_tokens), control_(control), tail_(m.make_tail()) {
    control_.progress = {};  // counted here, in tokens of the prompt
    for (const auto& block : blocks) total_ += static_cast<index_t>(block.size());
    progress_ = control.progress;
  }

  [[nodiscard]] const model& get_model() const { return *model_; }
  [[nodiscard]] index_t reusable() const { return reusable_; }
  [[nodiscard]] index_t task_tokens() const { return task_tokens_; }
  [[nodiscard]] std::span<const token_id> ids(index_t block) const { return blocks_[static_cast<std::size_t>(block)]; }
  [[nodiscard]] index_t tokens(index_t block) const { return static_cast<index_t>(ids(block).size()); }
  /// Tokens of the longest of the blocks [first, last); 0 if there are none.
  [[nodiscard]] index_t longest(index_t first, index_t last) const {
    index_t result = 0;
    for (index_t i = first; i < last; ++i) result = std::max(result, tokens(i));
    return result;
  }
  /// What isn't reusable, as one run.
  [[nodiscard]] std::vector<token_id> rest() const {
    std::vector<token_id> result;
    for (const auto& block : blocks_.subspan(static_cast<std::size_t>(reusable_))) result.insert(result.end(), block.begin(), block.end());
    return result;
  }

  /// Blocks alone at local positions, as Block-Attention encodes them; they share their places in the cache with it.
  [[nodiscard]] std::vector<std::shared_ptr<const kv_block>> encode_alone(index_t first, index_t last) {
    std::vector<block_encoding> encodings;
    for (index_t i = first; i < last; ++i) encodings.push_back({ids(i)});
    return encode(encodings);
  }

  /// Takes the hidden states after the last norm, [rows, D], of encoding number i, if it was encoded now.
  using hidden_callback = std::function<void(std::size_t, const matrix&)>;

  /// Keys and values of blocks, from the cache or encoded together.
  [[nodiscard]] std::vector<std::shared_ptr<const kv_block>> encode(std::span<const block_encoding> encodings, const hidden_callback& hidden = {}) {
    std::vector<block_cache::reservation> reservations;
    std::vector<std::size_t> own;
    for (const block_encoding& e : encodings) reservations.push_back(cache_->reserve(key_of(e)));
    for (std::size_t i = 0; i < encodings.size(); ++i) {
      if (reservations[i].owner()) own.push_back(i);
      else report(static_cast<index_t>(encodings[i].ids.size()));
    }
    const auto publish = [&](std::size_t i, std::shared_ptr<const kv_block> block) { reservations[i].publish(std::move(block)); };
    encode_now(encodings, own, publish, hidden);
    counts_.encoded += static_cast<index_t>(own.size());
    counts_.total += static_cast<index_t>(encodings.size());
    std::vector<std::shared_ptr<const kv_block>> result;
    for (std::size_t i = 0; i < encodings.size(); ++i) result.push_back(wait_for(reservations[i], encodings, i, hidden));
    counts_.reused = counts_.total - counts_.encoded;
    return result;
  }

  /// Encodes without the cache: the result isn't kept by it.
  [[nodiscard]] std::vector<std::shared_ptr<const kv_block>> encode_uncached(std::span<const block_encoding> encodings, const hidden_callback& hidden = {}) {
    std::vector<std::size_t> all(encodings.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    std::vector<std::shared_ptr<const kv_block>> result(encodings.size());
    encode_now(encodings, all, [&](std::size_t i, std::shared_ptr<const kv_block> block) { result[i] = std::move(block); }, hidden);
    return result;
  }

  /// Everything that runs later sees it.
  void place(placed_block block) {
    if (block.seen() > 0) placed_.push_back(std::move(block));
  }

  /// Instead of placing blocks: a tail made of copies of them, whose tokens everything that runs later sees and runs with places replace.
  void begin_with(kv_tail tail, std::span<const std::shared_ptr<const kv_block>> copied) {
    tail_ = std::move(tail);
    copied_bytes_ = 0;
    for (std::size_t i = 0; i < copied.size(); ++i)
      if (std::find(copied.begin(), copied.begin() + static_cast<std::ptrdiff_t>(i), copied[i]) == copied.begin() + static_cast<std::ptrdiff_t>(i)) copied_bytes_ += copied[i]->bytes();
  }

  /// Runs tokens behind what was placed.
  void extend(std::span<const token_run> runs) { (void)run_all(runs, hidden_rows::none); }

  /// Runs these and then the rest of the prompt; RoPE places the first token of the rest at `rotation`, any real number.
  void finish(std::span<const token_run> runs, std::vector<token_id> rest, index_t position, double rotation) {
    std::vector<token_run> all(runs.begin(), runs.end());
    all.push_back({std::move(rest), position});
    turn_ = rotation - static_cast<double>(position);
    const std::vector<matrix> hidden = run_all(all, hidden_rows::last);
    logits_ = model_->logits(hidden.back(), control_.operations);
    position_ = position + static_cast<index_t>(all.back().ids.size());
  }
  void finish(index_t position) { finish({}, rest(), position, static_cast<double>(position)); }

  /// Block-Attention: the reusable blocks one behind the other, then the rest.
  void finish_blocks() {
    index_t offset = 0;
    for (const auto& block : encode_alone(0, reusable_)) {
      place({block, offset});
      offset += block->tokens();
    }
    finish(offset);
  }

  /// Log-probabilities of tokens 1, 2, … given the hidden states [T, D] of those before each: their mean, 0 for a single token.
  [[nodiscard]] double mean_log_probability(std::span<const token_id> ids, const matrix& hidden) const {
    const auto count = static_cast<index_t>(ids.size()) - 1;
    double sum = 0;
    for (index_t first = 0; first < count; first += 64) {
      const index_t rows = std::min<index_t>(64, count - first);
      const matrix part = hidden.middleRows(first, rows);
      const std::vector<float> logits = model_->logits(part, control_.operations);
      const index_t vocabulary = model_->config().vocabulary;
      for (index_t r = 0; r < rows; ++r) {
        const auto row = std::span(logits).subspan(static_cast<std::size_t>(r * vocabulary), static_cast<std::size_t>(vocabulary));
        const double top = *std::max_element(row.begin(), row.end());
        double total = 0;
        for (const float x : row) total += std::exp(static_cast<double>(x) - top);
        sum += static_cast<double>(row[static_cast<std::size_t>(ids[static_cast<std::size_t>(first + r + 1)])]) - top - std::log(total);
      }
    }
    return count > 0 ? sum / static_cast<double>(count) : 0;
  }

  /// A key for what a block depends on: the method, numbers, and ids of other blocks.
  [[nodiscard]] static fingerprint128 salt_of(std::string_view method, std::initializer_list<double> numbers, std::span<const token_id> ids = {}) {
    fingerprint128 result = hash_bytes(std::as_bytes(std::span(method.data(), method.size())));
    const std::vector<double> values(numbers);
    result = combine(result, hash_bytes(std::as_bytes(std::span(values))));
    return combine(result, hash_bytes(std::as_bytes(ids)));
  }

  /// What a session takes over.
  [[nodiscard]] std::vector<float>& logits() { return logits_; }
  [[nodiscard]] kv_tail& tail() { return tail_; }
  [[nodiscard]] std::vector<placed_block>& placed() { return placed_; }
  [[nodiscard]] index_t copied_bytes() const { return copied_bytes_; }  ///< of the blocks that the tail begins with, each counted once
  [[nodiscard]] index_t position() const { return position_; }  ///< of the next token
  [[nodiscard]] double turn() const { return turn_; }           ///< RoPE places the token at position p at p + turn
  [[nodiscard]] const block_counts& counts() const { return counts_; }
  [[nodiscard]] const forward_control& control() const { return control_; }

 private:
  [[nodiscard]] block_key key_of(const block_encoding& e) const {
    const fingerprint128& fingerprint = model_->fingerprint();
    return make_block_key(e.salt == fingerprint128{} ? fingerprint : combine(fingerprint, e.salt), e.ids);
  }

  void report(index_t tokens) {
    done_ = std::min(done_ + tokens, total_);
    if (progress_ && !progress_(done_, total_)) throw cancelled_error("[session] cancelled by the progress callback");
  }

  template <class Publish>
  void encode_now(std::span<const block_encoding> encodings, const std::vector<std::size_t>& which, const Publish& publish, const hidden_callback& hidden) {
    if (which.empty()) return;
    std::vector<kv_tail> tails;
    std::vector<forward_run> runs;
    tails.reserve(which.size());
    for (const std::size_t i : which) {
      const block_encoding& e = encodings[i];
      tails.push_back(model_->make_tail(static_cast<index_t>(e.ids.size())));
      runs.push_back({{e.ids, e.position, e.context, e.rows, e.rotations}, &tails.back()});
    }
    const std::vector<matrix> states = with_team([&] { return model_->forward(runs, control_); });
    for (std::size_t n = 0; n < which.size(); ++n) {
      if (hidden) hidden(which[n], states[n]);
      report(static_cast<index_t>(encodings[which[n]].ids.size()));
      publish(which[n], model_->finish(tails[n]));
    }
  }

  [[nodiscard]] std::shared_ptr<const kv_block> wait_for(block_cache::reservation& r, std::span<const block_encoding> encodings, std::size_t i,
                                                         const hidden_callback& hidden) {
    while (r.waiting() && !r.wait_for(std::chrono::milliseconds(20)))
      if (control_.cancelled && control_.cancelled()) throw cancelled_error("[session] cancelled by the caller");
    if (r.owner()) {  // whoever was to encode it gave up
      encode_now(encodings, {i}, [&](std::size_t, std::shared_ptr<const kv_block> block) { r.publish(std::move(block)); }, hidden);
      ++counts_.encoded;
    }
    return r.block();
  }

  /// All runs go through the layers together, on one tail.
  std::vector<matrix> run_all(std::span<const token_run> runs, hidden_rows rows_of_last) {
    std::vector<forward_run> forward_runs;
    std::vector<double> rotations;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const bool last = i + 1 == runs.size();
      if (last && turn_ != 0)
        for (std::size_t t = 0; t < runs[i].ids.size(); ++t) rotations.push_back(static_cast<double>(runs[i].position + static_cast<index_t>(t)) + turn_);
      forward_runs.push_back({{runs[i].ids, runs[i].position, placed_, last ? rows_of_last : hidden_rows::none, last ? std::span<const double>(rotations) : std::span<const double>(),
                               runs[i].places}, &tail_});
    }
    std::vector<matrix> hidden = with_team([&] { return model_->forward(forward_runs, control_); });
    for (const token_run& run : runs) report(static_cast<index_t>(run.ids.size()));
    return hidden;
  }

  const model* model_;
  block_cache* cache_;
  std::span<const std::vector<token_id>> blocks_;
  index_t reusable_, task_tokens_, total_ = 0, done_ = 0;
  forward_control control_;
  progress_callback progress_;
  block_counts counts_;
  kv_tail tail_;
  std::vector<placed_block> placed_;
  std::vector<float> logits_;
  index_t copied_bytes_ = 0, position_ = 0;
  double turn_ = 0;
};

}  // namespace blockattn::inline v0
