// A byte-level vocabulary small enough to read: 256 bytes, a few merges, ChatML's control tokens.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/gguf_writer.hpp"

namespace blockattn_test {

/// What a vocabulary writes for a byte: printable Latin-1 stands for itself, the others are counted from U+0100. UTF-8.
inline std::string byte_text(unsigned byte) {
  const auto itself = [](unsigned b) { return (b > 32 && b < 127) || (b > 160 && b != 173); };
  unsigned character = byte;
  if (!itself(byte)) {
    character = 256;
    for (unsigned b = 0; b < byte; ++b) character += itself(b) ? 0U : 1U;
  }
  if (character < 128) return {static_cast<char>(character)};
  return {static_cast<char>(0xC0U | (character >> 6)), static_cast<char>(0x80U | (character & 63U))};
}

struct tiny_vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<std::string> merges;

  /// Ids: 0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|>, 3..258 the bytes, then th, the, Ġthe, in, an, and.
  tiny_vocabulary() {
    for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) add(control, 3);
    for (unsigned byte = 0; byte < 256; ++byte) add(byte_text(byte));
    merge("t", "h");
    merge("th", "e");
    merge("Ġ", "the");
    merge("i", "n");
    merge("a", "n");
    merge("an", "d");
  }

  void add(std::string token, std::int32_t type = 1) {
    tokens.push_back(std::move(token));
    types.push_back(type);
  }

  /// Adds the merge and the token that it gives.
  void merge(const std::string& left, const std::string& right) {
    add(left + right);
    merges.push_back(left + " " + right);
  }

  [[nodiscard]] static std::int32_t byte_id(unsigned char byte) { return 3 + byte; }

  /// Sets the metadata of a vocabulary.
  void write(gguf_writer& file) const {
    file.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "smollm");
    file.strings("tokenizer.ggml.tokens", tokens)
        .numbers("tokenizer.ggml.token_type", types)
        .strings("tokenizer.ggml.merges", merges);
    file.number("tokenizer.ggml.bos_token_id", std::uint32_t{1})
        .number("tokenizer.ggml.eos_token_id", std::uint32_t{2});
    file.number("tokenizer.ggml.add_bos_token", false);
  }
};

/// A GGUF file with nothing but the tiny vocabulary.
inline gguf_writer tiny_vocabulary_file() {
  gguf_writer file;
  file.string("general.architecture", "llama");
  tiny_vocabulary().write(file);
  return file;
}

}  // namespace blockattn_test
