#include "blocks_file.hpp"

#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "blockattn/core/error.hpp"
#include "documents.hpp"

namespace blockattn_command {

std::vector<std::string> parse_blocks(std::string_view content, const std::string& file) {
  using blockattn::cat;
  using blockattn::format_error;
  constexpr const char* wanted = "expected {\"blocks\": [\"...\", \"final\"]}";
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(content);
  } catch (const nlohmann::json::parse_error& e) {
    throw format_error(
        cat("[blocks] ", file, ": not valid JSON, at byte ", e.byte, " of ", content.size(), "; ", wanted));
  }
  if (!root.is_object() || !root.contains("blocks"))
    throw format_error(cat("[blocks] ", file, ": no key \"blocks\"; ", wanted));
  const nlohmann::json& list = root["blocks"];
  if (!list.is_array())
    throw format_error(cat("[blocks] ", file, ": \"blocks\" is of type ", list.type_name(), "; ", wanted));
  if (list.empty()) throw format_error(cat("[blocks] ", file, ": \"blocks\" is empty; give at least the final block"));
  std::vector<std::string> blocks;
  for (const nlohmann::json& block : list) {
    if (!block.is_string())
      throw format_error(
          cat("[blocks] ", file, ": block ", blocks.size(), " is of type ", block.type_name(), "; allowed: strings"));
    if (block.get_ref<const std::string&>().empty())
      throw format_error(cat("[blocks] ", file, ": block ", blocks.size(), " of ", list.size(),
                             " is empty; leave it out or give it text"));
    blocks.push_back(block.get<std::string>());
  }
  return blocks;
}

std::vector<std::string> read_blocks(const std::string& file) {
  if (file != "-") return parse_blocks(read_bytes(file), file);
  const std::string content{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  return parse_blocks(content, "standard input");
}

}  // namespace blockattn_command
