// Made-up questions over made-up passages, as many as are wanted, for comparing a GPU's answers with the CPU's.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "blockattn/model/model.hpp"

namespace blockattn_test {

/// Question number i over four passages; as plain text for a model without a chat template.
[[nodiscard]] inline std::vector<blockattn::text_block> made_up_question(const blockattn::model& m, std::size_t i) {
  static const std::vector<std::string> things = {"ferry", "library", "bridge", "garden", "observatory", "kitchen", "harbour", "tower", "market", "school"};
  static const std::vector<std::string> colours = {"red", "green", "blue", "yellow", "white", "black", "grey", "brown", "orange", "purple"};
  std::vector<std::string> passages;
  for (std::size_t p = 0; p < 4; ++p) {
    const std::string& thing = things[(i + 3 * p) % 10];
    passages.push_back("The " + thing + " of Brackwater was painted " + colours[(i / 10 + 7 * p + i) % 10] + " in " + std::to_string(1900 + (i * 13 + p * 29) % 100) +
                       ". It opens at " + std::to_string(7 + (i + p) % 5) + " o'clock.\n");
  }
  const std::string question = "What colour is the " + things[(i + 9) % 10] + "?";
  if (m.file().string("tokenizer.chat_template")) return m.chat().rag("Answer from the text.", passages, question);
  std::vector<blockattn::text_block> blocks;  // of a model that isn't made for chat
  for (const std::string& passage : passages) blocks.push_back(blockattn::text_block::content(passage));
  blocks.push_back(blockattn::text_block::content(question + "\nAnswer:"));
  return blocks;
}

}  // namespace blockattn_test
