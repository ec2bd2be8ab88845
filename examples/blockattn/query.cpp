#include "query.hpp"

#include <algorithm>
#include <array>

namespace blockattn_command {
namespace {

constexpr auto stop_words = std::to_array<std::string_view>(
    {"a",     "about",  "after", "all",   "also", "am",    "an",   "and",   "any",  "are",   "as",     "at",
     "be",    "been",   "but",   "by",    "can",  "could", "did",  "do",    "does", "for",   "from",   "get",
     "gets",  "give",   "had",   "has",   "have", "he",    "her",  "his",   "how",  "i",     "if",     "in",
     "into",  "is",     "it",    "its",   "long", "many",  "may",  "me",    "mean", "means", "more",   "much",
     "must",  "my",     "no",    "not",   "of",   "often", "on",   "one",   "or",   "our",   "please", "s",
     "she",   "should", "so",    "some",  "t",    "tell",  "than", "that",  "the",  "their", "them",   "then",
     "there", "these",  "they",  "this",  "to",   "us",    "was",  "we",    "were", "what",  "when",   "where",
     "which", "who",    "whom",  "whose", "why",  "will",  "with", "would", "you",  "your",  "yours"});

constexpr std::size_t most_words = 64;

bool is_word_byte(unsigned char c) {
  return c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

char lower(unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); }

std::vector<std::string> all_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  const auto end_word = [&] {
    if (!word.empty() && std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
    word.clear();
  };
  for (const char c : text) {
    if (is_word_byte(static_cast<unsigned char>(c)))
      word.push_back(lower(static_cast<unsigned char>(c)));
    else
      end_word();
  }
  end_word();
  return words;
}

std::string in_quotes(std::string_view word) { return "\"" + std::string(word) + "\""; }

/// `word` without its last third, cut between UTF-8 characters; whole if it has fewer than six bytes.
std::string_view beginning(std::string_view word) {
  if (word.size() < 6) return word;
  std::size_t length = word.size() - word.size() / 3;
  while (length < word.size() && (static_cast<unsigned char>(word[length]) & 0xc0U) == 0x80U) ++length;
  return word.substr(0, length);
}

}  // namespace

std::vector<std::string> question_words(std::string_view question) {
  const std::vector<std::string> words = all_words(question);
  std::vector<std::string> kept;
  for (const std::string& word : words)
    if (std::find(stop_words.begin(), stop_words.end(), word) == stop_words.end()) kept.push_back(word);
  if (kept.empty()) kept = words;
  if (kept.size() > most_words) kept.resize(most_words);
  return kept;
}

std::string match_any(const std::vector<std::string>& words) {
  std::string query;
  for (const std::string& word : words) query += (query.empty() ? "" : " OR ") + in_quotes(word);
  return query;
}

std::string match_beginnings(const std::vector<std::string>& words) {
  std::string query;
  for (const std::string& word : words) query += (query.empty() ? "" : " OR ") + in_quotes(beginning(word)) + "*";
  return query;
}

}  // namespace blockattn_command
