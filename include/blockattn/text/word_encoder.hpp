// Words to token ids: the inner loop of a tokenizer, and the tables that it looks into.
#pragma once

#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/shape.hpp"
#include "blockattn/text/bpe.hpp"
#include "blockattn/text/fixed_texts.hpp"
#include "blockattn/text/tokenizer_parts.hpp"
#include "blockattn/text/unigram.hpp"

namespace blockattn::inline v0::detail {

/// A tokenizer's parts and what is built on them, once: members refer to each other, so they stay where they are.
struct tokenizer_state {
  explicit tokenizer_state(tokenizer_parts&& p)
      : parts(std::move(p)), fixed(std::move(parts.fixed)), fixed_normalized(std::move(parts.fixed_normalized)),
        direct(std::make_unique<std::atomic<std::uint8_t>[]>(static_cast<std::size_t>(parts.tokens.size()))) {
    if (parts.model == word_model::score_bpe) scored.emplace(parts.tokens, parts.scores);
    if (parts.model == word_model::unigram) best.emplace(parts.tokens, parts.scores);
    if (parts.model != word_model::byte_bpe) neighbours = std::make_unique<std::bitset<256 * 256>>(parts.tokens.neighbours());
    for (unsigned char c = 0; c < 128; ++c) {
      const char character = static_cast<char>(c);
      ascii[c] = parts.tokens.find({&character, 1});
    }
  }
  tokenizer_state(const tokenizer_state&) = delete;
  tokenizer_state& operator=(const tokenizer_state&) = delete;

  tokenizer_parts parts;
  fixed_texts fixed, fixed_normalized;
  std::optional<score_merges> scored;
  std::optional<unigram> best;
  std::unique_ptr<std::bitset<256 * 256>> neighbours;  // which two bytes occur side by side in a token
  std::array<token_id, 128> ascii{};
  /// [V] whether merging the token's own bytes gives the token: 0 not known yet, 1 yes, 2 no. Found when it is first asked for.
  std::unique_ptr<std::atomic<std::uint8_t>[]> direct;
};

/// Encodes words; keeps its memory between them. One object a thread.
class word_encoder {
 public:
  word_encoder(const tokenizer_state& s, std::vector<token_id>& out) : state_(&s), parts_(&s.parts), by_rank_(s.parts.merges), out_(&out) {
    if (s.scored) by_score_.emplace(*s.scored);
  }

  void operator()(std::string_view word) {
    last_unknown_ = false;
    if (state_->neighbours == nullptr) return piece(word);
    // No token has these two bytes side by side, so none lies across: what is left and right of here is independent.
    std::size_t begin = 0;
    for (std::size_t at = 1; at < word.size(); ++at) {
      const std::size_t pair = static_cast<unsigned char>(word[at - 1]) * 256U + static_cast<unsigned char>(word[at]);
      if ((*state_->neighbours)[pair] || !starts_character(word, at)) continue;
      piece(word.substr(begin, at - begin));
      begin = at;
    }
    piece(word.substr(begin));
  }

 private:
  void piece(std::string_view word) {
    if (word.size() >= pair_merge::none)
      throw argument_error(cat("[tokenizer] a word of ", word.size(), " bytes; allowed: less than 4 GiB without a cut"));
    if (state_->best) return emit(state_->best->segment(word, unigram_), word);
    const token_id id = parts_->tokens.find(word);
    std::uint8_t known = 0;
    if (id >= 0) {
      known = parts_->whole_words ? std::uint8_t{1} : state_->direct[static_cast<std::size_t>(id)].load(std::memory_order_relaxed);
      if (known == 1) return push(id);
    }
    const std::span<const merge_symbol> merged = merge(word);
    if (id >= 0 && known == 0)
      state_->direct[static_cast<std::size_t>(id)].store(merged.size() == 1 && merged[0].id == id ? 1 : 2, std::memory_order_relaxed);
    emit(merged, word);
  }

  [[nodiscard]] std::span<const merge_symbol> merge(std::string_view word) {
    std::vector<merge_symbol>& symbols = by_score_ ? by_score_->symbols() : by_rank_.symbols();
    symbols.clear();
    if (parts_->model == word_model::byte_bpe) {
      for (std::uint32_t i = 0; i < word.size(); ++i)
        if (const token_id id = parts_->byte_tokens[static_cast<unsigned char>(word[i])]; id >= 0) symbols.push_back({id, i, i + 1});
    } else {
      for (std::uint32_t at = 0; at < word.size();) {
        const auto end = at + static_cast<std::uint32_t>(character_at(word, at).length);
        const auto first = static_cast<unsigned char>(word[at]);
        symbols.push_back({first < 128 ? state_->ascii[first] : parts_->tokens.find(word.substr(at, end - at)), at, end});
        at = end;
      }
    }
    return by_score_ ? by_score_->merge(word) : by_rank_.merge(word);
  }

  void emit(std::span<const merge_symbol> symbols, std::string_view word) {
    for (const merge_symbol& s : symbols) {
      if (s.id >= 0) push(s.id);
      else unknown(word.substr(s.begin, s.end - s.begin));
    }
  }

  void push(token_id id) {
    out_->push_back(id);
    last_unknown_ = false;
  }

  /// A character that is no token: its bytes, if each of them is one.
  void unknown(std::string_view character) {
    bool bytes = true;
    for (const char c : character) bytes = bytes && parts_->byte_tokens[static_cast<unsigned char>(c)] >= 0;
    if (bytes) {
      for (const char c : character) push(parts_->byte_tokens[static_cast<unsigned char>(c)]);
    } else if (parts_->unknown >= 0) {
      if (!last_unknown_ || !parts_->fuse_unknown) out_->push_back(parts_->unknown);
      last_unknown_ = true;
    }
  }

  const tokenizer_state* state_;
  const tokenizer_parts* parts_;
  bpe_merger<merge_table> by_rank_;
  std::optional<bpe_merger<score_merges>> by_score_;
  unigram::scratch unigram_;
  std::vector<token_id>* out_;
  bool last_unknown_ = false;
};

}  // namespace blockattn::inline v0::detail
