// What the tests of GGUF files share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/gguf_writer.hpp"

namespace blockattn_test {

// Numbers of some tensor types in GGUF files.
inline constexpr std::uint32_t ggml_f32 = 0, ggml_f16 = 1, ggml_q4_0 = 2, ggml_q4_1 = 3, ggml_q8_0 = 8, ggml_bf16 = 30;

/// The bytes of numbers, one after the other.
template <class... T>
std::string raw(T... values) {
  std::string bytes;
  (put(bytes, values), ...);
  return bytes;
}

/// u64 length and bytes.
inline std::string raw_string(std::string_view text) {
  std::string bytes;
  put_string(bytes, text);
  return bytes;
}

/// `file` with one more tensor; `offset` is written instead of the right one.
inline gguf_writer with_tensor(gguf_writer file, std::string name, std::vector<std::uint64_t> shape, std::uint32_t type,
                               std::string data, std::optional<std::uint64_t> offset = {}) {
  file.tensor({std::move(name), type, std::move(shape), std::move(data), offset, {}});
  return file;
}

}  // namespace blockattn_test
