// Cuts text into words before they are merged: no token crosses a cut.
//
// A list of rules. Each cuts every piece that the ones before it left; look-aheads end at the end of a piece.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/text/regex.hpp"
#include "blockattn/text/utf8.hpp"

namespace blockattn::inline v0 {

/// What becomes of a match and of the text between matches.
enum class cut_mode : std::uint8_t {
  isolated,   ///< each is a piece of its own
  removed,    ///< matches are dropped
  to_left,    ///< a match ends the piece before it
  to_right,   ///< a match begins the piece after it
  contiguous  ///< as isolated, but adjacent matches are one piece
};

/// One rule: where to cut. `invert`: what lies between matches is taken for matches, and the other way round.
struct cut_rule {
  detail::regex pattern;
  cut_mode mode = cut_mode::isolated;
  bool invert = false;
};

/// A list of rules. Immutable: any number of threads may split with one object.
class pre_tokenizer {
 public:
  using scratch = detail::regex_scratch;

  /// No rules: the text is one word.
  pre_tokenizer() = default;
  explicit pre_tokenizer(std::vector<cut_rule> rules) : rules_(std::move(rules)) {}
  /// One pattern, in which a match is a word and what lies between two is one too. Throws argument_error if PCRE2
  /// rejects it.
  explicit pre_tokenizer(std::string_view pattern) { rules_.push_back({detail::regex(pattern)}); }

  /// Calls take(std::string_view) for each word of `text`, in order; none is empty. Unless a rule removes matches,
  /// together they are the text. `text` must be valid UTF-8. Throws error, with the position, if PCRE2 gives up.
  template <class Take>
  void split(std::string_view text, Take&& take) const {
    scratch memory;
    split(text, take, memory);
  }
  template <class Take>
  void split(std::string_view text, Take&& take, scratch& memory) const {
    if (!text.empty()) split_from(0, text, take, memory);
  }

 private:
  struct piece {
    std::size_t begin = 0, end = 0;
    bool match = false;
  };

  template <class Take>
  void split_from(std::size_t number, std::string_view text, Take& take, scratch& memory) const {
    if (number == rules_.size()) {
      take(text);
      return;
    }
    const cut_rule& rule = rules_[number];
    const auto next = [&](piece p) { split_from(number + 1, text.substr(p.begin, p.end - p.begin), take, memory); };
    if (rule.mode == cut_mode::isolated || rule.mode == cut_mode::removed) {
      for_each_piece(rule, text, memory, [&](piece p) {
        if (rule.mode == cut_mode::isolated || !p.match) next(p);
      });
    } else {
      std::vector<piece> pieces;
      for_each_piece(rule, text, memory, [&](piece p) { pieces.push_back(p); });
      join(pieces, rule.mode);
      for (const piece& p : pieces) next(p);
    }
  }

  /// Matches and what lies between them, in order, none empty.
  template <class Each>
  static void for_each_piece(const cut_rule& rule, std::string_view text, scratch& memory, Each&& each) {
    std::size_t done = 0;
    for (std::size_t at = 0; at <= text.size();) {
      const auto found = rule.pattern.search(text, at, memory);
      if (!found.found) break;
      if (found.begin > done) each(piece{done, found.begin, rule.invert});
      if (found.end > found.begin) each(piece{found.begin, found.end, !rule.invert});
      done = std::max(done, found.end);
      at = found.end > found.begin ? found.end : next_character(text, found.end);  // an empty match is a cut
    }
    if (done < text.size()) each(piece{done, text.size(), rule.invert});
  }

  [[nodiscard]] static std::size_t next_character(std::string_view text, std::size_t at) {
    do ++at;
    while (at < text.size() && !detail::starts_character(text, at));
    return at;
  }

  /// Joins adjacent pieces as the mode says.
  static void join(std::vector<piece>& pieces, cut_mode mode) {
    std::vector<piece> joined;
    bool last_was_match = false;
    for (const piece& p : pieces) {
      const bool extend = mode == cut_mode::contiguous ? p.match == last_was_match
                          : mode == cut_mode::to_left  ? p.match && !last_was_match
                                                       : !p.match && last_was_match;
      last_was_match = p.match;
      if (extend && !joined.empty()) joined.back().end = p.end;
      else joined.push_back(p);
    }
    pieces = std::move(joined);
  }

  std::vector<cut_rule> rules_;
};

}  // namespace blockattn::inline v0
