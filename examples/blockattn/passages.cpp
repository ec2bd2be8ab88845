#include "passages.hpp"

#include <algorithm>
#include <cctype>

namespace blockattn_command {
namespace {

constexpr std::string_view blanks = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

/// The first line of `text`, which is shortened by it and its line feed. A carriage return before the line feed is
/// dropped.
std::string_view take_line(std::string_view& text) {
  const auto end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

/// Level of an ATX heading (1..6) and its text, or 0.
int heading_level(std::string_view line, std::string_view& heading) {
  const auto level = std::min(line.find_first_not_of('#'), line.size());
  if (level == 0 || level > 6 || (level < line.size() && line[level] != ' ' && line[level] != '\t')) return 0;
  heading = trimmed(line.substr(level));
  const auto last = heading.find_last_not_of('#');  // "## Title ##"
  if (last == std::string_view::npos)
    heading = {};
  else if (last + 1 < heading.size() && heading[last] == ' ')
    heading = trimmed(heading.substr(0, last));
  return static_cast<int>(level);
}

bool opens_fence(std::string_view line) {
  line = trimmed(line);
  return line.starts_with("```") || line.starts_with("~~~");
}

document_outline outline_markdown(std::string_view text) {
  document_outline result;
  result.sections.emplace_back();
  bool in_code = false;
  while (!text.empty()) {
    const std::string_view line = take_line(text);
    if (opens_fence(line)) in_code = !in_code;
    std::string_view heading;
    const int level = in_code ? 0 : heading_level(line, heading);
    if (level == 0) {
      result.sections.back().body.append(line).push_back('\n');
    } else if (level == 1 && result.title.empty()) {
      result.title = heading;
      result.sections.emplace_back();
    } else {
      result.sections.push_back({std::string(heading), {}});
    }
  }
  return result;
}

document_outline outline_plain(std::string_view text) {
  constexpr std::size_t longest_title = 100;
  document_outline result;
  std::string_view rest = text;
  while (!rest.empty() && trimmed(rest.substr(0, rest.find('\n'))).empty()) (void)take_line(rest);
  std::string_view after = rest;
  const std::string_view first = trimmed(take_line(after));
  const bool alone = !after.empty() && trimmed(after.substr(0, after.find('\n'))).empty();
  if (alone && first.size() <= longest_title && !trimmed(after).empty()) {
    result.title = first;
    rest = after;
  }
  result.sections.push_back({{}, std::string(rest)});
  return result;
}

}  // namespace

document_outline outline(std::string_view text, bool markdown, std::string_view fallback_title) {
  document_outline result = markdown ? outline_markdown(text) : outline_plain(text);
  if (result.title.empty()) result.title = fallback_title;
  std::erase_if(result.sections, [](const document_outline::section& s) { return trimmed(s.body).empty(); });
  return result;
}

std::vector<passage> split_document(std::string_view text, const std::filesystem::path& file,
                                    const body_splitter& split) {
  std::string extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const document_outline document = outline(text, extension == ".md", file.stem().string());
  std::vector<passage> result;
  for (const auto& section : document.sections) {
    const std::string title = section.heading.empty() ? document.title : document.title + ": " + section.heading;
    for (const std::string& body : split(section.body))
      if (const auto kept = trimmed(body); !kept.empty()) result.push_back({title, std::string(kept)});
  }
  return result;
}

std::string passage_text(const passage& p) { return p.title + "\n" + p.body; }

}  // namespace blockattn_command
