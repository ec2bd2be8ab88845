// Byte-pair encoding of one word.
//
// A word starts as one token a byte, or a character; then, again and again, the adjacent pair whose merge has the lowest rank is
// replaced by the merged token, the leftmost one if it occurs more than once, until no pair has a merge. (Sennrich et
// al., "Neural Machine Translation of Rare Words with Subword Units", 2016; over bytes: Radford et al., "Language
// Models are Unsupervised Multitask Learners", 2019.)
//
// In vocabularies, a byte is written as one printable character: the bytes 33..126, 161..172, 174..255 as the character
// of that number, the other 68, in ascending order, as U+0100, U+0101, ... So a space is U+0120.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/text/utf8.hpp"
#include "blockattn/text/vocabulary.hpp"

namespace blockattn::inline v0 {

namespace detail {

/// The character that a vocabulary writes for each byte.
[[nodiscard]] constexpr std::array<char16_t, 256> byte_characters() {
  std::array<char16_t, 256> result{};
  char16_t next = 0x100;
  for (std::size_t byte = 0; byte < result.size(); ++byte) {
    const bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    result[byte] = itself ? static_cast<char16_t>(byte) : next++;
  }
  return result;
}

/// The byte of each character below U+0144, or -1.
[[nodiscard]] constexpr std::array<std::int16_t, 0x144> character_bytes() {
  std::array<std::int16_t, 0x144> result{};
  result.fill(-1);
  const auto characters = byte_characters();
  for (std::size_t byte = 0; byte < characters.size(); ++byte)
    result[characters[byte]] = static_cast<std::int16_t>(byte);
  return result;
}

/// Appends the bytes that a vocabulary's `text` stands for. False (and `out` as it was) if it has a character that is
/// no byte's.
[[nodiscard]] inline bool append_bytes_of(std::string_view text, std::string& out) {
  static constexpr auto bytes = character_bytes();
  const std::size_t before = out.size();
  out.resize(before + text.size());
  char* to = out.data() + before;
  for (std::size_t at = 0; at < text.size(); ++at) {
    auto character = static_cast<std::size_t>(static_cast<unsigned char>(text[at]));
    if (character >= 0x80) {  // all of these characters take two bytes, 110xxxxx 10xxxxxx
      const bool two = (character & 0xE0U) == 0xC0U && at + 1 < text.size() && !starts_character(text, at + 1);
      character = two ? (character & 0x1FU) << 6 | (static_cast<unsigned char>(text[++at]) & 0x3FU) : bytes.size();
    }
    if (character >= bytes.size() || bytes[character] < 0) {
      out.resize(before);
      return false;
    }
    *to++ = static_cast<char>(bytes[character]);
  }
  out.resize(static_cast<std::size_t>(to - out.data()));
  return true;
}

}  // namespace detail

/// A stretch of a word that is one token, or none (-1).
struct merge_symbol {
  token_id id = -1;
  std::uint32_t begin = 0, end = 0;  ///< bytes of the word
};

/// What a pair of neighbours becomes, and when: the lowest rank first.
struct pair_merge {
  static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  std::uint32_t rank = none;
  token_id merged = -1;
};

/// The merges of a vocabulary by pair, ranked in the order in which they were added. Immutable once filled.
class merge_table {
 public:
  /// `expected` merges are about to be added.
  explicit merge_table(std::size_t expected = 0) : slots_(std::bit_ceil(std::max<std::size_t>(16, expected + expected / 2))) {}

  /// Adds a merge of the next rank. False if the pair has one already: the earlier one stays.
  bool add(token_id left, token_id right, token_id merged) {
    slot& place = slots_[slot_of(left, right)];
    if (place.merge.rank != pair_merge::none) return false;
    if (4 * (size_ + 1) > 3 * slots_.size())
      throw argument_error(cat("[bpe] more merges than announced: ", size_ + 1));
    place = {left, right, {static_cast<std::uint32_t>(size_), merged}};
    ++size_;
    return true;
  }

  void prefetch(token_id left, token_id right) const { __builtin_prefetch(&slots_[start_of(left, right)]); }

  /// The pair's merge; of rank `none` if there is none.
  [[nodiscard]] pair_merge find(token_id left, token_id right) const { return slots_[slot_of(left, right)].merge; }
  [[nodiscard]] pair_merge operator()(const merge_symbol& left, const merge_symbol& right, std::string_view) const {
    return find(left.id, right.id);
  }

  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  struct slot {
    token_id left = -1, right = -1;
    pair_merge merge;
  };

  [[nodiscard]] std::size_t start_of(token_id left, token_id right) const {
    const std::uint64_t key =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> 32) & (slots_.size() - 1);
  }

  [[nodiscard]] std::size_t slot_of(token_id left, token_id right) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = start_of(left, right);
    while (slots_[at].merge.rank != pair_merge::none && (slots_[at].left != left || slots_[at].right != right)) at = (at + 1) & mask;
    return at;
  }

  std::vector<slot> slots_;  // open addressing, at most three quarters full
  std::size_t size_ = 0;
};

/// Merges as SentencePiece knows them: neighbours whose joined text is a token become it, the highest score first.
class score_merges {
 public:
  /// A score for each token; none of them NaN. The vocabulary must outlive this object and stay where it is.
  score_merges(const vocabulary& tokens, std::span<const float> scores) : tokens_(&tokens) {
    ranks_.reserve(scores.size());
    for (const float score : scores) {
      const auto bits = std::bit_cast<std::uint32_t>(score == 0 ? 0.0F : score);
      ranks_.push_back((bits >> 31) != 0 ? bits : 0x7FFFFFFFU - bits);  // falls where the score rises
    }
  }

  [[nodiscard]] pair_merge operator()(const merge_symbol& left, const merge_symbol& right, std::string_view word) const {
    if (left.id < 0 || right.id < 0) return {};
    const token_id merged = tokens_->find(word.substr(left.begin, right.end - left.begin));
    return merged < 0 ? pair_merge{} : pair_merge{ranks_[static_cast<std::size_t>(merged)], merged};
  }

 private:
  const vocabulary* tokens_;
  std::vector<std::uint32_t> ranks_;  // [V]
};

/// Merges the symbols of one word. Keeps its memory between words: one object a thread.
/// Pairs: pair_merge operator()(left, right, word).
template <class Pairs>
class bpe_merger {
 public:
  explicit bpe_merger(const Pairs& pairs) : pairs_(&pairs) {}

  /// The symbols that the next merge() starts from: fill them, in the order of the word.
  [[nodiscard]] std::vector<merge_symbol>& symbols() { return symbols_; }

  /// Merges them until no pair is left that can be; what is left, in order. Time n log n.
  std::span<const merge_symbol> merge(std::string_view word) {
    if (symbols_.size() >= none)
      throw argument_error(cat("[bpe] a word of ", symbols_.size(), " symbols; allowed: less than 4 Gi without a cut"));
    word_ = word;
    merges_.resize(symbols_.size());
    for (std::size_t i = 0; i + 1 < symbols_.size(); ++i) merges_[i] = (*pairs_)(symbols_[i], symbols_[i + 1], word);
    if (!symbols_.empty()) merges_.back() = {};
    if (symbols_.size() <= short_word) merge_short();
    else merge_long();
    return symbols_;
  }

 private:
  static constexpr std::uint32_t none = pair_merge::none;
  static constexpr std::size_t short_word = 48;  // below, looking at all ranks each time is faster than a heap

  /// merges_[i] is that of the pair (symbols_[i], symbols_[i + 1]).
  void merge_short() {
    while (symbols_.size() > 1) {
      const auto best = std::min_element(merges_.begin(), merges_.end(), [](const pair_merge& a, const pair_merge& b) { return a.rank < b.rank; });
      if (best->rank == none) return;
      const auto at = static_cast<std::size_t>(best - merges_.begin());
      symbols_[at] = {best->merged, symbols_[at].begin, symbols_[at + 1].end};
      symbols_.erase(symbols_.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      merges_.erase(merges_.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      merges_[at] = at + 1 < symbols_.size() ? (*pairs_)(symbols_[at], symbols_[at + 1], word_) : pair_merge{};
      if (at > 0) merges_[at - 1] = (*pairs_)(symbols_[at - 1], symbols_[at], word_);
    }
  }

  /// A heap of (rank, position) over a linked list. An entry whose pair is gone has another rank than its position has
  /// now.
  void merge_long() {
    const auto size = static_cast<std::uint32_t>(symbols_.size());
    next_.resize(size);
    previous_.resize(size);
    heap_.clear();
    for (std::uint32_t i = 0; i < size; ++i) {
      next_[i] = i + 1;
      previous_[i] = i - 1;  // 0 has no previous one: wraps around to `none`
      if (merges_[i].rank != none) heap_.push_back(entry(i));
    }
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>{});
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>{});
      const std::uint64_t top = heap_.back();
      heap_.pop_back();
      const auto at = static_cast<std::uint32_t>(top);
      if (merges_[at].rank == static_cast<std::uint32_t>(top >> 32)) merge_at(at, size);
    }
    std::size_t kept = 0;
    for (std::uint32_t i = 0; i < size; i = next_[i]) symbols_[kept++] = symbols_[i];
    symbols_.resize(kept);
  }

  void merge_at(std::uint32_t at, std::uint32_t size) {
    const std::uint32_t gone = next_[at];
    symbols_[at] = {merges_[at].merged, symbols_[at].begin, symbols_[gone].end};
    merges_[gone] = {};
    next_[at] = next_[gone];
    if (next_[at] < size) previous_[next_[at]] = at;
    update(at, size);
    if (previous_[at] != none) update(previous_[at], size);
  }

  /// The pair that starts at `at` has changed.
  void update(std::uint32_t at, std::uint32_t size) {
    merges_[at] = next_[at] < size ? (*pairs_)(symbols_[at], symbols_[next_[at]], word_) : pair_merge{};
    if (merges_[at].rank == none) return;
    heap_.push_back(entry(at));
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>{});
  }

  [[nodiscard]] std::uint64_t entry(std::uint32_t at) const {
    return static_cast<std::uint64_t>(merges_[at].rank) << 32 | at;
  }

  const Pairs* pairs_;
  std::string_view word_;
  std::vector<merge_symbol> symbols_;
  std::vector<pair_merge> merges_;
  std::vector<std::uint32_t> next_, previous_;
  std::vector<std::uint64_t> heap_;
};

}  // namespace blockattn::inline v0
