// A conversation over blocks: prefill with reuse, then token by token. Joins model and cache, which never see each other.
//
// One turn: the blocks are tokenised each on its own; the plan says which are reusable; these are looked up by content, the missing ones are encoded
// together and published for everyone; then the rest of the prompt runs over all of it, and tokens are generated. A later turn goes on after the
// earlier ones, whose keys and values stay in the session; its own blocks are placed behind them.
// A hit and a miss take the same path from the encoded block on, so the cache changes time, never text.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "blockattn/cache/block_cache.hpp"
#include "blockattn/generate/attention_plan.hpp"
#include "blockattn/generate/plans/plan_text.hpp"
#include "blockattn/generate/sampler.hpp"
#include "blockattn/generate/stop_strings.hpp"
#include "blockattn/model/model.hpp"
#include "blockattn/text/stream_decoder.hpp"

namespace blockattn::inline v0 {

enum class finish_reason {
  end,          ///< the model ended its answer
  length,       ///< max_tokens, or the model's context, was reached
  stop_string,  ///< a stop string appeared; it isn't part of the text
  cancelled     ///< the caller ended it; the text so far stands
};

[[nodiscard]] constexpr std::string_view name(finish_reason reason) {
  switch (reason) {
    case finish_reason::end: return "end";
    case finish_reason::length: return "length";
    case finish_reason::stop_string: return "stop_string";
    case finish_reason::cancelled: return "cancelled";
  }
  return "?";
}

struct generation_options {
  index_t max_tokens = 256;
  sampling_options sampling;
  std::vector<std::string> stop;
  attention_plan plan;
  progress_callback progress;       ///< of the prefill: prompt tokens done (reused ones at once), of all; false cancels
  std::function<bool()> cancelled;  ///< asked between layers and tokens; true cancels
};

struct generation_result {
  std::string text;
  std::vector<token_id> ids;  ///< generated tokens, without the end token
  index_t prompt_tokens = 0;  ///< of this turn
  block_counts blocks;
  index_t block_bytes = 0;  ///< of the blocks that the prompt reads, each counted once
  index_t operations = 0;  ///< floating-point operations up to the prompt's logits: matrix products and attention
  double ttft_ms = 0;            ///< from the call to the first token, tokenising and cache look-ups included
  double prefill_ms = 0;         ///< of that, until the prompt's logits stood
  double tokens_per_second = 0;  ///< of the tokens after the first; 0 if there are none
  finish_reason reason = finish_reason::length;
};

/// Takes a piece of the answer, whole UTF-8 characters only. False ends the answer.
using text_callback = std::function<bool(std::string_view)>;

/// One conversation. Not thread-safe itself; any number of sessions share a model and a cache.
class session {
 public:
  /// `cache` is shared with other sessions; without one the session keeps a private cache of 256 MiB.
  explicit session(model m, std::shared_ptr<block_cache> cache = nullptr)
      : model_(std::move(m)),
        cache_(cache != nullptr ? std::move(cache) : std::make_shared<block_cache>(std::size_t{256} << 20, model_.log())),
        tail_(model_.make_tail()) {}

  /// One turn: `blocks` in order, the last being the final block. Streams the answer to `on_text` and returns it.
  /// Throws argument_error (no blocks, an empty block, bad options) and context_error (prompt longer than the context: says both numbers); the
  /// session is then as it was before. A cancelled prefill gives reason `cancelled` and no text, and the session is as it was before, too.
  generation_result generate(std::span<const text_block> blocks, const generation_options& options = {}, const text_callback& on_text = {}) {
    const auto start = clock::now();
    if (options.max_tokens < 0) throw argument_error(cat("[session] max_tokens is ", options.max_tokens, "; allowed: 0 or more"));
    sampler pick(options.sampling);
    stop_strings stops(options.stop);
    generation_result result;
    std::vector<float> logits;
    try {
      logits = prefill(blocks, options.plan, {options.progress, options.cancelled}, result);
    } catch (const cancelled_error&) {
      result.reason = finish_reason::cancelled;
      return result;
    }
    result.prefill_ms = result.ttft_ms = milliseconds_since(start);
    decode(std::move(logits), options, pick, stops, on_text, start, result);
    return result;
  }

  /// A question over passages, by the model's own chat template: the system message and each passage are blocks. Best passage last.
  generation_result ask(std::string_view system, const std::vector<std::string>& passages, std::string_view question, const generation_options& options = {},
                        const text_callback& on_text = {}) {
    return generate(model_.chat().rag(system, passages, question), options, on_text);
  }

  /// The next answer of a conversation, by the model's own chat template: `messages` are all of it, the last one to be answered. What the session holds of it already
  /// isn't run again. If the template writes the earlier messages differently now (some leave out an answer's thoughts), or the session holds something else, it begins
  /// anew, and says so to the log.
  generation_result chat(const std::vector<chat_message>& messages, const generation_options& options = {}, const text_callback& on_text = {}) {
    const chat_template form = model_.chat();
    const bool empty = position() == 0;
    auto blocks = !empty && position() == held_to_ ? form.extend(messages, held_) : std::nullopt;
    if (!blocks) {
      blocks = form.messages(messages);
      if (!empty) blockattn::log(model_.log(), log_level::warning, "[session] the conversation isn't a continuation of what the session holds, as the chat template writes it: it begins anew");
      if (!empty) reset();
    }
    const index_t before = position();
    generation_result result = generate(*blocks, options, on_text);
    if (position() == before) return result;  // cancelled before the prompt stood
    for (const text_block& block : *blocks) held_ += block.text();
    held_ += model_.vocabulary().decode(result.ids, true);
    held_to_ = position();
    return result;
  }

  /// Logits [V] of the token after the prompt. The session then holds the prompt, as after a turn with max_tokens = 0.
  std::vector<float> logits(std::span<const text_block> blocks, const attention_plan& plan = {}) {
    generation_result ignored;
    return prefill(blocks, plan, {}, ignored);
  }

  /// The same for blocks that are token ids already. What is known of the prefill but not of time goes to `result`, if it is given.
  std::vector<float> logits_of_ids(const std::vector<std::vector<token_id>>& blocks, const attention_plan& plan = {}, generation_result* result = nullptr) {
    generation_result ignored;
    return prefill_ids(blocks, plan, {}, result != nullptr ? *result : ignored);
  }

  /// Tokens that the session holds: the position of the next one.
  [[nodiscard]] index_t position() const { return position_ + static_cast<index_t>(pending_.size()); }

  /// Forgets the conversation; cached blocks stay in the cache.
  void reset() {
    tail_ = model_.make_tail();
    placed_.clear();
    history_.clear();
    pending_.clear();
    position_ = 0;
    held_.clear();
    held_to_ = 0;
    turn_ = 0;
  }

  [[nodiscard]] const model& get_model() const { return model_; }
  [[nodiscard]] block_cache& cache() const { return *cache_; }

 private:
  using clock = std::chrono::steady_clock;

  [[nodiscard]] static double milliseconds_since(clock::time_point start) {
    return std::chrono::duration<double, std::milli>(clock::now() - start).count();
  }

  std::vector<float> prefill(std::span<const text_block> blocks, const attention_plan& plan, const forward_control& control, generation_result& result) {
    std::vector<std::vector<token_id>> ids;
    ids.reserve(blocks.size());
    for (const text_block& block : blocks) ids.push_back(model_.vocabulary().encode(block));
    const auto bos = model_.vocabulary().bos();
    const bool written = !ids.empty() && !ids.front().empty() && ids.front().front() == bos;  // chat templates often write it themselves
    if (position() == 0 && !ids.empty() && model_.vocabulary().adds_bos() && bos && !written) ids.front().insert(ids.front().begin(), *bos);
    return prefill_ids(ids, plan, control, result, blocks.empty() ? 0 : closing_tokens(blocks.back(), ids.back()));
  }

  /// Tokens at the end of the final block that are markup: what ends the user's turn and opens the answer.
  [[nodiscard]] index_t closing_tokens(const text_block& block, const std::vector<token_id>& ids) const {
    text_block words = block;
    while (!words.pieces.empty() && words.pieces.back().markup) words.pieces.pop_back();
    const std::vector<token_id> before = words.pieces.empty() ? std::vector<token_id>() : model_.vocabulary().encode(words);
    const bool begins_so = before.size() < ids.size() && std::equal(before.begin(), before.end(), ids.begin());
    return begins_so && !before.empty() ? static_cast<index_t>(ids.size() - before.size()) : 0;
  }

  /// The first turn under a plan that is a method: everything is made anew, and taken over once it stands.
  std::vector<float> prefill_by_method(const std::vector<std::vector<token_id>>& blocks, const attention_plan& plan, const forward_control& control, index_t closing,
                                       generation_result& result) {
    if (position() > 0)
      throw argument_error(cat("[session] plan ", plan.name(), " lays out a whole prompt; this session holds ", position(), " tokens of earlier turns. Take full or block, or reset()."));
    check_plan(plan, model_.config());
    prompt_run run(model_, *cache_, blocks, plan.reusable(static_cast<index_t>(blocks.size())), closing, control);
    std::visit(
        [&]<class Method>(const Method& method) {
          if constexpr (!std::is_same_v<Method, std::monostate>) method.prefill(run);
        },
        plan.method);
    result.blocks = run.counts();
    result.block_bytes = run.copied_bytes();
    tail_ = std::move(run.tail());
    placed_ = std::move(run.placed());
    position_ = run.position();
    turn_ = run.turn();
    for (const auto& block : blocks) history_.insert(history_.end(), block.begin(), block.end());
    return std::move(run.logits());
  }

  /// Where RoPE places `count` tokens from `position` on; empty: at their positions.
  [[nodiscard]] std::vector<double> rotations(index_t position, std::size_t count) const {
    std::vector<double> result;
    for (std::size_t t = 0; turn_ != 0 && t < count; ++t) result.push_back(static_cast<double>(position + static_cast<index_t>(t)) + turn_);
    return result;
  }

  /// Brings the prompt into the session and returns the logits after it. Strong guarantee.
  std::vector<float> prefill_ids(const std::vector<std::vector<token_id>>& blocks, const attention_plan& plan, const forward_control& given,
                                 generation_result& result, index_t closing = 0) {
    operation_counter operations{0};
    forward_control control = given;
    control.operations = &operations;
    std::vector<float> logits = with_room([&] {
      return plan.is_method() ? prefill_by_method(checked(blocks, result), plan, control, closing, result) : prefill_blocks(blocks, plan, control, result);
    });
    result.operations = operations;
    std::vector<const kv_block*> read;
    for (const placed_block& placed : placed_)
      if (std::find(read.begin(), read.end(), placed.block.get()) == read.end()) read.push_back(placed.block.get());
    result.block_bytes = std::accumulate(read.begin(), read.end(), result.block_bytes, [](index_t sum, const kv_block* block) { return sum + block->bytes(); });
    return logits;
  }

  std::vector<float> prefill_blocks(const std::vector<std::vector<token_id>>& blocks, const attention_plan& plan, const forward_control& control,
                                    generation_result& result) {
    const index_t total = check_prompt(blocks);
    result.prompt_tokens = total;
    const index_t reusable = plan.reusable(static_cast<index_t>(blocks.size()));
    if (reusable > 0 && turn_ != 0) throw argument_error("[session] passages in a later turn of a session whose first turn had moved positions; give none, or reset()");
    std::vector<token_id> rest = pending_;  // sampled in the last turn, not yet run
    std::vector<placed_block> added;
    index_t next = position() - static_cast<index_t>(pending_.size());
    const index_t kept_tail = tail_.tokens();
    const auto kept_blocks = placed_.size();
    try {
      if (reusable > 0 && !rest.empty()) {
        const std::vector<double> turned = rotations(next, rest.size());
        (void)model_.forward({rest, next, placed_, hidden_rows::none, turned}, tail_, {{}, control.cancelled, control.operations});
        next += static_cast<index_t>(rest.size());
        rest.clear();
      }
      const auto own = std::span(blocks).first(static_cast<std::size_t>(reusable));
      added = take_blocks(own, control, total, next, plan.rotate, result.blocks);
      placed_.insert(placed_.end(), added.begin(), added.end());
      for (const placed_block& b : added) next += b.block->tokens();
      for (std::size_t i = static_cast<std::size_t>(reusable); i < blocks.size(); ++i) rest.insert(rest.end(), blocks[i].begin(), blocks[i].end());
      const std::vector<double> turned = rotations(next, rest.size());
      const matrix hidden = model_.forward({rest, next, placed_, hidden_rows::last, turned}, tail_, shifted(control, total - static_cast<index_t>(rest.size()), total));
      std::vector<float> logits = model_.logits(hidden, control.operations);
      position_ = next + static_cast<index_t>(rest.size());
      pending_.clear();
      for (const auto& block : blocks) history_.insert(history_.end(), block.begin(), block.end());
      return logits;
    } catch (...) {
      tail_.truncate(kept_tail);
      placed_.resize(kept_blocks);
      throw;
    }
  }

  /// Tokens of the prompt; throws if there are none or a block is empty.
  [[nodiscard]] static index_t count_tokens(const std::vector<std::vector<token_id>>& blocks) {
    if (blocks.empty()) throw argument_error("[session] a prompt without blocks; give at least the final block");
    index_t total = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (blocks[i].empty()) throw argument_error(cat("[session] block ", i, " of ", blocks.size(), " is empty; leave it out or give it text"));
      total += static_cast<index_t>(blocks[i].size());
    }
    return total;
  }

  /// The blocks themselves; what fits is decided by the plan's positions.
  [[nodiscard]] static const std::vector<std::vector<token_id>>& checked(const std::vector<std::vector<token_id>>& blocks, generation_result& result) {
    result.prompt_tokens = count_tokens(blocks);
    return blocks;
  }

  /// Tokens of the prompt; throws if there are none, a block is empty, or they don't fit.
  [[nodiscard]] index_t check_prompt(const std::vector<std::vector<token_id>>& blocks) const {
    const index_t total = count_tokens(blocks);
    const index_t context = model_.config().context_length;
    if (position() + total > context)
      throw context_error(cat("[session] the prompt has ", total, " tokens", position() > 0 ? cat(" after ", position(), " of earlier turns") : "",
                              "; the model's context has ", context, ". Give fewer or shorter passages."));
    return total;
  }

  /// Progress of a part of the prompt as progress of the whole.
  [[nodiscard]] static forward_control shifted(const forward_control& control, index_t done, index_t total) {
    forward_control result = control;
    result.progress = {};
    if (control.progress)
      result.progress = [done, total, inner = control.progress](std::int64_t part, std::int64_t) { return inner(std::min<index_t>(done + part, total), total); };
    return result;
  }

  /// Finds or encodes the blocks and places them one after the other from `offset` on.
  std::vector<placed_block> take_blocks(std::span<const std::vector<token_id>> blocks, const forward_control& control, index_t total, index_t offset,
                                        rotation rotate, block_counts& counts) {
    const auto encoded = find_or_encode(blocks, control, total, counts);
    std::vector<placed_block> placed;
    for (const auto& block : encoded) {
      if (rotate == rotation::keys && offset > 0)
        placed.push_back({model_.moved(*block, offset), offset, true});
      else
        placed.push_back({block, offset, false});
      offset += block->tokens();
    }
    return placed;
  }

  /// Every reservation is made before anything is encoded, and everything of our own is published before anyone else is waited for: two sessions that need
  /// each other's blocks can't wait in a circle.
  std::vector<std::shared_ptr<const kv_block>> find_or_encode(std::span<const std::vector<token_id>> blocks, const forward_control& control, index_t total,
                                                              block_counts& counts) {
    std::vector<block_cache::reservation> reservations;
    if (blocks.empty()) return {};
    const fingerprint128& fingerprint = model_.fingerprint();
    cache_->introduce(fingerprint, model_.identity());
    for (const auto& ids : blocks) reservations.push_back(cache_->reserve(make_block_key(fingerprint, ids)));
    fetch_from_tiers(reservations);
    std::vector<std::size_t> own;
    index_t done = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (reservations[i].owner())
        own.push_back(i);
      else
        done += static_cast<index_t>(blocks[i].size());
    }
    encode_all(blocks, own, control, done, total, reservations);
    counts.encoded = static_cast<index_t>(own.size());
    std::vector<std::shared_ptr<const kv_block>> result;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      result.push_back(wait_or_encode(reservations[i], blocks[i], control, counts));
    }
    counts.total = static_cast<index_t>(blocks.size());
    counts.reused = counts.total - counts.encoded;
    return result;
  }

  /// Blocks that lie in a tier below the cache needn't be encoded. One task each, since a block is read whole when it is verified. Isolated as encoding is.
  void fetch_from_tiers(std::vector<block_cache::reservation>& reservations) {
    if (cache_->tiers().empty()) return;
    const auto fetch_one = [&](index_t i) { (void)cache_->fetch(reservations[static_cast<std::size_t>(i)], model_.kv()); };
    oneapi::tbb::this_task_arena::isolate([&] { parallel_tasks(static_cast<index_t>(reservations.size()), fetch_one); });
  }

  void encode_all(std::span<const std::vector<token_id>> blocks, const std::vector<std::size_t>& own, const forward_control& control, index_t done,
                  index_t total, std::vector<block_cache::reservation>& reservations) {
    if (own.empty()) {
      if (control.progress && done > 0 && !control.progress(done, total)) throw cancelled_error("[session] cancelled by the progress callback");
      return;
    }
    std::vector<std::span<const token_id>> missing;
    for (const std::size_t at : own) missing.emplace_back(blocks[at]);
    const auto publish = [&](std::size_t i, std::shared_ptr<const kv_block> block) { reservations[own[i]].publish(std::move(block)); };
    // Inside a team this thread picks up no other request's work, which might wait for one of these blocks.
    with_team([&] { model_.encode(missing, publish, shifted(control, done, total)); });
  }

  std::shared_ptr<const kv_block> wait_or_encode(block_cache::reservation& r, const std::vector<token_id>& ids, const forward_control& control,
                                                 block_counts& counts) {
    while (r.waiting() && !r.wait_for(std::chrono::milliseconds(20)))
      if (control.cancelled && control.cancelled()) throw cancelled_error("[session] cancelled by the caller");
    if (r.owner()) {  // whoever was to encode it gave up
      r.publish(with_team([&] { return model_.encode(ids, {{}, control.cancelled, control.operations}); }));
      ++counts.encoded;
    }
    return r.block();
  }

  void decode(std::vector<float> logits, const generation_options& options, sampler& pick, stop_strings& stops, const text_callback& on_text,
              clock::time_point start, generation_result& result) {
    stream_decoder text(model_.vocabulary());
    clock::time_point first{};
    const index_t room = model_.config().context_length - position();
    const index_t limit = std::min(options.max_tokens, room + 1);
    matrix hidden;  // after the last token; of the prompt, `logits` are known
    bool open = true;
    result.reason = finish_reason::length;
    while (open && static_cast<index_t>(result.ids.size()) < limit) {
      if (options.cancelled && options.cancelled()) {
        result.reason = finish_reason::cancelled;
        break;
      }
      const token_id id = hidden.size() == 0 ? pick.sample(logits, history_) : choose(hidden, pick);
      if (result.ids.empty()) {
        first = clock::now();
        result.ttft_ms = milliseconds_since(start);
      }
      if (model_.vocabulary().ends_generation(id)) {
        result.reason = finish_reason::end;
        break;
      }
      result.ids.push_back(id);
      history_.push_back(id);
      pending_.assign(1, id);
      const std::string piece = stops.push(text.push(id));
      open = emit(piece, stops.stopped(), on_text, result);
      if (!open || static_cast<index_t>(result.ids.size()) == limit) break;
      hidden = step();
    }
    if (open) {  // what was held back: half a character, or the beginning of a stop string
      std::string rest = stops.push(text.finish());
      rest += stops.finish();
      (void)emit(rest, stops.stopped(), on_text, result);
    }
    const double seconds = milliseconds_since(first) / 1000;
    if (result.ids.size() > 1) result.tokens_per_second = static_cast<double>(result.ids.size() - 1) / seconds;
  }

  /// Runs the pending token; returns its hidden state.
  matrix step() {
    const std::vector<double> turned = rotations(position_, pending_.size());
    matrix hidden = with_room([&] { return with_team([&] { return model_.forward({pending_, position_, placed_, hidden_rows::last, turned}, tail_); }); });
    position_ += static_cast<index_t>(pending_.size());
    pending_.clear();
    return hidden;
  }

  /// The token after a hidden state. A GPU picks the logits out that the choice needs; else all of them are looked at.
  token_id choose(const matrix& hidden, sampler& pick) const {
    const index_t vocabulary = model_.config().vocabulary;
    if (model_.on_gpu())
      if (const auto request = pick.request(history_, vocabulary))
        if (const auto highest = model_.highest(hidden, *request)) return pick.sample_from(*highest, vocabulary);
    std::vector<float> logits = with_team([&] { return model_.logits(hidden); });
    return pick.sample(logits, history_);
  }

  /// Work that may find a GPU's memory full, and has then changed nothing: cached blocks make room, first as much as is missing, then all that aren't pinned.
  template <class Work>
  std::invoke_result_t<const Work&> with_room(const Work& work) {
    for (int attempt = 0;; ++attempt) {
      try {
        return work();
      } catch (const cuda_memory_error& full) {
        if (attempt == 2 || cache_->release(attempt == 0 ? full.needed_bytes : std::numeric_limits<std::size_t>::max()) == 0) throw;
      }
    }
  }

  /// Hands text on; false if the answer ends here.
  static bool emit(const std::string& piece, bool stopped, const text_callback& on_text, generation_result& result) {
    result.text += piece;
    const bool more = piece.empty() || !on_text || on_text(piece);
    if (stopped) result.reason = finish_reason::stop_string;
    if (!more && !stopped) result.reason = finish_reason::cancelled;
    return more && !stopped;
  }

  model model_;
  std::shared_ptr<block_cache> cache_;
  kv_tail tail_;
  std::vector<placed_block> placed_;
  std::vector<token_id> history_;  ///< all tokens so far, for the repetition penalty
  std::vector<token_id> pending_;  ///< sampled, but not yet run through the model
  double turn_ = 0;                ///< RoPE places the token at position p at p + turn_
  index_t position_ = 0;           ///< of the first token that isn't in tail or blocks yet
  std::string held_;               ///< text of what chat() brought into the session, answers included
  index_t held_to_ = 0;            ///< position() then
};

}  // namespace blockattn::inline v0
