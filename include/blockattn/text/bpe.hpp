// Byte-level byte-pair encoding of one word.
//
// A word starts as one token a byte; then, again and again, the adjacent pair whose merge has the lowest rank is
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
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/text/utf8.hpp"

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
    out += static_cast<char>(bytes[character]);
  }
  return true;
}

/// A well mixed 64-bit number of some bytes; equal on all machines of one byte order.
[[nodiscard]] inline std::uint64_t mix_bytes(std::string_view bytes) {
  std::uint64_t hash = 0x9E3779B97F4A7C15U ^ bytes.size();
  const auto add = [&](std::uint64_t word) {
    hash = (hash ^ word) * 0xBF58476D1CE4E5B9U;
    hash ^= hash >> 29;
  };
  std::size_t at = 0;
  std::uint64_t word = 0;
  for (; at + sizeof(word) <= bytes.size(); at += sizeof(word)) {
    std::memcpy(&word, bytes.data() + at, sizeof(word));
    add(word);
  }
  word = 0;
  if (at < bytes.size()) std::memcpy(&word, bytes.data() + at, bytes.size() - at);
  add(word);
  return hash ^ (hash >> 32);
}

}  // namespace detail

/// The merges of a vocabulary by pair, ranked in the order in which they were added. Immutable once filled.
class merge_table {
 public:
  using rank_type = std::uint32_t;
  static constexpr rank_type none = std::numeric_limits<rank_type>::max();

  /// `expected` merges are about to be added.
  explicit merge_table(std::size_t expected = 0) : slots_(std::bit_ceil(std::max<std::size_t>(16, expected * 2))) {
    merged_.reserve(expected);
  }

  /// Adds a merge of the next rank. False if the pair has one already: the earlier one stays.
  bool add(token_id left, token_id right, token_id merged) {
    slot& place = find(left, right);
    if (place.rank != none) return false;
    if (2 * (merged_.size() + 1) > slots_.size())
      throw argument_error(cat("[bpe] more merges than announced: ", merged_.size() + 1));
    place = {left, right, static_cast<rank_type>(merged_.size())};
    merged_.push_back(merged);
    return true;
  }

  /// The rank of the pair's merge; `none` if there is none.
  [[nodiscard]] rank_type rank(token_id left, token_id right) const {
    return const_cast<merge_table&>(*this).find(left, right).rank;
  }

  /// The token that the merge of that rank gives.
  [[nodiscard]] token_id merged(rank_type rank) const { return merged_[rank]; }

  [[nodiscard]] std::size_t size() const { return merged_.size(); }

 private:
  struct slot {
    token_id left = -1, right = -1;
    rank_type rank = none;
  };

  [[nodiscard]] slot& find(token_id left, token_id right) {
    const std::uint64_t key =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
    const std::size_t mask = slots_.size() - 1;
    auto at = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> 32) & mask;
    while (slots_[at].rank != none && (slots_[at].left != left || slots_[at].right != right)) at = (at + 1) & mask;
    return slots_[at];
  }

  std::vector<slot> slots_;  // open addressing, at most half full
  std::vector<token_id> merged_;
};

/// Merges the tokens of one word. Keeps its memory between words: one object a thread.
class bpe_merger {
 public:
  explicit bpe_merger(const merge_table& merges) : merges_(&merges) {}

  /// Appends to `out` what `tokens` (one a byte) are merged into. Time n log n.
  void merge(std::span<const token_id> tokens, std::vector<token_id>& out) {
    if (tokens.size() >= none)
      throw argument_error(cat("[bpe] a word of ", tokens.size(), " bytes; allowed: less than 4 GiB without a cut"));
    tokens_.assign(tokens.begin(), tokens.end());
    ranks_.resize(tokens.size());
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) ranks_[i] = merges_->rank(tokens_[i], tokens_[i + 1]);
    if (!tokens.empty()) ranks_.back() = none;
    if (tokens.size() <= short_word) {
      merge_short();
      out.insert(out.end(), tokens_.begin(), tokens_.end());
    } else {
      merge_long(out);
    }
  }

 private:
  using rank_type = merge_table::rank_type;
  static constexpr rank_type none = merge_table::none;
  static constexpr std::size_t short_word = 48;  // below, looking at all ranks each time is faster than a heap

  /// ranks_[i] is that of the pair (tokens_[i], tokens_[i + 1]).
  void merge_short() {
    while (tokens_.size() > 1) {
      const auto best = std::min_element(ranks_.begin(), ranks_.end());
      if (*best == none) return;
      const auto at = static_cast<std::size_t>(best - ranks_.begin());
      tokens_[at] = merges_->merged(*best);
      tokens_.erase(tokens_.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      ranks_.erase(ranks_.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      ranks_[at] = at + 1 < tokens_.size() ? merges_->rank(tokens_[at], tokens_[at + 1]) : none;
      if (at > 0) ranks_[at - 1] = merges_->rank(tokens_[at - 1], tokens_[at]);
    }
  }

  /// A heap of (rank, position) over a linked list. An entry whose pair is gone has another rank than its position has
  /// now.
  void merge_long(std::vector<token_id>& out) {
    const auto size = static_cast<std::uint32_t>(tokens_.size());
    next_.resize(size);
    previous_.resize(size);
    heap_.clear();
    for (std::uint32_t i = 0; i < size; ++i) {
      next_[i] = i + 1;
      previous_[i] = i - 1;  // 0 has no previous one: wraps around to `none`
      if (ranks_[i] != none) heap_.push_back(entry(i));
    }
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>{});
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>{});
      const std::uint64_t top = heap_.back();
      heap_.pop_back();
      const auto at = static_cast<std::uint32_t>(top);
      if (ranks_[at] == static_cast<rank_type>(top >> 32)) merge_at(at, size);
    }
    for (std::uint32_t i = 0; i < size; i = next_[i]) out.push_back(tokens_[i]);
  }

  void merge_at(std::uint32_t at, std::uint32_t size) {
    tokens_[at] = merges_->merged(ranks_[at]);
    const std::uint32_t gone = next_[at];
    ranks_[gone] = none;
    next_[at] = next_[gone];
    if (next_[at] < size) previous_[next_[at]] = at;
    update(at, size);
    if (previous_[at] != none) update(previous_[at], size);
  }

  /// The pair that starts at `at` has changed.
  void update(std::uint32_t at, std::uint32_t size) {
    ranks_[at] = next_[at] < size ? merges_->rank(tokens_[at], tokens_[next_[at]]) : none;
    if (ranks_[at] == none) return;
    heap_.push_back(entry(at));
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>{});
  }

  [[nodiscard]] std::uint64_t entry(std::uint32_t at) const {
    return static_cast<std::uint64_t>(ranks_[at]) << 32 | at;
  }

  const merge_table* merges_;
  std::vector<token_id> tokens_;
  std::vector<rank_type> ranks_;
  std::vector<std::uint32_t> next_, previous_;
  std::vector<std::uint64_t> heap_;
};

}  // namespace blockattn::inline v0
