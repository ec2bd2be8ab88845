// Tiny models of every family, their weights made from hashes of names and indices as scripts/golden/make_family_golden.py makes them, and what transformers
// computes with them (tests/golden/families.json).
#pragma once

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "support/data_path.hpp"
#include "support/gguf_writer.hpp"

namespace blockattn_test {

/// ((murmur3's finaliser of (fnv1a32(name) + i * 0x9e3779b9)) >> 8) * 2^-23 - 1) * scale + offset, for i in [0, count).
inline std::vector<float> hashed_values(std::string_view name, std::size_t count, float scale, float offset) {
  std::uint32_t seed = 0x811c9dc5U;
  for (const char byte : name) seed = (seed ^ static_cast<unsigned char>(byte)) * 0x01000193U;
  std::vector<float> values;
  values.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint32_t x = seed + i * 0x9e3779b9U;
    x = (x ^ (x >> 16)) * 0x85ebca6bU;
    x = (x ^ (x >> 13)) * 0xc2b2ae35U;
    x ^= x >> 16;
    values.push_back((static_cast<float>(x >> 8) * 0x1p-23F - 1.0F) * scale + offset);
  }
  return values;
}

inline const nlohmann::json& family_golden() {
  static const nlohmann::json data = [] {
    std::ifstream in(golden_path("families.json"));
    return nlohmann::json::parse(in);
  }();
  return data;
}

inline const nlohmann::json& family_case(const std::string& name) {
  for (const auto& each : family_golden().at("cases"))
    if (each.at("name") == name) return each;
  throw std::out_of_range("families.json has no case '" + name + "'");
}

/// The GGUF file of a case, without a vocabulary.
inline gguf_writer hashed_model(const nlohmann::json& model) {
  gguf_writer out;
  const std::string architecture = model.at("architecture");
  out.string("general.architecture", architecture);
  for (const auto& [key, value] : model.at("metadata").items()) {
    const std::string whole = architecture + "." + key;
    if (value.is_string())
      out.string(whole, value.get<std::string>());
    else if (value.is_number_float())
      out.number(whole, value.get<float>());
    else
      out.number(whole, value.get<std::uint32_t>());
  }
  for (const auto& t : model.at("tensors")) {
    const auto shape = t.at(1).get<std::vector<std::uint64_t>>();
    std::uint64_t count = 1;
    for (const auto size : shape) count *= size;
    const std::string name = t.at(0);
    out.tensor(name, shape, hashed_values(name, count, t.at(2).get<float>(), t.at(3).get<float>()));
  }
  for (const auto& [name, values] : model.at("vectors").items()) out.tensor(name, {values.size()}, values.get<std::vector<float>>());
  return out;
}

}  // namespace blockattn_test
