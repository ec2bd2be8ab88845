// A llama of two layers with random float32 weights, made in memory: small enough to change any part of it in a test.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/gguf_writer.hpp"
#include "support/tiny_vocabulary.hpp"

namespace blockattn_test {

struct tiny_model {
  static constexpr std::int64_t layers = 2, width = 64, heads = 4, kv_heads = 2, head_dim = 16, feed_forward = 96, context = 512;

  /// Weights by name, row-major [rows, columns]; norms have one row.
  struct tensor {
    std::int64_t rows, columns;
    std::vector<float> values;
  };
  std::map<std::string, tensor> tensors;
  tiny_vocabulary vocabulary;

  explicit tiny_model(unsigned seed = 1) {
    std::mt19937 g(seed);
    const auto tokens = static_cast<std::int64_t>(vocabulary.tokens.size());
    add(g, "token_embd.weight", tokens, width, 1.0F);
    add(g, "output_norm.weight", 1, width, 0.1F, 1.0F);
    for (std::int64_t l = 0; l < layers; ++l) {
      const std::string prefix = "blk." + std::to_string(l) + ".";
      add(g, prefix + "attn_norm.weight", 1, width, 0.1F, 1.0F);
      add(g, prefix + "attn_q.weight", heads * head_dim, width, 0.2F);
      add(g, prefix + "attn_k.weight", kv_heads * head_dim, width, 0.2F);
      add(g, prefix + "attn_v.weight", kv_heads * head_dim, width, 0.2F);
      add(g, prefix + "attn_output.weight", width, heads * head_dim, 0.2F);
      add(g, prefix + "ffn_norm.weight", 1, width, 0.1F, 1.0F);
      add(g, prefix + "ffn_gate.weight", feed_forward, width, 0.2F);
      add(g, prefix + "ffn_up.weight", feed_forward, width, 0.2F);
      add(g, prefix + "ffn_down.weight", width, feed_forward, 0.2F);
    }
  }

  /// The file, to be changed further before its bytes are taken.
  [[nodiscard]] gguf_writer file() const {
    gguf_writer out;
    out.string("general.architecture", "llama");
    out.number("llama.block_count", static_cast<std::uint32_t>(layers)).number("llama.embedding_length", static_cast<std::uint32_t>(width));
    out.number("llama.attention.head_count", static_cast<std::uint32_t>(heads)).number("llama.attention.head_count_kv", static_cast<std::uint32_t>(kv_heads));
    out.number("llama.feed_forward_length", static_cast<std::uint32_t>(feed_forward)).number("llama.context_length", static_cast<std::uint32_t>(context));
    out.number("llama.rope.freq_base", 10000.0F).number("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    vocabulary.write(out);
    for (const auto& [name, t] : tensors) {
      std::vector<std::uint64_t> shape = {static_cast<std::uint64_t>(t.columns)};
      if (name.find("norm") == std::string::npos) shape.push_back(static_cast<std::uint64_t>(t.rows));
      out.tensor(name, shape, t.values);
    }
    return out;
  }

 private:
  void add(std::mt19937& g, const std::string& name, std::int64_t rows, std::int64_t columns, float deviation, float mean = 0) {
    std::normal_distribution<float> normal(mean, deviation);
    tensor t{rows, columns, {}};
    for (std::int64_t i = 0; i < rows * columns; ++i) t.values.push_back(normal(g));
    tensors.emplace(name, std::move(t));
  }
};

}  // namespace blockattn_test
