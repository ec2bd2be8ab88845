#include "json_output.hpp"

#include <algorithm>
#include <iostream>
#include <map>

#include "blockattn/generate/session.hpp"

namespace blockattn_command {
namespace {

/// Up to `count` elements of a vector as JSON.
template <class T>
json first_of(const std::vector<T>& values, std::size_t count) {
  json result = json::array();
  for (std::size_t i = 0; i < std::min(count, values.size()); ++i) result.push_back(values[i]);
  return result;
}

bool is_float(blockattn::gguf_type type) {
  return type == blockattn::gguf_type::f32 || type == blockattn::gguf_type::f64;
}

const char* type_name(blockattn::gguf_type type) {
  static constexpr const char* names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                          "bool", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<std::size_t>(type)];
}

json array_json(const blockattn::checkpoint& file, std::string_view key, const blockattn::gguf_value& value,
                std::size_t shown) {
  json first;
  if (value.element == blockattn::gguf_type::string) {
    first = first_of(file.strings(key), shown);
  } else if (is_float(value.element)) {
    first = first_of(file.numbers<double>(key), shown);
  } else if (value.element == blockattn::gguf_type::u64) {
    first = first_of(file.numbers<std::uint64_t>(key), shown);
  } else {
    first = first_of(file.numbers<std::int64_t>(key), shown);
  }
  return {{"element", type_name(value.element)}, {"count", value.count}, {"first", first}};
}

/// Long texts (a whole tokenizer.json) are cut.
json string_json(std::string_view text) {
  constexpr std::size_t longest = 65536;
  if (text.size() <= longest) return std::string(text);
  return {{"element", "u8"}, {"count", text.size()}, {"first", std::string(text.substr(0, 100))}};
}

}  // namespace

json to_json(const blockattn::generation_result& result) {
  return {{"text", result.text},
          {"token_ids", result.ids},
          {"prompt_tokens", result.prompt_tokens},
          {"blocks",
           {{"total", result.blocks.total}, {"reused", result.blocks.reused}, {"encoded", result.blocks.encoded}}},
          {"ttft_ms", result.ttft_ms},
          {"prefill_ms", result.prefill_ms},
          {"tokens_per_second", result.tokens_per_second},
          {"flops", result.operations},
          {"finish_reason", std::string(name(result.reason))}};
}

json metadata_json(const blockattn::checkpoint& file, std::string_view key, std::size_t shown) {
  const blockattn::gguf_value& value = file.metadata().find(key)->second;
  switch (value.type) {
    case blockattn::gguf_type::string: return string_json(*file.string(key));
    case blockattn::gguf_type::array: return array_json(file, key, value, shown);
    case blockattn::gguf_type::boolean: return *file.number<bool>(key);
    case blockattn::gguf_type::f32: return *file.number<float>(key);
    case blockattn::gguf_type::f64: return *file.number<double>(key);
    case blockattn::gguf_type::u64: return *file.number<std::uint64_t>(key);
    default: return *file.number<std::int64_t>(key);
  }
}

json to_json(const blockattn::checkpoint& file) {
  json metadata = json::object();
  for (const auto& [key, value] : file.metadata()) metadata[key] = metadata_json(file, key, 8);
  std::map<std::string, json> types;
  json tensors = json::array();
  blockattn::index_t parameters = 0, repacked = 0;
  for (const blockattn::checkpoint_tensor& t : file.tensors()) {
    blockattn::index_t values = 1;
    for (const blockattn::index_t size : t.shape) values *= size;
    parameters += values;
    if (t.shape.size() == 2) repacked += blockattn::interleaved_bytes(t.type, 1, t.shape[0]) * t.shape[1];
    const std::string type = name(t.type);
    if (types.count(type) == 0) types[type] = {{"tensors", 0}, {"parameters", 0}, {"bytes", 0}};
    types[type]["tensors"] = types[type]["tensors"].get<std::int64_t>() + 1;
    types[type]["parameters"] = types[type]["parameters"].get<std::int64_t>() + values;
    types[type]["bytes"] = types[type]["bytes"].get<std::uint64_t>() + t.bytes.size();
    tensors.push_back({{"name", t.name}, {"type", type}, {"shape", t.shape}, {"bytes", t.bytes.size()}});
  }
  json result = {{"file", file.path()}, {"format", file.format()}};
  if (file.version() != 0) result["version"] = file.version();
  result.update({{"size_bytes", file.size_bytes()},
                 {"parameters", parameters},
                 {"metadata", metadata},
                 {"types", types},
                 {"repacked_bytes", repacked},
                 {"tensors", tensors}});
  return result;
}

json error_json(std::string_view message) {
  json error = json::object();
  if (const auto end = message.find(']'); message.starts_with('[') && end != std::string_view::npos)
    error["where"] = std::string(message.substr(1, end - 1));
  error["message"] = std::string(message);
  return {{"error", error}};
}

void print_json(const json& value) {
  std::cout << value.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
}

}  // namespace blockattn_command
