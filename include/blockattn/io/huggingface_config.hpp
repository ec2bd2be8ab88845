// A config.json as transformers writes it, as the metadata that a GGUF file of the same model has.
//
// What a configuration doesn't say has the value that transformers' class for it has (versions 4 and 5: rope_scaling and rope_parameters). What this library doesn't
// compute is refused by name. Keys with the prefix "blockattn." are this library's own: blockattn.tensor_layout (rows of Q and K, and norms, as trained) and
// blockattn.rope_layers (which layers have a RoPE).
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/json.hpp"
#include "blockattn/io/checkpoint.hpp"

namespace blockattn::inline v0 {

namespace detail {

/// What transformers assumes for a model type where config.json says nothing. 0: it must be said, or follows from other numbers.
struct huggingface_family {
  std::string_view model_type;    ///< in config.json
  std::string_view architecture;  ///< in GGUF files
  index_t head_dim = 0;           ///< 0: hidden_size / num_attention_heads
  index_t heads = 0, kv_heads = 0;
  index_t context = 2048;
  double epsilon = 1e-6;
  double rope_base = 10000;
  bool tied = false;              ///< the output head is the embedding
  bool adjacent = false;          ///< GGUF files have the rows of Q and K in another order, for RoPE over adjacent channels
  bool gemma = false;
  index_t window = 0;
  index_t window_period = 0;      ///< every so-manieth layer sees everything
  bool window_needs_flag = false; ///< only with use_sliding_window
};

inline constexpr std::array<huggingface_family, 9> huggingface_families = {{
    {.model_type = "llama", .architecture = "llama", .adjacent = true},
    {.model_type = "mistral", .architecture = "mistral", .context = 131072, .adjacent = true, .window = 4096},
    {.model_type = "qwen2", .architecture = "qwen2", .context = 32768, .window = 4096, .window_needs_flag = true},
    {.model_type = "qwen3", .architecture = "qwen3", .head_dim = 128, .context = 32768, .window = 4096, .window_needs_flag = true},
    {.model_type = "gemma2", .architecture = "gemma2", .head_dim = 256, .kv_heads = 4, .context = 8192, .tied = true, .gemma = true, .window = 4096, .window_period = 2},
    {.model_type = "gemma3_text", .architecture = "gemma3", .head_dim = 256, .heads = 8, .kv_heads = 4, .context = 131072, .rope_base = 1e6, .tied = true, .gemma = true,
     .window = 4096, .window_period = 6},
    {.model_type = "phi3", .architecture = "phi3", .context = 4096, .epsilon = 1e-5},
    {.model_type = "smollm3", .architecture = "smollm3", .context = 32768, .rope_base = 2e6, .tied = true, .adjacent = true, .window = 4096, .window_needs_flag = true},
    {.model_type = "olmo2", .architecture = "olmo2", .epsilon = 1e-5},
}};

/// The family of a model type, or nullptr.
[[nodiscard]] inline const huggingface_family* find_huggingface_family(std::string_view model_type) {
  for (const huggingface_family& f : huggingface_families)
    if (f.model_type == model_type) return &f;
  return nullptr;
}

/// A number of an object, or `otherwise`.
template <class T>
[[nodiscard]] T number_or(const json_value& object, std::string_view key, T otherwise) {
  const auto value = object.find(key);
  return value ? value->number<T>() : otherwise;
}

class huggingface_config {
 public:
  huggingface_config(json_value config, const huggingface_family& family, checkpoint_builder& out)
      : config_(config), family_(family), out_(out), prefix_(cat(family.architecture, ".")) {}

  /// Sets all metadata of the model but its name, and adds the tensors that GGUF files keep RoPE's divisors in.
  void read() {
    check_activation();
    read_window();  // decides the architecture of mistral models
    out_.set_string("general.architecture", architecture_);
    out_.set_string("blockattn.tensor_layout", "huggingface");
    read_shapes();
    if (family_.gemma) read_gemma();
    read_rope();
    read_rope_layers();
  }

  [[nodiscard]] bool tied() const {
    const auto value = config_.find("tie_word_embeddings");
    return value ? value->boolean() : family_.tied;
  }

 private:
  [[nodiscard]] std::string key(std::string_view name) const { return prefix_ + std::string(name); }

  /// A size: checked against what GGUF files can say, and by read_config() against what makes sense.
  void set_size(std::string_view name, index_t value) {
    if (value < 0 || value > 0xffffffffLL) out_.fail("config.json: '", name, "' is ", value, "; allowed: 0 to 4294967295");
    out_.set_number(key(name), static_cast<std::uint32_t>(value));
  }
  void set_float(std::string_view name, double value) { out_.set_number(key(name), static_cast<float>(value)); }

  void check_activation() const {
    const char* key = family_.gemma ? "hidden_activation" : "hidden_act";
    const char* expected = family_.gemma ? "gelu_pytorch_tanh" : "silu";
    if (const auto got = config_.find(key); got && got->string() != expected) got->fail("is '", printable(got->string()), "'; supported for ", family_.model_type, ": ", expected);
    if (const auto quantized = config_.find("quantization_config"))
      quantized->fail("is there: the weights are quantised in a way that isn't supported; supported: F32, F16 and BF16, or a GGUF file");
  }

  void read_shapes() {
    layers_ = config_.at("num_hidden_layers").number<index_t>();
    const auto width = config_.at("hidden_size").number<index_t>();
    const auto heads = family_.heads > 0 ? number_or(config_, "num_attention_heads", family_.heads) : config_.at("num_attention_heads").number<index_t>();
    const auto kv_heads = number_or(config_, "num_key_value_heads", family_.kv_heads > 0 ? family_.kv_heads : heads);
    if (heads <= 0) out_.fail("config.json: 'num_attention_heads' is ", heads, "; allowed: 1 or more");
    head_dim_ = number_or(config_, "head_dim", family_.head_dim > 0 ? family_.head_dim : width / heads);
    set_size("block_count", layers_);
    set_size("embedding_length", width);
    set_size("feed_forward_length", config_.at("intermediate_size").number<index_t>());
    context_ = number_or(config_, "max_position_embeddings", family_.context);
    set_size("attention.head_count", heads);
    set_size("attention.head_count_kv", kv_heads);
    set_size("attention.key_length", head_dim_);
    set_size("attention.value_length", head_dim_);
    if (const auto size = config_.find("vocab_size")) set_size("vocab_size", size->number<index_t>());
    set_float("attention.layer_norm_rms_epsilon", number_or(config_, "rms_norm_eps", family_.epsilon));
  }

  void read_gemma() {
    const auto scalar = number_or(config_, "query_pre_attn_scalar", 256.0);
    if (!(scalar > 0)) out_.fail("config.json: 'query_pre_attn_scalar' is ", scalar, "; allowed: above 0");
    set_float("attention.scale", 1 / std::sqrt(scalar));
    // Null means none; gemma2's class has caps of its own, and its files always say them.
    set_float("attn_logit_softcapping", number_or(config_, "attn_logit_softcapping", 0.0));
    set_float("final_logit_softcapping", number_or(config_, "final_logit_softcapping", 0.0));
    if (const auto both = config_.find("use_bidirectional_attention"); both && both->boolean()) both->fail("is true; supported: causal attention");
  }

  void read_window() {
    const bool said = has_key("sliding_window");
    const auto window = config_.find("sliding_window");
    index_t size = window ? window->number<index_t>() : (said ? 0 : family_.window);
    if (family_.window_needs_flag) {
      const auto flag = config_.find("use_sliding_window");
      if (!flag || !flag->boolean()) size = 0;
    }
    // A mistral model without a window is what GGUF files call llama.
    architecture_ = family_.architecture == "mistral" && size == 0 ? "llama" : family_.architecture;
    prefix_ = architecture_ + ".";
    set_size("attention.sliding_window", size);
    if (size == 0) return;
    const auto layers = config_.at("num_hidden_layers").number<index_t>();
    std::vector<bool> sliding;
    if (const auto types = config_.find("layer_types")) {
      for (const auto& type : types->elements()) {
        const std::string_view text = type.value.string();
        if (text != "sliding_attention" && text != "full_attention") types->fail("has '", printable(text), "'; supported: sliding_attention, full_attention");
        sliding.push_back(text == "sliding_attention");
      }
      if (static_cast<index_t>(sliding.size()) != layers) types->fail("has ", sliding.size(), " values; expected one for each of ", layers, " layers");
    } else {
      const auto period = number_or(config_, "sliding_window_pattern", number_or(config_, "_sliding_window_pattern", family_.window_period));
      const auto first = family_.window_needs_flag ? number_or(config_, "max_window_layers", layers) : 0;  // qwen2: layers from there on slide
      if (period < 0 || layers > 4096) out_.fail("config.json: 'sliding_window_pattern' is ", period, " and 'num_hidden_layers' ", layers, "; allowed: 0 or more, and up to 1024");
      for (index_t l = 0; l < layers; ++l) sliding.push_back(l >= first && (period == 0 || (l + 1) % period != 0));
    }
    set_flags("attention.sliding_window_pattern", sliding);
  }

  /// Whether a key is there, null included.
  [[nodiscard]] bool has_key(std::string_view wanted) const {
    for (const auto& member : config_.members())
      if (member.key == wanted) return true;
    return false;
  }

  void set_flags(std::string_view name, const std::vector<bool>& flags) {
    std::vector<std::uint8_t> bytes(flags.begin(), flags.end());
    out_.set_numbers(name.starts_with("blockattn.") ? std::string(name) : key(name), bytes);
  }

  /// The RoPE of all layers, or of those that see everything: rope_parameters of version 5 may have one for each kind of layer.
  void read_rope() {
    std::optional<json_value> scaling = config_.find("rope_parameters");
    if (!scaling) scaling = config_.find("rope_scaling");
    std::optional<double> window_base;
    if (const auto base = config_.find("rope_local_base_freq")) window_base = base->number<double>();
    if (scaling) {
      if (const auto local = scaling->find("sliding_attention")) {
        if (const auto base = local->find("rope_theta")) window_base = base->number<double>();
        if (const auto type = local->find("rope_type"); type && type->string() != "default") type->fail("of layers with a sliding window is '", printable(type->string()), "'; supported: default");
      }
      if (const auto global = scaling->find("full_attention")) scaling = global;
    }
    double base = number_or(config_, "rope_theta", family_.rope_base);
    if (scaling) base = number_or(*scaling, "rope_theta", base);
    set_float("rope.freq_base", base);
    if (family_.model_type == "gemma3_text") set_float("rope.freq_base_swa", window_base.value_or(10000));
    const double part = number_or(config_, "partial_rotary_factor", scaling ? number_or(*scaling, "partial_rotary_factor", 1.0) : 1.0);
    if (!(part > 0 && part <= 1)) out_.fail("config.json: 'partial_rotary_factor' is ", part, "; allowed: above 0, up to 1");
    rotated_ = static_cast<index_t>(static_cast<double>(head_dim_) * part);
    set_size("rope.dimension_count", rotated_);
    if (scaling) read_scaling(*scaling, base);
    set_size("context_length", context_);
  }

  void read_scaling(const json_value& scaling, double base) {
    auto type = scaling.find("rope_type");
    if (!type) type = scaling.find("type");
    const std::string kind(type ? type->string() : "default");
    if (kind == "default") return;
    if (kind == "llama3") return read_llama3(scaling, base);
    if (kind == "longrope" || kind == "su") return read_longrope(scaling);
    if (kind != "linear" && kind != "dynamic" && kind != "yarn")
      scaling.fail("is of type '", printable(kind), "'; supported: default, linear, llama3, yarn, longrope, dynamic");
    out_.set_string(key("rope.scaling.type"), kind);
    const auto factor = scaling.at("factor").number<double>();
    set_float("rope.scaling.factor", factor);
    if (kind == "yarn") read_yarn(scaling, factor);
  }

  /// llama.cpp keeps what each frequency is divided by in a tensor.
  void read_llama3(const json_value& scaling, double base) {
    const auto factor = scaling.at("factor").number<double>(), low = scaling.at("low_freq_factor").number<double>(), high = scaling.at("high_freq_factor").number<double>();
    const auto original = scaling.at("original_max_position_embeddings").number<double>();
    if (!(factor >= 1 && low > 0 && high > low && original > 0))
      scaling.fail("has factor ", factor, ", low_freq_factor ", low, ", high_freq_factor ", high, ", original_max_position_embeddings ", original,
                   "; allowed: factor of 1 or more, 0 < low < high, original above 0");
    constexpr double turn = 6.283185307179586;
    std::vector<float> divisors;
    for (index_t i = 0; i < std::min<index_t>(rotated_ / 2, 65536); ++i) {
      const double wave = turn * std::pow(base, 2 * static_cast<double>(i) / static_cast<double>(rotated_));
      const double smooth = (original / wave - low) / (high - low);
      const double divisor = wave < original / high ? 1 : wave > original / low ? factor : 1 / ((1 - smooth) / factor + smooth);
      divisors.push_back(static_cast<float>(divisor));
    }
    if (divisors.empty()) out_.fail("config.json: heads of size ", head_dim_, " have no channels to rotate");
    out_.add_floats("rope_freqs.weight", divisors);
  }

  void read_yarn(const json_value& scaling, double factor) {
    if (const auto truncate = scaling.find("truncate"); truncate && !truncate->boolean()) truncate->fail("is false; supported for yarn: true");
    const auto original = number_or(scaling, "original_max_position_embeddings", context_);
    set_size("rope.scaling.original_context_length", original);
    set_float("rope.scaling.yarn_beta_fast", number_or(scaling, "beta_fast", 32.0));
    set_float("rope.scaling.yarn_beta_slow", number_or(scaling, "beta_slow", 1.0));
    const auto magnitude = [&](double times) { return factor > 1 ? 0.1 * times * std::log(factor) + 1 : 1; };
    std::optional<double> attention;
    const double mscale = number_or(scaling, "mscale", 0.0), all = number_or(scaling, "mscale_all_dim", 0.0);
    if (mscale != 0 && all != 0) attention = magnitude(mscale) / magnitude(all);
    if (const auto given = scaling.find("attention_factor")) attention = given->number<double>();
    if (attention) set_float("rope.scaling.attn_factor", *attention / magnitude(1));  // read_config() multiplies by the paper's
    if (original > 0 && factor > 1 && factor < 1e6 && original < (index_t{1} << 31)) context_ = std::max(context_, static_cast<index_t>(static_cast<double>(original) * factor));
  }

  void read_longrope(const json_value& scaling) {
    out_.set_string(key("rope.scaling.type"), "longrope");
    const auto given = config_.find("original_max_position_embeddings");
    const auto original = given ? given->number<index_t>() : number_or(scaling, "original_max_position_embeddings", context_);
    set_size("rope.scaling.original_context_length", original);
    for (const char* unsupported : {"short_mscale", "long_mscale"})
      if (scaling.find(unsupported)) scaling.fail("has '", unsupported, "', which isn't supported");
    if (const auto attention = scaling.find("attention_factor")) set_float("rope.scaling.attn_factor", attention->number<double>());
    for (const auto& [from, to] : {std::pair{"short_factor", "rope_factors_short.weight"}, std::pair{"long_factor", "rope_factors_long.weight"}}) {
      const json_value list = scaling.at(from);
      std::vector<float> divisors;
      for (const auto& value : list.elements()) divisors.push_back(value.value.number<float>());
      if (static_cast<index_t>(divisors.size()) != rotated_ / 2) list.fail("has ", divisors.size(), " numbers; expected one for each of ", rotated_ / 2, " pairs of channels");
      out_.add_floats(to, divisors);
    }
  }

  /// smollm3: a list of 1 (the layer has a RoPE) and 0, or every so-manieth layer has none.
  void read_rope_layers() {
    if (family_.model_type != "smollm3") return;
    std::vector<bool> rope;
    if (const auto list = config_.find("no_rope_layers")) {
      for (const auto& value : list->elements()) rope.push_back(value.value.number<int>() != 0);
      if (static_cast<index_t>(rope.size()) != layers_) list->fail("has ", rope.size(), " values; expected one for each of ", layers_, " layers");
    } else {
      const auto interval = number_or(config_, "no_rope_layer_interval", index_t{4});
      if (interval < 1 || layers_ > 4096) out_.fail("config.json: 'no_rope_layer_interval' is ", interval, "; allowed: 1 or more");
      for (index_t l = 0; l < layers_; ++l) rope.push_back((l + 1) % interval != 0);
    }
    set_flags("blockattn.rope_layers", rope);
  }

  json_value config_;
  const huggingface_family& family_;
  checkpoint_builder& out_;
  std::string architecture_, prefix_;
  index_t layers_ = 0, head_dim_ = 0, context_ = 0, rotated_ = 0;
};

}  // namespace detail
}  // namespace blockattn::inline v0
