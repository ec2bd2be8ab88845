// What a file's tensors are, whatever the file is called and whatever else it says: names, types and bytes, in the
// file's order. An adapter's alpha counts too, since it scales its matrices.
#pragma once

#include <span>

#include "blockattn/core/error.hpp"
#include "blockattn/core/fingerprint.hpp"
#include "blockattn/io/gguf.hpp"

namespace blockattn::inline v0 {

/// Reads all tensors. The same on every machine.
[[nodiscard]] inline fingerprint128 hash_tensors(const gguf_file& file) {
  const auto text = [](const std::string& t) { return hash_bytes(std::as_bytes(std::span(t.data(), t.size()))); };
  const bool adapter = file.string("general.type").value_or("model") == "adapter";
  fingerprint128 result = text(adapter ? cat(file.number<float>("adapter.lora.alpha").value_or(0)) : "");
  for (const gguf_tensor& t : file.tensors())
    result = combine(result, combine(text(cat(t.name, ' ', name(t.type))), hash_bytes(t.bytes)));
  return result;
}

}  // namespace blockattn::inline v0
