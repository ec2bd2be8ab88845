// A folder as transformers' save_pretrained writes it, as a checkpoint.
//
//   config.json                         shapes and constants (huggingface_config.hpp)
//   model.safetensors, or model.safetensors.index.json and the files it names
//   tokenizer.json                      becomes the metadata "tokenizer.huggingface.json", where it lies
//   chat_template.jinja, or chat_template in tokenizer_config.json: "tokenizer.chat_template"
//   tokenizer_config.json, generation_config.json: "tokenizer.huggingface.config" and ".generation", where they lie; from them ids of special tokens, and whether BOS is
//                                       added: "tokenizer.ggml.*"
//
// Tensors get llama.cpp's names and keep their rows as trained ("blockattn.tensor_layout" is "huggingface"). Files are mapped, and nothing but headers and JSON is read;
// only a tensor that doesn't lie at a multiple of its type's size (files of old writers) is copied.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "blockattn/core/json.hpp"
#include "blockattn/io/checkpoint.hpp"
#include "blockattn/io/huggingface_config.hpp"
#include "blockattn/io/mapped_file.hpp"
#include "blockattn/io/safetensors.hpp"

namespace blockattn::inline v0 {

namespace detail {

/// llama.cpp's name of a tensor of transformers' classes; empty if there is none. `sandwich`: the family has norms after attention, so that the norm called
/// post_attention_layernorm is one, and not the feed-forward's.
[[nodiscard]] inline std::string gguf_tensor_name(std::string_view name, bool sandwich) {
  for (const std::string_view prefix : {"model.language_model.", "language_model.model.", "language_model.", "model."})
    if (name.starts_with(prefix)) {
      name.remove_prefix(prefix.size());
      break;
    }
  if (name == "embed_tokens.weight") return "token_embd.weight";
  if (name == "norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  constexpr std::string_view layers = "layers.";
  if (!name.starts_with(layers)) return {};
  name.remove_prefix(layers.size());
  const std::size_t dot = name.find('.');
  const std::string_view number = name.substr(0, dot);
  const std::size_t last = name.rfind('.');
  if (dot == std::string_view::npos || number.empty() || number.size() > 5 || number.find_first_not_of("0123456789") != std::string_view::npos || last <= dot) return {};
  const std::string_view part = name.substr(dot + 1, last - dot - 1), kind = name.substr(last + 1);
  if (kind != "weight" && kind != "bias") return {};
  const std::pair<std::string_view, std::string_view> names[] = {
      {"input_layernorm", "attn_norm"},       {"self_attn.qkv_proj", "attn_qkv"},   {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},         {"self_attn.v_proj", "attn_v"},       {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},    {"self_attn.o_proj", "attn_output"},  {"post_attention_layernorm", sandwich ? "post_attention_norm" : "ffn_norm"},
      {"pre_feedforward_layernorm", "ffn_norm"}, {"mlp.gate_up_proj", "ffn_up"},    {"mlp.up_proj", "ffn_up"},
      {"mlp.gate_proj", "ffn_gate"},          {"mlp.down_proj", "ffn_down"},        {"post_feedforward_layernorm", "post_ffw_norm"}};
  for (const auto& [there, here] : names)
    if (part == there) return cat("blk.", number, ".", here, ".", kind);
  return {};
}

class huggingface_folder {
 public:
  explicit huggingface_folder(const std::filesystem::path& folder) : folder_(folder), out_("safetensors", folder.string(), "safetensors") {}

  [[nodiscard]] checkpoint open() {
    const auto text = require_text("config.json", "transformers' save_pretrained writes it beside the weights.");
    const json_document document(text, where("config.json"));
    const json_value root = document.root();
    const std::string model_type(root.at("model_type").string());
    // Models of images and text keep what concerns text apart; the rest isn't read.
    const auto inner = root.find("text_config");
    const json_value config = inner ? *inner : root;
    const std::string type = inner ? std::string(inner->at("model_type").string()) : model_type;
    const huggingface_family* family = find_huggingface_family(type);
    bool tied = false;
    if (family != nullptr) {
      huggingface_config reader(config, *family, out_);
      reader.read();
      tied = reader.tied();
    } else {
      out_.set_string("general.architecture", type);  // unknown: it can be looked at, and its tokenizer used
    }
    out_.set_string("general.name", folder_name());
    read_weights();
    add_tensors(family, tied, inner.has_value());
    read_tokenizer(config);
    return std::move(out_);
  }

 private:
  [[nodiscard]] std::string where(const std::string& file) const { return cat("[safetensors] ", (folder_ / file).string()); }

  [[nodiscard]] std::string folder_name() const {
    const auto name = (folder_ / "").lexically_normal().parent_path().filename().string();
    return name.empty() || name == "." ? "model" : name;
  }

  [[nodiscard]] bool has_file(const std::string& name) const {
    std::error_code ignored;
    return std::filesystem::exists(folder_ / name, ignored);
  }

  /// The text of a file of the folder, mapped for as long as the checkpoint lives.
  [[nodiscard]] std::string_view map_text(const std::string& name) {
    auto file = std::make_shared<const mapped_file>(folder_ / name);
    const auto bytes = file->bytes();
    out_.keep(std::move(file), 0);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  [[nodiscard]] std::string_view require_text(const std::string& name, std::string_view hint) {
    if (!has_file(name)) out_.fail("the folder has no ", name, ". ", hint);
    return map_text(name);
  }

  void read_weights() {
    if (has_file("model.safetensors")) return open_shard("model.safetensors");
    if (!has_file("model.safetensors.index.json"))
      out_.fail("the folder has neither model.safetensors nor model.safetensors.index.json. Other weights (pytorch_model.bin, ...) aren't supported; save the model again as safetensors.");
    const json_document document(map_text("model.safetensors.index.json"), where("model.safetensors.index.json"));
    std::map<std::string, std::set<std::string_view>, std::less<>> wanted;  // file → tensors
    for (const auto& [name, file] : document.root().at("weight_map").members()) {
      const std::string shard(file.string());
      if (shard.empty() || shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos || !shard.ends_with(".safetensors"))
        out_.fail("model.safetensors.index.json: tensor '", printable(name), "' is said to be in '", printable(shard), "'; allowed: a file of this folder that ends in .safetensors");
      wanted[shard].insert(name);
    }
    for (const auto& [shard, names] : wanted) {
      if (!has_file(shard)) out_.fail("'", shard, "', which model.safetensors.index.json names, is missing. Fetch it into the folder.");
      const std::size_t first = found_.size();
      open_shard(shard);
      std::set<std::string_view> missing = names;
      for (std::size_t i = first; i < found_.size(); ++i)
        if (missing.erase(found_[i].name) == 0)
          out_.fail(shard, " has the tensor '", printable(found_[i].name), "', which model.safetensors.index.json doesn't say. A file of another model?");
      if (!missing.empty()) out_.fail(shard, " lacks the tensor '", printable(*missing.begin()), "', which model.safetensors.index.json says is there. A file of another model?");
    }
  }

  void open_shard(const std::string& name) {
    const safetensors_file file(folder_ / name);
    out_.keep(file.file(), file.size_bytes());
    found_.insert(found_.end(), file.entries().begin(), file.entries().end());
  }

  void add_tensors(const huggingface_family* family, bool tied, bool text_part) {
    const bool sandwich = family != nullptr && (family->gemma || family->model_type == "olmo2");
    std::map<std::string, const safetensors_entry*> named;  // in the order of names, so that it doesn't matter which file holds what
    for (const safetensors_entry& entry : found_) {
      std::string name = family == nullptr ? entry.name : gguf_tensor_name(entry.name, sandwich);
      if (entry.name.ends_with("rotary_emb.inv_freq") && family != nullptr) continue;  // follows from the configuration
      if (name.empty() && text_part && !is_text(entry.name)) continue;
      if (name == "output.weight" && tied) continue;  // transformers doesn't read it either
      if (name.empty())
        out_.fail("tensor '", printable(entry.name), "' isn't part of a model '", family->model_type, "' as this library knows it. A variant that isn't supported?");
      if (const auto [place, fresh] = named.emplace(std::move(name), &entry); !fresh)
        out_.fail("tensors '", printable(entry.name), "' and '", printable(place->second->name), "' are the same one ('", place->first, "'). Corrupt folder?");
    }
    if (family != nullptr && !tied && named.count("output.weight") == 0)
      out_.fail("tensor 'lm_head.weight' is missing, and config.json doesn't tie it to the embedding (tie_word_embeddings). The folder is incomplete.");
    for (const auto& [name, entry] : named) add_tensor(name, *entry);
  }

  [[nodiscard]] static bool is_text(std::string_view name) {
    return !name.starts_with("vision_tower.") && !name.starts_with("model.vision_tower.") && !name.starts_with("multi_modal_projector.") && !name.starts_with("model.multi_modal_projector.");
  }

  void add_tensor(const std::string& name, const safetensors_entry& entry) {
    if (!entry.type)
      out_.fail("tensor '", printable(entry.name), "' has dtype ", entry.type_name, "; supported: F32, F16, BF16. Save the model in one of these, or use a GGUF file.");
    checkpoint_tensor tensor{name, *entry.type, {entry.shape.rbegin(), entry.shape.rend()}, entry.bytes};
    if (tensor.shape.empty() || tensor.shape.size() > 4 || entry.bytes.empty())
      out_.fail("tensor '", printable(entry.name), "' has shape ", tensor.shape.empty() ? "[]" : shape_text(tensor), "; allowed: 1 to 4 dimensions, none of them 0");
    if (reinterpret_cast<std::uintptr_t>(entry.bytes.data()) % static_cast<std::uintptr_t>(block_bytes(tensor.type)) != 0) {
      const auto copy = out_.allocate(entry.bytes.size());
      std::memcpy(copy.data(), entry.bytes.data(), copy.size());
      tensor.bytes = copy;
    }
    out_.add_tensor(std::move(tensor));
  }

  /// What is missing is no fault here: a model can be run on token ids alone.
  void read_tokenizer(const json_value& config) {
    if (has_file("tokenizer.json")) out_.set_string_view("tokenizer.huggingface.json", map_text("tokenizer.json"));
    std::optional<json_document> settings, generation;
    const auto open = [&](std::optional<json_document>& document, const std::string& file, std::string_view key) {
      if (!has_file(file)) return;
      const std::string_view text = map_text(file);
      document.emplace(text, where(file));
      out_.set_string_view(key, text);
    };
    open(settings, "tokenizer_config.json", "tokenizer.huggingface.config");
    open(generation, "generation_config.json", "tokenizer.huggingface.generation");
    if (settings && settings->root().find("add_bos_token")) out_.set_number("tokenizer.ggml.add_bos_token", settings->root().at("add_bos_token").boolean());
    for (const auto& [theirs, ours] : {std::pair{"bos_token_id", "tokenizer.ggml.bos_token_id"}, std::pair{"eos_token_id", "tokenizer.ggml.eos_token_id"}}) {
      auto id = generation ? generation->root().find(theirs) : std::nullopt;
      if (!id) id = config.find(theirs);
      if (id) set_ids(ours, *id);
    }
    if (settings)
      for (const auto& [theirs, ours] : {std::pair{"bos_token", "tokenizer.huggingface.bos_token"}, std::pair{"eos_token", "tokenizer.huggingface.eos_token"}})
        if (const auto token = settings->root().find(theirs)) out_.set_string(ours, token->is_object() ? token->at("content").string() : token->string());
    read_template(settings ? &*settings : nullptr);
  }

  /// An id, or a list of them: the first one under the key, all under the key and an "s".
  void set_ids(const std::string& key, const json_value& value) {
    std::vector<std::int32_t> ids;
    if (value.is_array())
      for (const auto& id : value.elements()) ids.push_back(id.value.number<std::int32_t>());
    else
      ids.push_back(value.number<std::int32_t>());
    for (const std::int32_t id : ids)
      if (id < 0) value.fail("is ", id, "; allowed: 0 or more");
    if (ids.empty()) return;
    out_.set_number(key, static_cast<std::uint32_t>(ids.front()));
    if (ids.size() > 1) out_.set_numbers(key + "s", ids);
  }

  void read_template(const json_document* settings) {
    if (has_file("chat_template.jinja")) return out_.set_string_view("tokenizer.chat_template", map_text("chat_template.jinja"));
    const auto value = settings != nullptr ? settings->root().find("chat_template") : std::nullopt;
    if (!value) return;
    if (value->is_string()) return out_.set_string("tokenizer.chat_template", value->string());
    for (const auto& each : value->elements())  // several, with names
      if (each.value.at("name").string() == "default") out_.set_string("tokenizer.chat_template", each.value.at("template").string());
  }

  std::filesystem::path folder_;
  checkpoint_builder out_;
  std::vector<safetensors_entry> found_;
};

}  // namespace detail

/// Opens a folder. A model type that this library doesn't know is opened with the names of its tensors as they are; a decoder refuses it. Throws io_error and
/// format_error: what is missing, corrupt, or not supported, named.
[[nodiscard]] inline checkpoint open_huggingface(const std::filesystem::path& folder) { return detail::huggingface_folder(folder).open(); }

}  // namespace blockattn::inline v0
