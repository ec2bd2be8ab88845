// JSON as values of a template.
#pragma once

#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "blockattn/text/jinja/template.hpp"

namespace blockattn_test {

using ordered_json = nlohmann::ordered_json;

inline blockattn::jinja::value to_value(blockattn::jinja::heap& heap, const ordered_json& j) {
  namespace jinja = blockattn::jinja;
  if (j.is_null()) return jinja::value::none();
  if (j.is_boolean()) return j.get<bool>();
  if (j.is_number_integer()) return j.get<std::int64_t>();
  if (j.is_number_float()) return j.get<double>();
  if (j.is_string()) return heap.make(j.get<std::string>());
  if (j.is_array()) {
    std::vector<jinja::value> items;
    for (const auto& item : j) items.push_back(to_value(heap, item));
    return heap.make(std::move(items));
  }
  jinja::dict d;
  for (const auto& [key, item] : j.items()) d.set(heap.make(key), to_value(heap, item));
  return heap.make(std::move(d));
}

/// 2025-03-09 14:05:07, a Sunday: the date of the golden data.
inline std::tm golden_date() {
  std::tm now{};
  now.tm_year = 125;
  now.tm_mon = 2;
  now.tm_mday = 9;
  now.tm_hour = 14;
  now.tm_min = 5;
  now.tm_sec = 7;
  now.tm_wday = 0;
  now.tm_yday = 67;
  return now;
}

/// The template rendered with the members of `given` as its variables.
inline std::string render(const std::string& source, const ordered_json& given,
                          const blockattn::jinja::limits& most = {}) {
  namespace jinja = blockattn::jinja;
  const jinja::template_source parsed(source);
  jinja::budget budget(most);
  jinja::heap heap(budget);
  jinja::variables variables;
  for (const auto& [key, item] : given.items())
    variables.emplace_back(heap.make(key).string().bytes(), to_value(heap, item));
  return std::string(parsed.render(heap, variables, golden_date()).bytes());
}

}  // namespace blockattn_test
