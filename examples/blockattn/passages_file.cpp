#include "passages_file.hpp"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "blockattn/core/error.hpp"
#include "blockattn/text/utf8.hpp"
#include "documents.hpp"

namespace blockattn_command {
namespace {

using blockattn::cat;
using blockattn::format_error;

/// The string under a key; empty if the key is missing and needn't be there.
std::string text_of(const nlohmann::json& line, const char* key, bool needed, const std::string& where) {
  const auto found = line.find(key);
  if (found == line.end() && !needed) return {};
  if (found == line.end() || !found->is_string())
    throw format_error(cat("[passages] ", where, ": \"", key, "\" ", found == line.end() ? "is missing" : "isn't a string",
                           "; expected {\"title\": \"...\", \"text\": \"...\"}"));
  return blockattn::to_valid_utf8(found->get<std::string>()).text;
}

}  // namespace

std::vector<passage> parse_passages(std::string_view content, const std::string& file) {
  std::vector<passage> passages;
  for (std::size_t number = 1; !content.empty(); ++number) {
    const std::string_view line = content.substr(0, content.find('\n'));
    content.remove_prefix(std::min(line.size() + 1, content.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = cat(file, ", line ", number);
    nlohmann::json value = nlohmann::json::parse(line, nullptr, false);
    if (!value.is_object()) throw format_error(cat("[passages] ", where, ": isn't a JSON object; expected {\"title\": \"...\", \"text\": \"...\"}"));
    passage p{text_of(value, "title", false, where), text_of(value, "text", true, where)};
    if (p.body.find_first_not_of(" \t\r\n") == std::string::npos) throw format_error(cat("[passages] ", where, ": \"text\" is empty; leave the line out"));
    passages.push_back(std::move(p));
  }
  if (passages.empty()) throw format_error(cat("[passages] ", file, ": no passages; expected one JSON object a line"));
  return passages;
}

std::vector<passage> read_passages(const std::string& file) {
  if (file != "-") return parse_passages(read_bytes(file), file);
  const std::string content{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  return parse_passages(content, "standard input");
}

}  // namespace blockattn_command
