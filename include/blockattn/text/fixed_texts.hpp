// Texts that are tokens as a whole, before anything else is looked at: control tokens and added ones.
#pragma once

#include <algorithm>
#include <bitset>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/shape.hpp"
#include "blockattn/text/normalizer.hpp"

namespace blockattn::inline v0::detail {

/// One such text, and what it wants of its neighbours.
struct fixed_text {
  std::string text;  ///< not empty
  token_id id = 0;
  bool control = false;      ///< recognised in markup only
  bool strip_left = false;   ///< takes the white space before it
  bool strip_right = false;  ///< takes the white space after it
  bool single_word = false;  ///< only where no letter, mark or digit touches it
};

/// Finds the longest of some fixed texts at a place: a sorted list, narrowed byte by byte.
class fixed_texts {
 public:
  struct match {
    std::size_t length = 0;
    const fixed_text* found = nullptr;
  };

  explicit fixed_texts(std::vector<fixed_text> entries = {}) : entries_(std::move(entries)) {
    std::stable_sort(entries_.begin(), entries_.end(), [](const fixed_text& a, const fixed_text& b) { return a.text < b.text; });
    const auto last = std::unique(entries_.begin(), entries_.end(), [](const fixed_text& a, const fixed_text& b) { return a.text == b.text; });
    entries_.erase(last, entries_.end());  // the first of those with one text stays
    for (const fixed_text& e : entries_) {
      const std::size_t first = static_cast<unsigned char>(e.text[0]) * 256U;
      if (e.text.size() > 1) {
        starts_[first + static_cast<unsigned char>(e.text[1])] = true;
      } else {
        for (std::size_t second = 0; second < 256; ++second) starts_[first + second] = true;
      }
      single_[first / 256] = single_[first / 256] || e.text.size() == 1;
    }
  }

  [[nodiscard]] bool empty() const { return entries_.empty(); }

  /// Whether one of them may stand at text[at]: false for most places, at once.
  [[nodiscard]] bool may_start(std::string_view text, std::size_t at) const {
    const std::size_t first = static_cast<unsigned char>(text[at]);
    return at + 1 < text.size() ? starts_[first * 256 + static_cast<unsigned char>(text[at + 1])] : single_[first];
  }

  /// The longest text that stands at text[at]; a control token's only if it ends by `control_end`. length 0: none.
  [[nodiscard]] match longest_at(std::string_view text, std::size_t at, std::size_t control_end) const {
    match best;
    auto low = entries_.begin();
    auto high = entries_.end();
    for (std::size_t depth = 0; low != high && at + depth < text.size();) {
      const auto wanted = static_cast<unsigned char>(text[at + depth]);
      const auto at_depth = [depth](const fixed_text& e) {
        return e.text.size() > depth ? static_cast<int>(static_cast<unsigned char>(e.text[depth])) : -1;
      };
      low = std::partition_point(low, high, [&](const fixed_text& e) { return at_depth(e) < wanted; });
      high = std::partition_point(low, high, [&](const fixed_text& e) { return at_depth(e) == wanted; });
      ++depth;
      if (low != high && low->text.size() == depth && (!low->control || at + depth <= control_end) &&
          (!low->single_word || stands_alone(text, at, at + depth)))
        best = {depth, &*low};
    }
    return best;
  }

 private:
  /// Whether no character of a word touches text[begin..end). `text` is valid UTF-8.
  [[nodiscard]] static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    if (end < text.size() && is_word_character(character_at(text, end).code)) return false;
    if (begin == 0) return true;
    while (!starts_character(text, --begin)) {
    }
    return !is_word_character(character_at(text, begin).code);
  }

  std::vector<fixed_text> entries_;  // sorted: of texts with a common beginning the shortest is first
  std::bitset<256 * 256> starts_;    // by the first two bytes
  std::bitset<256> single_;          // texts of one byte
};

}  // namespace blockattn::inline v0::detail
