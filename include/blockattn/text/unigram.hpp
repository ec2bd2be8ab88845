// Unigram segmentation: of all ways to write a word as tokens, the one with the highest sum of scores.
//
// Kudo, "Subword Regularization", 2018. Viterbi's algorithm over positions; a trie gives the tokens that start at each. A
// character that is no token counts as unknown, at 10 below the lowest score.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "blockattn/core/shape.hpp"
#include "blockattn/text/bpe.hpp"
#include "blockattn/text/normalizer.hpp"
#include "blockattn/text/vocabulary.hpp"

namespace blockattn::inline v0 {

/// The trie and the scores of a vocabulary. Immutable: any number of threads may use one object, each with its own scratch.
class unigram {
 public:
  /// Memory of one search, kept between them.
  struct scratch {
    struct step {
      double score = 0;
      std::uint32_t begin = 0;
      token_id id = -1;
    };
    std::vector<step> best;               // [bytes + 1]
    std::vector<merge_symbol> symbols;  // the result
  };

  /// A score for each token of `tokens`; those that find() gives are used.
  unigram(const vocabulary& tokens, std::span<const float> scores) : scores_(scores.begin(), scores.end()), nodes_(1, -1) {
    std::size_t bytes = 0;
    for (token_id id = 0; id < tokens.size(); ++id) bytes += tokens.encodable(id) ? tokens.bytes(id).size() : 0;
    slots_.resize(std::bit_ceil(std::max<std::size_t>(64, bytes / 2)));
    float lowest = 0;
    for (token_id id = 0; id < tokens.size(); ++id) {
      if (!tokens.encodable(id) || tokens.find(tokens.bytes(id)) != id) continue;
      insert(tokens.bytes(id), id);
      lowest = std::min(lowest, scores_[static_cast<std::size_t>(id)]);
    }
    unknown_score_ = static_cast<double>(lowest) - 10;
  }

  /// The best tokens of `word`, which is valid UTF-8; an unknown character has id -1.
  std::span<const merge_symbol> segment(std::string_view word, scratch& s) const {
    if (word.size() >= std::numeric_limits<std::uint32_t>::max())
      throw argument_error(cat("[unigram] a word of ", word.size(), " bytes; allowed: less than 4 GiB without a cut"));
    s.best.assign(word.size() + 1, {-std::numeric_limits<double>::infinity(), 0, -1});
    s.best[0].score = 0;
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t next = at + detail::character_at(word, at).length;
      if (!extend(word, at, next, s)) offer(s.best[next], s.best[at].score + unknown_score_, at, -1);
      at = next;
    }
    s.symbols.clear();
    for (std::size_t end = word.size(); end > 0; end = s.best[end].begin)
      s.symbols.push_back({s.best[end].id, s.best[end].begin, static_cast<std::uint32_t>(end)});
    std::reverse(s.symbols.begin(), s.symbols.end());
    return s.symbols;
  }

 private:
  struct slot {
    std::uint64_t key = 0;  // node * 256 + byte + 1
    std::uint32_t node = 0;
  };

  /// Tokens that start at `at`; whether one of them is the character that ends at `next`.
  [[nodiscard]] bool extend(std::string_view word, std::size_t at, std::size_t next, scratch& s) const {
    bool whole_character = false;
    std::uint32_t node = 0;
    for (std::size_t end = at; end < word.size();) {
      const slot& child = slots_[slot_of(node, static_cast<unsigned char>(word[end]))];
      if (child.key == 0) break;
      node = child.node;
      ++end;
      const token_id id = nodes_[node];
      if (id < 0) continue;
      offer(s.best[end], s.best[at].score + static_cast<double>(scores_[static_cast<std::size_t>(id)]), at, id);
      whole_character = whole_character || end == next;
    }
    return whole_character;
  }

  static void offer(scratch::step& place, double score, std::size_t begin, token_id id) {
    if (score > place.score) place = {score, static_cast<std::uint32_t>(begin), id};
  }

  void insert(std::string_view text, token_id id) {
    std::uint32_t node = 0;
    for (const char c : text) {
      if (nodes_.size() * 4 > slots_.size() * 3) grow();
      slot& child = slots_[slot_of(node, static_cast<unsigned char>(c))];
      if (child.key == 0) {
        child = {key_of(node, static_cast<unsigned char>(c)), static_cast<std::uint32_t>(nodes_.size())};
        nodes_.push_back(-1);
      }
      node = child.node;
    }
    nodes_[node] = id;
  }

  void grow() {
    std::vector<slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const slot& s : old)
      if (s.key != 0) slots_[slot_of(static_cast<std::uint32_t>((s.key - 1) / 256), static_cast<unsigned char>((s.key - 1) % 256))] = s;
  }

  [[nodiscard]] static std::uint64_t key_of(std::uint32_t node, unsigned char byte) { return std::uint64_t{node} * 256 + byte + 1; }

  [[nodiscard]] std::size_t slot_of(std::uint32_t node, unsigned char byte) const {
    const std::uint64_t key = key_of(node, byte);
    const std::size_t mask = slots_.size() - 1;
    auto at = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> 32) & mask;
    while (slots_[at].key != 0 && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }

  std::vector<float> scores_;
  std::vector<slot> slots_;      // open addressing: children by node and byte
  std::vector<token_id> nodes_;  // the token that ends at a node, or -1
  double unknown_score_ = 0;
};

}  // namespace blockattn::inline v0
