// The numbers of a model, read from the metadata of its file and checked.
#pragma once

#include <cmath>
#include <string>
#include <string_view>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/gguf.hpp"
#include "blockattn/kernels/kernel_table.hpp"

namespace blockattn::inline v0 {

/// Shapes and constants of a transformer; see core/shape.hpp for the letters.
struct model_config {
  std::string architecture;    ///< general.architecture, e.g. "llama"
  std::string name;            ///< general.name, may be empty
  index_t layers = 0;          ///< L
  index_t width = 0;           ///< D
  index_t heads = 0;           ///< H
  index_t kv_heads = 0;        ///< Hkv
  index_t head_dim = 0;        ///< Dh
  index_t feed_forward = 0;    ///< F
  index_t vocabulary = 0;      ///< V
  index_t context_length = 0;  ///< most tokens of a prompt and its answer
  double rope_base = 10000;
  float norm_epsilon = 1e-5F;
};

namespace detail {

[[nodiscard]] inline index_t checked_size(const gguf_file& file, const std::string& key, index_t value, index_t least, index_t most) {
  if (value < least || value > most)
    throw format_error(cat("[model] ", file.path(), ": '", key, "' is ", value, "; allowed: ", least, " to ", most, ". Corrupt file or unsupported model."));
  return value;
}

[[nodiscard]] inline index_t read_size(const gguf_file& file, const std::string& key, index_t least, index_t most) {
  return checked_size(file, key, file.require<index_t>(key), least, most);
}

}  // namespace detail

/// Reads "<architecture>.*" metadata. Throws format_error that names the key, what it holds and what is allowed.
[[nodiscard]] inline model_config read_config(const gguf_file& file) {
  model_config c;
  c.architecture = file.string("general.architecture").value_or("");
  c.name = file.string("general.name").value_or("");
  const std::string prefix = c.architecture + ".";
  c.layers = detail::read_size(file, prefix + "block_count", 1, 1024);
  c.width = detail::read_size(file, prefix + "embedding_length", 8, 1 << 20);
  c.heads = detail::read_size(file, prefix + "attention.head_count", 1, 4096);
  const std::string kv_key = prefix + "attention.head_count_kv";
  c.kv_heads = detail::checked_size(file, kv_key, file.number<index_t>(kv_key).value_or(c.heads), 1, c.heads);
  if (c.heads % c.kv_heads != 0)
    throw format_error(cat("[model] ", file.path(), ": ", c.heads, " heads can't share ", c.kv_heads, " key heads; the first must be a multiple"));
  const std::string key_length = prefix + "attention.key_length";
  c.head_dim = detail::checked_size(file, key_length, file.number<index_t>(key_length).value_or(c.width / c.heads), 8, max_head_dim);
  if (c.head_dim % 16 != 0) throw format_error(cat("[model] ", file.path(), ": heads of size ", c.head_dim, "; supported: multiples of 16 up to ", max_head_dim));
  c.feed_forward = detail::read_size(file, prefix + "feed_forward_length", 8, 1 << 24);
  c.context_length = detail::read_size(file, prefix + "context_length", 1, index_t{1} << 32);
  c.rope_base = file.number<double>(prefix + "rope.freq_base").value_or(10000.0);
  if (!(c.rope_base > 1 && c.rope_base < 1e12))
    throw format_error(cat("[model] ", file.path(), ": '", prefix, "rope.freq_base' is ", c.rope_base, "; allowed: above 1 and below 1e12"));
  c.norm_epsilon = file.require<float>(prefix + "attention.layer_norm_rms_epsilon");
  if (!(c.norm_epsilon > 0 && c.norm_epsilon < 1))
    throw format_error(cat("[model] ", file.path(), ": '", prefix, "attention.layer_norm_rms_epsilon' is ", c.norm_epsilon, "; allowed: between 0 and 1"));
  return c;
}

}  // namespace blockattn::inline v0
