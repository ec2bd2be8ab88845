// The tiny hashed models (hashed_model.hpp) as folders that transformers' save_pretrained would write: its own config.json and names, and the same weights as it trained
// them: rows of Q and K for pairs (i, i + Dh / 2), Gemma's norms without the 1.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/hashed_model.hpp"
#include "support/safetensors_writer.hpp"
#include "support/temporary_folder.hpp"

namespace blockattn_test {

/// Values of a tensor, brought from llama.cpp's layout to transformers'.
inline std::vector<float> huggingface_values(const nlohmann::json& model, const std::string& name, std::vector<float> values) {
  const auto& there = model.at("huggingface");
  if (there.at("minus_one").get<bool>() && name.find("norm") != std::string::npos)
    for (float& value : values) value -= 1;
  const bool query = name.find(".attn_q.") != std::string::npos, key = name.find(".attn_k.") != std::string::npos;
  if (!there.at("adjacent").get<bool>() || (!query && !key)) return values;
  const auto& metadata = model.at("metadata");
  const auto heads = metadata.at(query ? "attention.head_count" : "attention.head_count_kv").get<std::size_t>(), size = metadata.at("attention.key_length").get<std::size_t>();
  const std::size_t columns = values.size() / (heads * size);
  std::vector<float> moved(values.size());
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t pair = 0; pair < size / 2; ++pair)
      for (std::size_t half = 0; half < 2; ++half)
        for (std::size_t k = 0; k < columns; ++k)
          moved[(h * size + half * (size / 2) + pair) * columns + k] = values[(h * size + 2 * pair + half) * columns + k];
  return moved;
}

inline std::string safetensors_type(const nlohmann::json& model) {
  const std::string type = model.at("huggingface").at("dtype");
  return type == "bfloat16" ? "BF16" : type == "float16" ? "F16" : "F32";
}

/// All tensors, those of a shard: every `shards`-th one from `shard` on.
inline safetensors_writer hashed_shard(const nlohmann::json& model, std::size_t shard = 0, std::size_t shards = 1) {
  safetensors_writer out;
  std::size_t number = 0;
  for (const auto& t : model.at("tensors")) {
    if (number++ % shards != shard) continue;
    auto shape = t.at(1).get<std::vector<std::int64_t>>();
    std::size_t count = 1;
    for (const auto size : shape) count *= static_cast<std::size_t>(size);
    const std::string name = t.at(0);
    const auto values = huggingface_values(model, name, hashed_values(name, count, t.at(2).get<float>(), t.at(3).get<float>()));
    out.tensor(model.at("huggingface").at("names").at(name), {shape.rbegin(), shape.rend()}, values, safetensors_type(model));
  }
  return out;
}

/// Writes config.json and the weights, in one file or several.
inline void write_hashed_folder(const temporary_folder& folder, const nlohmann::json& model, std::size_t shards = 1) {
  folder.write("config.json", model.at("huggingface").at("config").dump(2));
  if (shards == 1) {
    folder.write("model.safetensors", hashed_shard(model).bytes());
    return;
  }
  nlohmann::json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", nlohmann::json::object()}};
  for (std::size_t shard = 0; shard < shards; ++shard) {
    const std::string name = "model-0000" + std::to_string(shard + 1) + "-of-0000" + std::to_string(shards) + ".safetensors";
    const safetensors_writer out = hashed_shard(model, shard, shards);
    for (const auto& e : out.entries) index["weight_map"][e.name] = name;
    folder.write(name, out.bytes());
  }
  folder.write("model.safetensors.index.json", index.dump(2));
}

}  // namespace blockattn_test
