// Writes safetensors files for tests, correct ones and, on request, wrong ones.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "support/gguf_writer.hpp"

namespace blockattn_test {

/// The bytes of floats as F32, F16 or BF16.
inline std::string float_bytes(const std::vector<float>& values, const std::string& type) {
  std::string bytes;
  for (const float value : values) {
    if (type == "F32") put(bytes, value);
    else put(bytes, type == "F16" ? blockattn::f32_to_f16(value) : blockattn::f32_to_bf16(value));
  }
  return bytes;
}

struct safetensors_writer {
  struct entry {
    std::string name, type;
    std::vector<std::int64_t> shape;  ///< the contiguous dimension last
    std::string data;
  };
  std::vector<entry> entries;
  std::size_t padding = 8;  ///< the header's size is made a multiple of this

  safetensors_writer& tensor(std::string name, std::vector<std::int64_t> shape, const std::vector<float>& values, const std::string& type = "F32") {
    entries.push_back({std::move(name), type, std::move(shape), float_bytes(values, type)});
    return *this;
  }

  [[nodiscard]] nlohmann::ordered_json header() const {
    nlohmann::ordered_json result = {{"__metadata__", {{"format", "pt"}}}};
    std::size_t at = 0;
    for (const entry& e : entries) {
      result[e.name] = {{"dtype", e.type}, {"shape", e.shape}, {"data_offsets", {at, at + e.data.size()}}};
      at += e.data.size();
    }
    return result;
  }

  /// The file, with this header instead of the right one.
  [[nodiscard]] std::string bytes(std::string header_text) const {
    while (header_text.size() % padding != 0) header_text += ' ';
    std::string out;
    put_string(out, header_text);
    for (const entry& e : entries) out += e.data;
    return out;
  }
  [[nodiscard]] std::string bytes() const { return bytes(header().dump()); }
};

}  // namespace blockattn_test
