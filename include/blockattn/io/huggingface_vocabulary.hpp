// A tokenizer.json as the metadata in which GGUF files keep a vocabulary, so that other programs can read what quantising a folder writes.
//
// Only byte-level BPE whose way of cutting words has a name there (tokenizer.ggml.pre) and is one of four known by their published patterns: gpt-2, smollm, llama-bpe,
// qwen2. This library itself reads the tokenizer.json, which goes along as tokenizer.huggingface.json.
#pragma once

#include <array>
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

/// llama.cpp's name for the steps of a pre_tokenizer; empty if it isn't one of those known here.
[[nodiscard]] inline std::string_view pre_tokenizer_of(const json_value& root) {
  const auto top = root.find("pre_tokenizer");
  if (!top) return {};
  std::vector<json_value> steps;
  if (const auto list = top->find("pretokenizers"))
    for (const auto& step : list->elements()) steps.push_back(step.value);
  else
    steps.push_back(*top);
  bool digits = false, words = false;
  std::string_view pattern;
  for (const json_value& step : steps) {
    const std::string_view type = step.at("type").string();
    const auto flag = [&step](std::string_view key, bool otherwise) {
      const auto value = step.find(key);
      return value ? value->boolean() : otherwise;
    };
    if (type == "Digits" && flag("individual_digits", false)) digits = true;
    else if (type == "Split" && pattern.empty() && step.at("pattern").find("Regex")) pattern = step.at("pattern").at("Regex").string();
    else if (type == "ByteLevel" && !flag("add_prefix_space", true)) words = flag("use_regex", true);
    else return {};
  }
  if (words != pattern.empty()) return {};
  if (words) return digits ? "smollm" : "gpt-2";
  constexpr std::string_view begin = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})", end = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  if (digits || !pattern.starts_with(begin) || !pattern.ends_with(end) || pattern.size() < begin.size() + end.size()) return {};
  const std::string_view between = pattern.substr(begin.size(), pattern.size() - begin.size() - end.size());
  return between == "{1,3}" ? "llama-bpe" : between.empty() ? "qwen2" : "";
}

struct vocabulary_lists {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;  ///< as llama.cpp counts them: 1 normal, 3 control, 4 user-defined, 5 unused
};

/// Tokens by id, with those that are added; nothing if an id is absurd.
[[nodiscard]] inline std::optional<vocabulary_lists> read_vocabulary_lists(const json_value& root, std::size_t least) {
  constexpr std::size_t most = std::size_t{1} << 24;
  vocabulary_lists lists;
  const auto put = [&lists](std::int64_t id, std::string_view text, std::int32_t type) {
    if (id < 0 || id >= static_cast<std::int64_t>(most)) return false;
    const auto at = static_cast<std::size_t>(id);
    if (at >= lists.tokens.size()) {
      lists.tokens.resize(at + 1);
      lists.types.resize(at + 1, 5);
    }
    lists.tokens[at] = text;
    lists.types[at] = type;
    return true;
  };
  for (const auto& [text, id] : root.at("model").at("vocab").members())
    if (!put(id.number<std::int64_t>(), text, 1)) return std::nullopt;
  if (const auto added = root.find("added_tokens"))
    for (const auto& token : added->elements())
      if (!put(token.value.at("id").number<std::int64_t>(), token.value.at("content").string(), token.value.at("special").boolean() ? 3 : 4)) return std::nullopt;
  if (least > most) return std::nullopt;
  if (least > lists.tokens.size()) {
    lists.tokens.resize(least);
    lists.types.resize(least, 5);
  }
  for (std::size_t id = 0; id < lists.tokens.size(); ++id)
    if (lists.types[id] == 5) lists.tokens[id] = cat("[PAD", id, "]");
  return lists;
}

}  // namespace detail

/// Sets tokenizer.ggml.model, pre, tokens, token_type and merges from "tokenizer.huggingface.json" of `out`, with as many tokens as `rows` at least. False if that isn't
/// there or is of a kind that isn't known here (see above). Throws format_error for a damaged text.
inline bool add_gguf_vocabulary(checkpoint_builder& out, index_t rows) {
  const auto text = out.string("tokenizer.huggingface.json");
  if (!text) return false;
  const json_document document(*text, cat("[quantize] ", out.path(), ": tokenizer.json"));
  const json_value root = document.root(), model = root.at("model");
  const auto type = model.find("type");
  const auto fallback = model.find("byte_fallback");
  if (!type || type->string() != "BPE" || (fallback && fallback->boolean())) return false;
  const std::string_view pre = detail::pre_tokenizer_of(root);
  const auto lists = detail::read_vocabulary_lists(root, static_cast<std::size_t>(rows));
  if (pre.empty() || !lists) return false;
  std::vector<std::string> merges;
  for (const auto& merge : model.at("merges").elements()) {
    if (merge.value.is_string()) {
      merges.emplace_back(merge.value.string());
      continue;
    }
    std::string pair;
    for (const auto& part : merge.value.elements()) pair += cat(pair.empty() ? "" : " ", part.value.string());
    merges.push_back(std::move(pair));
  }
  out.set_string("tokenizer.ggml.model", "gpt2");
  out.set_string("tokenizer.ggml.pre", pre);
  out.set_strings("tokenizer.ggml.tokens", lists->tokens);
  out.set_numbers("tokenizer.ggml.token_type", lists->types);
  out.set_strings("tokenizer.ggml.merges", merges);
  return true;
}

}  // namespace blockattn::inline v0
