// Stop strings in a stream of text that comes in pieces.
//
// The stream stops at the first place where any stop string is complete; if several end there, the longest one counts.
// So the result doesn't depend on how the text is cut into pieces, and no completed stop string ever waits for a longer
// one: with "bc" and "abcd", the text "abcd" stops after "bc" and gives "a". What is given out ends where the stop
// string that counts begins.
//
// Held back is the longest end of the stream that begins some stop string, and nothing more. Matching is by bytes
// (Knuth-Morris-Pratt, one automaton a stop string), linear in the text. If stop strings and pieces are whole UTF-8
// characters, so is what is given out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

/// Passes text through until a stop string comes. One object a stream, one thread at a time.
class stop_strings {
 public:
  /// No stop strings: everything passes at once. Throws argument_error if one is empty.
  explicit stop_strings(std::vector<std::string> stops = {}) {
    stops_.reserve(stops.size());
    for (std::size_t i = 0; i < stops.size(); ++i) {
      if (stops[i].empty())
        throw argument_error(cat("[stop_strings] stop string ", i, " of ", stops.size(),
                                 " is empty; got \"\"; allowed: at least one byte; leave it out."));
      stops_.emplace_back(std::move(stops[i]));
    }
  }

  /// Takes the next piece and returns the text that may be shown now: held back text, then this piece's, as far as no
  /// stop string can begin in it. Once stopped(), everything is dropped.
  [[nodiscard]] std::string push(std::string_view piece) {
    if (match_) return {};
    std::string text = std::exchange(held_, {});
    text.reserve(text.size() + piece.size());
    for (const char c : piece) {
      text.push_back(c);
      if (advance(c)) {
        text.resize(text.size() - match_->size());
        return text;
      }
    }
    std::size_t hold = 0;
    for (const auto& stop : stops_) hold = std::max(hold, stop.matched);
    held_ = text.substr(text.size() - hold);
    text.resize(text.size() - hold);
    return text;
  }

  /// The stream has ended: returns what was held back. What is pushed afterwards is a new stream, unless a stop string
  /// was found.
  [[nodiscard]] std::string finish() {
    for (auto& stop : stops_) stop.matched = 0;
    return std::exchange(held_, {});
  }

  /// Whether a stop string was found.
  [[nodiscard]] bool stopped() const { return match_.has_value(); }

  /// The stop string that was found.
  [[nodiscard]] const std::optional<std::string>& match() const { return match_; }

 private:
  struct automaton {
    explicit automaton(std::string t) : text(std::move(t)), border(text.size(), 0) {
      for (std::size_t i = 1, length = 0; i < text.size(); ++i) {
        while (length > 0 && text[i] != text[length]) length = border[length - 1];
        if (text[i] == text[length]) ++length;
        border[i] = length;
      }
    }

    /// Reads one byte: `matched` becomes the length of the longest beginning of `text` that the stream ends with.
    void read(char c) {
      while (matched > 0 && text[matched] != c) matched = border[matched - 1];
      if (text[matched] == c) ++matched;
    }

    std::string text;
    std::vector<std::size_t> border;  ///< border[i]: longest proper beginning of text[0..i] that also ends it
    std::size_t matched = 0;          ///< < text.size() between two calls of read()
  };

  /// Reads one byte. True if it completes a stop string; then match_ is the longest one that it completes.
  bool advance(char c) {
    const automaton* found = nullptr;
    for (auto& stop : stops_) {
      stop.read(c);
      if (stop.matched == stop.text.size() && (found == nullptr || found->text.size() < stop.text.size()))
        found = &stop;
    }
    if (found != nullptr) match_ = found->text;
    return found != nullptr;
  }

  std::vector<automaton> stops_;
  std::string held_;
  std::optional<std::string> match_;
};

}  // namespace blockattn::inline v0
