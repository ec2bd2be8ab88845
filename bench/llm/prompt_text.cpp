#include "prompt_text.hpp"

#include <array>
#include <random>
#include <string_view>

#include "blockattn/core/error.hpp"

namespace blockattn_bench {
namespace {

using blockattn::cat;

constexpr auto subjects = std::to_array<std::string_view>(
    {"The harbour master", "A young engineer", "The old library", "Every visitor", "The night train", "A quiet village",
     "The chief gardener", "My neighbour", "The new bridge", "A travelling actor"});
constexpr auto verbs = std::to_array<std::string_view>(
    {"counted", "painted", "remembered", "measured", "sold", "described", "repaired", "lost", "collected", "carried"});
constexpr auto objects = std::to_array<std::string_view>(
    {"seven lanterns", "the wooden stairs", "a map of the coast", "three letters", "the copper roof", "a box of apples",
     "the last ticket", "twelve chairs", "the winter garden", "a broken clock"});
constexpr auto endings = std::to_array<std::string_view>(
    {"before the storm came", "in the spring of that year", "without a word", "for the people of the town",
     "near the river", "while the bells rang", "on a cold morning", "as it had been agreed", "and went home",
     "after a long discussion"});

template <std::size_t N>
std::string_view pick(const std::array<std::string_view, N>& from, std::mt19937& random) {
  return from[random() % N];
}

std::string sentence(std::mt19937& random) {
  return cat(pick(subjects, random), ' ', pick(verbs, random), ' ', pick(objects, random), ' ', pick(endings, random),
             ". ");
}

/// The longest text of whole words at the front of `text` that has at most `tokens` tokens.
std::string cut(const blockattn::tokenizer& tokenizer, const std::string& text, int tokens) {
  std::size_t end = 0;
  for (std::size_t space = text.find(' '); space != std::string::npos; space = text.find(' ', space + 1)) {
    if (static_cast<int>(tokenizer.encode(text.substr(0, space)).size()) > tokens) break;
    end = space;
  }
  return text.substr(0, end);
}

}  // namespace

std::string text_of(const blockattn::tokenizer& tokenizer, int tokens, unsigned seed) {
  std::mt19937 random(seed);
  std::string text;
  while (static_cast<int>(tokenizer.encode(text).size()) <= tokens) text += sentence(random);
  text = cut(tokenizer, text, tokens);
  // A short word is one token in any vocabulary of words: it fills what is missing.
  for (int missing = tokens - static_cast<int>(tokenizer.encode(text).size()); missing > 0; --missing)
    text += text.empty() ? "a" : " a";
  if (const auto got = tokenizer.encode(text).size(); got != static_cast<std::size_t>(tokens))
    throw blockattn::error(cat("[ttft] this tokenizer makes ", got, " tokens of a text that should have ", tokens));
  return text;
}

std::vector<blockattn::text_block> make_prompt(const blockattn::tokenizer& tokenizer, int length, int query,
                                               int passage) {
  if (length <= query)
    throw blockattn::argument_error(cat("[ttft] a prompt of ", length,
                                        " tokens has no room for passages beside a query of ", query,
                                        "; give a longer one or a smaller --query"));
  std::vector<blockattn::text_block> blocks;
  for (int left = length - query; left > 0;) {
    const int take = left < 2 * passage ? left : passage;
    blocks.push_back(
        blockattn::text_block::content(text_of(tokenizer, take, static_cast<unsigned>(blocks.size() + 1))));
    left -= take;
  }
  blocks.push_back(blockattn::text_block::content(text_of(tokenizer, query, 0)));
  return blocks;
}

}  // namespace blockattn_bench
