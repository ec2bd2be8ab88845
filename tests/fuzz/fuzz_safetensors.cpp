// Any bytes: as a safetensors file, and as a config.json, they either work or throw blockattn::error.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "blockattn/io/huggingface_config.hpp"
#include "blockattn/io/safetensors.hpp"
#include "support/exact_memory.hpp"

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed);
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace {

void read_file(std::span<const std::byte> bytes) {
  const auto file = blockattn::safetensors_file::from_memory(bytes, "fuzzed.safetensors");
  for (const auto& entry : file.entries())
    if (!entry.bytes.empty()) {
      volatile std::byte ends = entry.bytes.front() ^ entry.bytes.back();
      (void)ends;
    }
}

void read_config(std::string_view text) {
  const blockattn::json_document document(text, "[fuzz] config.json");
  const auto type = document.root().at("model_type").string();
  const auto* family = blockattn::detail::find_huggingface_family(type);
  if (family == nullptr) return;
  blockattn::checkpoint_builder out("fuzz", "fuzzed", "safetensors");
  blockattn::detail::huggingface_config reader(document.root(), *family, out);
  reader.read();
  (void)reader.tied();
}

constexpr std::string_view header =
    R"({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}})";
constexpr std::string_view config =
    R"({"model_type": "phi3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,)"
    R"( "partial_rotary_factor": 0.5, "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"], "original_max_position_embeddings": 32, "rope_theta": 1e4,)"
    R"( "rope_scaling": {"type": "longrope", "factor": 2.0, "short_factor": [1, 1, 1, 1], "long_factor": [1, 2, 3, 4]}})";

}  // namespace

/// Starts from valid ones, which random bytes would never become.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  if (size < 16) {
    std::string bytes;
    if (seed % 2 == 0) {
      bytes = std::string(8, '\0') + std::string(header) + std::string(22, 'x');
      bytes[0] = static_cast<char>(header.size());
    } else {
      bytes = config;
    }
    if (bytes.size() > most) return size;
    std::copy(bytes.begin(), bytes.end(), data);
    return bytes.size();
  }
  return LLVMFuzzerMutate(data, size, most);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const blockattn_test::exact_memory memory(text);
  for (const auto read : {+[](std::span<const std::byte> bytes) { read_file(bytes); },
                          +[](std::span<const std::byte> bytes) { read_config({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); }}) {
    try {
      read(memory.span());
    } catch (const blockattn::error&) {
    }
  }
  return 0;
}
