// From a question to an FTS5 query that holds nothing but quoted words: no operator, column name or quote of the
// question gets through.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace blockattn_command {

/// Words of a question: runs of ASCII letters, digits and non-ASCII bytes, ASCII in lower case, each once, in order.
/// Stop words ("what", "the", "how") are left out unless nothing else remains. At most 64 words.
[[nodiscard]] std::vector<std::string> question_words(std::string_view question);

/// "one" OR "two" ...; empty if there are no words.
[[nodiscard]] std::string match_any(const std::vector<std::string>& words);

/// As match_any, but for all words that begin alike: "observ"* OR ... (the last third of a long word is cut off, short
/// words stay whole).
[[nodiscard]] std::string match_beginnings(const std::vector<std::string>& words);

}  // namespace blockattn_command
