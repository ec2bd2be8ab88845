// What a checkpoint's tensors are, whatever its files are called and whatever else they say: names, types and bytes, in the
// file's order (of a folder: in the order of their names, whichever file they are in). An adapter's alpha counts too, since it scales its matrices.
#pragma once

#include <span>

#include "blockattn/core/error.hpp"
#include "blockattn/core/fingerprint.hpp"
#include "blockattn/io/checkpoint.hpp"

namespace blockattn::inline v0 {

/// Reads all tensors. The same on every machine.
[[nodiscard]] inline fingerprint128 hash_tensors(const checkpoint& file) {
  const auto text = [](const std::string& t) { return hash_bytes(std::as_bytes(std::span(t.data(), t.size()))); };
  const bool adapter = file.string("general.type").value_or("model") == "adapter";
  fingerprint128 result = text(adapter ? cat(file.number<float>("adapter.lora.alpha").value_or(0)) : "");
  for (const checkpoint_tensor& t : file.tensors())
    result = combine(result, combine(text(cat(t.name, ' ', name(t.type))), hash_bytes(t.bytes)));
  return result;
}

}  // namespace blockattn::inline v0
