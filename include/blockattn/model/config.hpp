// The numbers of a model, read from the metadata of its file and checked.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/checkpoint.hpp"
#include "blockattn/kernels/kernel_table.hpp"
#include "blockattn/model/family.hpp"
#include "blockattn/ops/rotary.hpp"

namespace blockattn::inline v0 {

/// How one layer places and sees keys.
struct layer_positions {
  index_t rope = 0;    ///< index in model_config::ropes; -1: the layer has no RoPE
  index_t window = 0;  ///< a token sees the last so many positions; 0: all
  friend bool operator==(const layer_positions&, const layer_positions&) = default;
};

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
  float attention_scale = 1;                ///< of the scores
  float attention_soft_cap = 0;             ///< 0: none
  float logit_soft_cap = 0;                 ///< 0: none
  float embedding_scale = 1;                ///< of the embeddings
  float norm_offset = 0;                    ///< added to the file's norm weights
  std::vector<rope_spec> ropes;             ///< the different ones
  std::vector<layer_positions> positions;   ///< [L]
  std::string rope_limit;                   ///< why context_length is shorter than the file's, or empty
};

namespace detail {

[[nodiscard]] inline index_t checked_size(const checkpoint& file, const std::string& key, index_t value, index_t least, index_t most) {
  if (value < least || value > most)
    throw format_error(cat("[model] ", file.path(), ": '", key, "' is ", value, "; allowed: ", least, " to ", most, ". Corrupt file or unsupported model."));
  return value;
}

[[nodiscard]] inline index_t read_size(const checkpoint& file, const std::string& key, index_t least, index_t most) {
  return checked_size(file, key, file.require<index_t>(key), least, most);
}

/// A positive number of the metadata, or `otherwise` if the key isn't there.
[[nodiscard]] inline double read_positive(const checkpoint& file, const std::string& key, double otherwise, double least = 0, double most = 1e12) {
  const auto value = file.number<double>(key);
  if (!value) return otherwise;
  if (!(*value > least && *value < most))
    throw format_error(cat("[model] ", file.path(), ": '", key, "' is ", *value, "; allowed: above ", least, " and below ", most));
  return *value;
}

[[nodiscard]] inline float read_cap(const checkpoint& file, const std::string& key, float otherwise) {
  const auto value = static_cast<float>(file.number<double>(key).value_or(otherwise));
  if (!(value >= 0 && value < 1e6F)) throw format_error(cat("[model] ", file.path(), ": '", key, "' is ", value, "; allowed: 0 (none) to below 1e6"));
  return value;
}

/// Divisors of RoPE frequencies that the file keeps as a tensor [pairs] of f32.
[[nodiscard]] inline std::vector<double> read_divisors(const checkpoint& file, const std::string& name, index_t pairs) {
  const checkpoint_tensor* t = file.find_tensor(name);
  if (t == nullptr) throw format_error(cat("[model] ", file.path(), ": tensor '", name, "' is missing, which the file's RoPE scaling needs"));
  if (t->type != dtype::f32 || t->shape.size() != 1 || t->shape[0] != pairs)
    throw format_error(cat("[model] ", file.path(), ": tensor '", name, "' is ", blockattn::name(t->type), " with ", t->matrix().rows * t->matrix().columns,
                           " values; expected f32, [", pairs, "]"));
  std::vector<double> divisors;
  for (index_t i = 0; i < pairs; ++i) {
    float value = 0;
    std::memcpy(&value, t->bytes.data() + 4 * i, 4);
    if (!(value > 0 && value < 1e9F)) throw format_error(cat("[model] ", file.path(), ": tensor '", name, "' has the value ", value, " at ", i, "; allowed: above 0 and below 1e9"));
    divisors.push_back(value);
  }
  return divisors;
}

/// YaRN's divisors and magnitude from "<architecture>.rope.scaling.*".
inline void read_yarn(const checkpoint& file, const std::string& scaling, const model_config& c, rope_spec& rope) {
  yarn_scaling yarn;
  yarn.factor = read_positive(file, scaling + "factor", 1);
  yarn.original_context = read_positive(file, scaling + "original_context_length", static_cast<double>(c.context_length));
  yarn.beta_fast = read_positive(file, scaling + "yarn_beta_fast", 32);
  yarn.beta_slow = read_positive(file, scaling + "yarn_beta_slow", 1);
  rope.divisors = yarn_divisors(yarn, rope.base, rope.channels());
  rope.magnitude = (yarn.factor > 1 ? 0.1 * std::log(yarn.factor) + 1 : 1) * read_positive(file, scaling + "attn_factor", 1);
}

/// LongRoPE has two sets of divisors, by the length of the whole prompt. Cached keys can't change with that, so one set is chosen at load: the short one, and the
/// context then ends where it does, or the long one if the application asks for a longer context.
inline void read_longrope(const checkpoint& file, const std::string& scaling, index_t wanted, model_config& c, rope_spec& rope) {
  const index_t original = read_size(file, scaling + "original_context_length", 1, c.context_length);
  const double ratio = static_cast<double>(c.context_length) / static_cast<double>(original);
  const double magnitude = ratio > 1 ? std::sqrt(1 + std::log(ratio) / std::log(static_cast<double>(original))) : 1;
  rope.magnitude = read_positive(file, scaling + "attn_factor", magnitude);
  const bool long_context = wanted > original;
  rope.divisors = read_divisors(file, long_context ? "rope_factors_long.weight" : "rope_factors_short.weight", rope.pairs());
  if (long_context || original == c.context_length) return;
  c.rope_limit = cat("[model] ", file.path(), ": its RoPE (longrope) changes at ", original, " tokens, which cached keys can't; the context is limited to that. ",
                     "Load with load_options::context up to ", c.context_length, " for the long form.");
  c.context_length = original;
}

/// The RoPE that layers have unless a family says otherwise.
inline rope_spec read_rope(const checkpoint& file, const std::string& prefix, rope_pairing pairing, index_t wanted, model_config& c) {
  rope_spec rope{c.head_dim, c.rope_base, pairing};
  const std::string dimensions = prefix + "rope.dimension_count";
  rope.rotated = checked_size(file, dimensions, file.number<index_t>(dimensions).value_or(c.head_dim), 2, c.head_dim);
  if (rope.rotated % 2 != 0) throw format_error(cat("[model] ", file.path(), ": '", dimensions, "' is ", rope.rotated, "; it must be even"));
  const std::string scaling = prefix + "rope.scaling.";
  const std::string type(file.string(scaling + "type").value_or("none"));
  if (file.find_tensor("rope_freqs.weight") != nullptr) {  // "llama3", whatever the metadata call it
    rope.divisors = read_divisors(file, "rope_freqs.weight", rope.pairs());
  } else if (type == "longrope" || file.find_tensor("rope_factors_short.weight") != nullptr) {
    read_longrope(file, scaling, wanted, c, rope);
  } else if (type == "linear") {
    rope.divisors.assign(static_cast<std::size_t>(rope.pairs()), read_positive(file, scaling + "factor", read_positive(file, prefix + "rope.scale_linear", 1)));
  } else if (type == "yarn") {
    read_yarn(file, scaling, c, rope);
  } else if (type == "dynamic") {
    // Up to the context that the model was trained on it is no scaling at all; beyond, all angles would change with every token.
    c.rope_limit = cat("[model] ", file.path(), ": its RoPE (dynamic) changes all angles beyond ", c.context_length,
                       " tokens, which cached keys can't; the context is limited to that.");
  } else if (type != "none") {
    throw format_error(cat("[model] ", file.path(), ": RoPE scaling '", type, "' isn't supported; supported: none, linear, llama3 (rope_freqs.weight), yarn, longrope, dynamic"));
  }
  return rope;
}

/// Which layers slide: "<architecture>.attention.sliding_window_pattern" as a list of booleans or as a period, or the family's period.
[[nodiscard]] inline std::vector<bool> read_sliding(const checkpoint& file, const std::string& key, const family_facts& facts, index_t layers) {
  std::vector<bool> sliding;
  index_t period = facts.window_period;
  const auto found = file.metadata().find(key);
  if (found != file.metadata().end() && found->second.type == gguf_type::array) {
    for (const auto each : file.numbers<std::uint8_t>(key)) sliding.push_back(each != 0);
    if (static_cast<index_t>(sliding.size()) < layers)
      throw format_error(cat("[model] ", file.path(), ": '", key, "' has ", sliding.size(), " values; expected one for each of ", layers, " layers"));
    return sliding;
  }
  period = file.number<index_t>(key).value_or(period);
  if (period < 0) throw format_error(cat("[model] ", file.path(), ": '", key, "' is ", period, "; allowed: 0 or more"));
  for (index_t l = 0; l < layers; ++l) sliding.push_back(period == 0 || l % period < period - 1);
  return sliding;
}

inline void read_positions(const checkpoint& file, const std::string& prefix, const family_facts& facts, index_t wanted, model_config& c) {
  const bool native = file.string("blockattn.tensor_layout").value_or("gguf") == "huggingface";  // rows of Q and K as trained
  const rope_pairing pairing = native ? rope_pairing::halves : facts.pairing;
  c.norm_offset = native && facts.norms_lack_one ? 1.0F : 0.0F;
  c.ropes = {read_rope(file, prefix, pairing, wanted, c)};
  const std::string window_key = prefix + "attention.sliding_window";
  const index_t window = checked_size(file, window_key, file.number<index_t>(window_key).value_or(facts.window), 0, index_t{1} << 32);
  const auto sliding = read_sliding(file, window_key + "_pattern", facts, c.layers);
  const std::string base_key = prefix + "rope.freq_base_swa";
  const double window_base = read_positive(file, base_key, facts.window_rope_base, 1);
  const bool own_rope = window > 0 && window_base > 0;
  if (own_rope) c.ropes.push_back({c.head_dim, window_base, pairing, c.ropes[0].rotated});
  const auto roped = file.numbers<std::uint8_t>("blockattn.rope_layers");
  if (!roped.empty() && static_cast<index_t>(roped.size()) != c.layers)
    throw format_error(cat("[model] ", file.path(), ": 'blockattn.rope_layers' has ", roped.size(), " values; expected one for each of ", c.layers, " layers"));
  for (index_t l = 0; l < c.layers; ++l) {
    const bool slides = window > 0 && sliding[static_cast<std::size_t>(l)];
    const bool none = roped.empty() ? facts.rope_period > 0 && (l + 1) % facts.rope_period == 0 : roped[static_cast<std::size_t>(l)] == 0;
    c.positions.push_back({none ? -1 : (slides && own_rope ? 1 : 0), slides ? window : 0});
  }
}

inline void read_heads(const checkpoint& file, const std::string& prefix, model_config& c) {
  c.heads = read_size(file, prefix + "attention.head_count", 1, 4096);
  const std::string kv_key = prefix + "attention.head_count_kv";
  c.kv_heads = checked_size(file, kv_key, file.number<index_t>(kv_key).value_or(c.heads), 1, c.heads);
  if (c.heads % c.kv_heads != 0)
    throw format_error(cat("[model] ", file.path(), ": ", c.heads, " heads can't share ", c.kv_heads, " key heads; the first must be a multiple"));
  const std::string key_length = prefix + "attention.key_length";
  c.head_dim = checked_size(file, key_length, file.number<index_t>(key_length).value_or(c.width / c.heads), 8, max_head_dim);
  if (c.head_dim % 16 != 0) throw format_error(cat("[model] ", file.path(), ": heads of size ", c.head_dim, "; supported: multiples of 16 up to ", max_head_dim));
  const std::string value_length = prefix + "attention.value_length";
  if (const index_t values = file.number<index_t>(value_length).value_or(c.head_dim); values != c.head_dim)
    throw format_error(cat("[model] ", file.path(), ": '", value_length, "' is ", values, "; supported: the size of keys, ", c.head_dim));
}

}  // namespace detail

/// Family, shapes, scales and caps, as far as keys and values depend on them. Equal texts, equal arithmetic.
[[nodiscard]] inline std::string describe_shape(const model_config& c) {
  return cat(c.architecture, ' ', c.layers, ' ', c.width, ' ', c.heads, ' ', c.kv_heads, ' ', c.head_dim, ' ', c.feed_forward, ' ', std::hexfloat, c.norm_epsilon, ' ',
             c.norm_offset, ' ', c.attention_scale, ' ', c.attention_soft_cap, ' ', c.embedding_scale);
}

/// Every RoPE, and every layer's RoPE and window. Equal texts, equal arithmetic.
[[nodiscard]] inline std::string describe_positions(const model_config& c) {
  std::string text;
  for (const rope_spec& r : c.ropes) {
    text += cat("rope ", std::hexfloat, r.base, ' ', static_cast<int>(r.pairing), ' ', r.rotated, ' ', r.magnitude, ' ');
    for (const double divisor : r.divisors) text += cat(std::hexfloat, divisor, ' ');
  }
  for (const layer_positions& p : c.positions) text += cat("layer ", p.rope, ' ', p.window, ' ');
  return text;
}

/// All that keys and values depend on but the weights: family, shapes, scales, caps, every RoPE, every layer's window. Equal texts, equal arithmetic.
[[nodiscard]] inline std::string describe(const model_config& c) { return describe_shape(c) + ' ' + describe_positions(c); }

/// Reads "<architecture>.*" metadata of a family's file. `context`: the longest prompt and answer that the application wants, 0 for what the file says; it matters
/// for LongRoPE only. Throws format_error that names the key, what it holds and what is allowed.
[[nodiscard]] inline model_config read_config(const checkpoint& file, const family_facts& facts, index_t context = 0) {
  model_config c;
  c.architecture = file.string("general.architecture").value_or("");
  c.name = file.string("general.name").value_or("");
  const std::string prefix = c.architecture + ".";
  c.layers = detail::read_size(file, prefix + "block_count", 1, 1024);
  c.width = detail::read_size(file, prefix + "embedding_length", 8, 1 << 20);
  detail::read_heads(file, prefix, c);
  c.feed_forward = detail::read_size(file, prefix + "feed_forward_length", 8, 1 << 24);
  c.context_length = detail::read_size(file, prefix + "context_length", 1, index_t{1} << 32);
  c.rope_base = detail::read_positive(file, prefix + "rope.freq_base", 10000, 1);
  c.norm_epsilon = file.require<float>(prefix + "attention.layer_norm_rms_epsilon");
  if (!(c.norm_epsilon > 0 && c.norm_epsilon < 1))
    throw format_error(cat("[model] ", file.path(), ": '", prefix, "attention.layer_norm_rms_epsilon' is ", c.norm_epsilon, "; allowed: between 0 and 1"));
  const index_t scaled_by = facts.scaled_by_width_at == c.layers ? c.width / c.heads : c.head_dim;
  c.attention_scale = static_cast<float>(detail::read_positive(file, prefix + "attention.scale", 1 / std::sqrt(static_cast<double>(scaled_by)), 0, 1e3));
  c.attention_soft_cap = detail::read_cap(file, prefix + "attn_logit_softcapping", facts.attention_soft_cap);
  c.logit_soft_cap = detail::read_cap(file, prefix + "final_logit_softcapping", facts.logit_soft_cap);
  if (facts.scaled_embedding) c.embedding_scale = std::sqrt(static_cast<float>(c.width));
  detail::read_positions(file, prefix, facts, context, c);
  return c;
}

}  // namespace blockattn::inline v0
