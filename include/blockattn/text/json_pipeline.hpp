// What a tokenizer.json does to a text before and after its model: normalizers, pre-tokenizers, decoders.
//
// Normalizers: NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, Prepend, Precompiled, Sequence. Pre-tokenizers:
// ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace, Sequence. Decoders: ByteLevel, Metaspace,
// Replace, ByteFallback, Fuse, Strip, Sequence. Source: https://github.com/huggingface/tokenizers
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/json.hpp"
#include "blockattn/io/gguf_format.hpp"
#include "blockattn/text/charsmap.hpp"
#include "blockattn/text/oniguruma.hpp"
#include "blockattn/text/pre_tokenizer_kinds.hpp"
#include "blockattn/text/tokenizer_parts.hpp"

namespace blockattn::inline v0::detail {

/// The bytes that base64 stands for; nothing if it isn't base64.
[[nodiscard]] inline std::optional<std::string> from_base64(std::string_view text) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t digit = digits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out += static_cast<char>(bits >> count & 0xFFU);
  }
  return out;
}

/// Reads the three sections into `parts`. Throws format_error, which names what isn't supported.
class json_pipeline {
 public:
  explicit json_pipeline(tokenizer_parts& parts) : parts_(&parts) {}

  void read(const json_value& root) {
    spaces_ = writes_meta_space(root);
    if (const auto normalizer = root.find("normalizer")) read_normalizer(*normalizer);
    if (const auto pre_tokenizer = root.find("pre_tokenizer")) read_pre_tokenizer(*pre_tokenizer);
    if (joins_words_) fail_joined(root);
    parts_->words = pre_tokenizer(std::move(rules_));
    read_decoders(root);
  }

  /// Whether spaces are written U+2581 when the model gets the text.
  [[nodiscard]] bool meta_spaces() const { return spaces_; }

  /// Whether a part of that type is in a section.
  [[nodiscard]] static bool has(const std::optional<json_value>& section, std::string_view type) {
    if (!section) return false;
    if (type_of(*section) == type) return true;
    for (const std::string_view list : {"normalizers", "pretokenizers", "decoders"})
      if (const auto parts = section->find(list))
        for (const auto& [key, part] : parts->elements())
          if (has(part, type)) return true;
    return false;
  }

 private:
  [[nodiscard]] static std::string_view type_of(const json_value& part) { return part.at("type").string(); }

  [[nodiscard]] static bool flag(const json_value& value, std::string_view key, bool otherwise) {
    const auto found = value.find(key);
    return found ? found->boolean() : otherwise;
  }

  /// A pattern: {"String": text} or {"Regex": pattern}.
  struct pattern_text {
    std::string_view text;
    bool literal = false;
  };
  [[nodiscard]] static pattern_text pattern_of(const json_value& part) {
    const json_value pattern = part.at("pattern");
    if (const auto text = pattern.find("String")) return {text->string(), true};
    return {pattern.at("Regex").string(), false};
  }

  [[nodiscard]] static regex compile(const json_value& part, std::string_view pattern) {
    try {
      return regex(pattern, regex_trust::given, true);
    } catch (const argument_error& e) {
      part.fail("can't be used: ", e.what());
    }
  }
  [[nodiscard]] static regex compile(const json_value& part, pattern_text pattern) {
    if (pattern.literal) return compile(part, literal_pattern(pattern.text));
    try {
      return compile(part, from_oniguruma(pattern.text));
    } catch (const argument_error& e) {
      part.fail("can't be used: ", e.what());
    }
  }

  /// Whether some part turns spaces into U+2581.
  [[nodiscard]] static bool writes_meta_space(const json_value& root) {
    return has(root.find("pre_tokenizer"), "Metaspace") || replaces_spaces(root.find("normalizer"));
  }
  [[nodiscard]] static bool replaces_spaces(const std::optional<json_value>& part) {
    if (!part) return false;
    if (type_of(*part) == "Replace") return is_meta_replace(*part);
    if (const auto list = part->find("normalizers"))
      for (const auto& [key, one] : list->elements())
        if (replaces_spaces(one)) return true;
    return false;
  }
  [[nodiscard]] static bool is_meta_replace(const json_value& part) {
    const pattern_text pattern = pattern_of(part);
    return pattern.literal && pattern.text == " " && part.at("content").string() == meta_space;
  }

  /// A text of the file as this library writes it.
  [[nodiscard]] std::string own(std::string_view text) const { return spaces_ ? replace_all(text, meta_space, " ") : std::string(text); }

  /// From here on the text has U+2581 instead of spaces: here, spaces instead of U+2581.
  void fold() {
    if (!folded_) parts_->normal.add(normalizer::replace(std::string(meta_space), " "));
    folded_ = true;
  }

  // Normalizers

  void read_normalizer(const json_value& part) {
    const std::string_view type = type_of(part);
    if (type == "Sequence") {
      for (const auto& [key, one] : part.at("normalizers").elements()) read_normalizer(one);
    } else if (type == "NFC") {
      parts_->normal.add(normalizer::form(unicode_form::nfc));
    } else if (type == "NFD") {
      parts_->normal.add(normalizer::form(unicode_form::nfd));
    } else if (type == "NFKC") {
      parts_->normal.add(normalizer::form(unicode_form::nfkc));
    } else if (type == "NFKD") {
      parts_->normal.add(normalizer::form(unicode_form::nfkd));
    } else if (type == "Lowercase") {
      parts_->normal.add(normalizer::lowercase());
    } else if (type == "StripAccents") {
      parts_->normal.add(normalizer::strip_accents());
    } else if (type == "Strip") {
      if (folded_) part.fail("is a Strip after spaces became U+2581; not supported");
      parts_->normal.add(normalizer::strip(flag(part, "strip_left", true), flag(part, "strip_right", true)));
    } else if (type == "Prepend") {
      parts_->normal.add(normalizer::prepend(own(part.at("prepend").string())));
    } else if (type == "Replace") {
      read_replace(part);
    } else if (type == "Precompiled") {
      read_precompiled(part);
    } else {
      part.fail("is of type '", printable(type), "'; supported: NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, Prepend, Precompiled, Sequence");
    }
  }

  void read_replace(const json_value& part) {
    const pattern_text pattern = pattern_of(part);
    if (is_meta_replace(part)) return fold();
    if (pattern.literal && pattern.text.empty()) part.fail("replaces the empty text; allowed: a text that isn't empty");
    if (folded_ && !pattern.literal) part.fail("is a regular expression after spaces became U+2581; not supported");
    if (folded_ && pattern.text.find(' ') != std::string_view::npos) return;  // there are none any more
    std::string with = own(part.at("content").string());
    if (pattern.literal) parts_->normal.add(normalizer::replace(folded_ ? own(pattern.text) : std::string(pattern.text), std::move(with)));
    else parts_->normal.add(normalizer::replace(compile(part, pattern), std::move(with)));
  }

  void read_precompiled(const json_value& part) {
    const auto bytes = from_base64(part.at("precompiled_charsmap").string());
    if (!bytes) part.fail("has a precompiled_charsmap that isn't base64");
    if (bytes->empty()) return;
    const auto map = std::make_shared<const charsmap>(*bytes, parts_->where);
    parts_->normal.add({[](std::string_view text) { return !text.empty(); }, [map](std::string_view text) { return map->apply(text); }});
  }

  // Pre-tokenizers

  void read_pre_tokenizer(const json_value& part) {
    const std::string_view type = type_of(part);
    if (bytes_) part.fail("comes after ByteLevel; not supported");
    if (type == "Sequence") {
      for (const auto& [key, one] : part.at("pretokenizers").elements()) read_pre_tokenizer(one);
    } else if (type == "ByteLevel") {
      read_byte_level(part);
    } else if (type == "Metaspace") {
      read_metaspace(part);
    } else if (type == "Split") {
      read_split(part);
    } else if (type == "Digits") {
      cut(part, flag(part, "individual_digits", false) ? "\\p{N}" : "\\p{N}+", cut_mode::isolated);
    } else if (type == "Punctuation") {
      cut(part, "[\\p{P}!-/:-@\\[-`{-~]", mode_of(part, "Isolated"));
    } else if (type == "Whitespace" || type == "WhitespaceSplit") {
      if (folded_) return;  // a text without white space other than line ends and the like is one word
      joins_words_ = type == "WhitespaceSplit";
      if (joins_words_) return;
      cut(part, from_oniguruma("\\w+|[^\\w\\s]+"), cut_mode::removed, true);
    } else {
      part.fail("is of type '", printable(type), "'; supported: ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace, Sequence");
    }
  }

  void cut(const json_value& part, std::string_view pattern, cut_mode mode, bool invert = false) {
    rules_.push_back({compile(part, pattern), mode, invert});
  }

  [[nodiscard]] static cut_mode mode_of(const json_value& part, std::string_view otherwise) {
    constexpr std::pair<std::string_view, cut_mode> modes[] = {{"Isolated", cut_mode::isolated}, {"Removed", cut_mode::removed}, {"MergedWithPrevious", cut_mode::to_left},
                                                               {"MergedWithNext", cut_mode::to_right}, {"Contiguous", cut_mode::contiguous}};
    const auto given = part.find("behavior");
    const std::string_view name = given ? given->string() : otherwise;
    for (const auto& [known, mode] : modes)
      if (known == name) return mode;
    given->fail("is '", printable(name), "'; allowed: Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous");
  }

  void read_split(const json_value& part) {
    pattern_text pattern = pattern_of(part);
    std::string text;
    if (folded_) {
      if (!pattern.literal) part.fail("is a regular expression after spaces became U+2581; not supported");
      if (pattern.text.find(' ') != std::string_view::npos) return;  // there are none any more
      text = own(pattern.text);
      pattern.text = text;
    }
    if (pattern.text.empty()) part.fail("cuts at the empty text; allowed: a pattern that isn't empty");
    rules_.push_back({compile(part, pattern), mode_of(part, "Isolated"), flag(part, "invert", false)});
  }

  void read_byte_level(const json_value& part) {
    if (spaces_) part.fail("is ByteLevel after spaces became U+2581; not supported");
    if (flag(part, "add_prefix_space", true)) {
      if (!rules_.empty()) part.fail("adds a space to each piece that other pre-tokenizers have cut; supported: to the whole text");
      parts_->prefix = space_prefix::once;
    }
    if (flag(part, "use_regex", true)) rules_.push_back({regex(gpt2_pattern), cut_mode::isolated, false});
    bytes_ = true;
  }

  void read_metaspace(const json_value& part) {
    if (const auto text = part.find("replacement"); text && text->string() != meta_space)
      text->fail("is '", printable(text->string()), "'; supported: U+2581");
    const auto scheme = part.find("prepend_scheme");
    const std::string_view name = scheme ? scheme->string() : flag(part, "add_prefix_space", true) ? "always" : "never";
    if (name != "always" && name != "first" && name != "never") scheme->fail("is '", printable(name), "'; allowed: always, first, never");
    if (!rules_.empty()) part.fail("comes after pre-tokenizers that cut the text; supported: first, or after WhitespaceSplit");
    if (joins_words_) {  // words of their own, a space before each: as single spaces between them
      if (name != "always") part.fail("comes after WhitespaceSplit with the prepend_scheme '", printable(name), "'; supported: always");
      parts_->normal.add(normalizer::strip(true, true));
      parts_->normal.add(normalizer::replace(regex(from_oniguruma("\\s+(?=\\x{2581})")), ""));  // has its space already
      parts_->normal.add(normalizer::replace(regex(from_oniguruma("\\s+")), " "));
      joins_words_ = false;
    }
    fold();
    parts_->prefix = name == "always" ? space_prefix::once : name == "first" ? space_prefix::first : space_prefix::none;
    if (flag(part, "split", true)) rules_.push_back({regex(" "), cut_mode::to_right, false});
  }

  [[noreturn]] static void fail_joined(const json_value& root) {
    root.at("pre_tokenizer").fail("has WhitespaceSplit without Metaspace after it; not supported");
  }

  // Decoders

  void read_decoders(const json_value& root) {
    const auto decoder = root.find("decoder");
    if (!decoder) root.fail("has no decoder; supported: ByteLevel, Metaspace, and sequences of Replace, ByteFallback, Fuse, Strip");
    read_decoder(*decoder);
    if (bytes_ != decodes_bytes_) decoder->fail("doesn't fit the pre-tokenizer: ByteLevel must be in both or in none");
    if (spaces_ != decodes_spaces_) decoder->fail("doesn't fit the normalizer and the pre-tokenizer: U+2581 stands for spaces in one of them only");
  }

  void read_decoder(const json_value& part) {
    const std::string_view type = type_of(part);
    if (type == "Sequence") {
      for (const auto& [key, one] : part.at("decoders").elements()) read_decoder(one);
    } else if (type == "ByteLevel") {
      decodes_bytes_ = true;
    } else if (type == "Metaspace") {
      const auto scheme = part.find("prepend_scheme");
      decodes_spaces_ = true;
      parts_->strips_first_space = scheme ? scheme->string() != "never" : flag(part, "add_prefix_space", true);
    } else if (type == "Replace") {
      const pattern_text pattern = pattern_of(part);
      if (!pattern.literal || pattern.text != meta_space || part.at("content").string() != " ") part.fail("is a Replace of other texts; supported: of U+2581 by a space");
      decodes_spaces_ = true;
    } else if (type == "Strip") {
      const auto start = part.at("start").number<int>(), stop = part.at("stop").number<int>();
      if (part.at("content").string() != " " || start < 0 || start > 1 || stop != 0) part.fail("is a Strip of other texts; supported: of one space at the start");
      parts_->strips_first_space = start == 1;
    } else if (type != "ByteFallback" && type != "Fuse") {
      part.fail("is of type '", printable(type), "'; supported: ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, Sequence");
    }
  }

  tokenizer_parts* parts_;
  std::vector<cut_rule> rules_;
  bool spaces_ = false;         // some part writes U+2581 for spaces
  bool folded_ = false;         // it has come already
  bool bytes_ = false;          // ByteLevel has come
  bool joins_words_ = false;    // WhitespaceSplit has come
  bool decodes_bytes_ = false, decodes_spaces_ = false;
};

}  // namespace blockattn::inline v0::detail
