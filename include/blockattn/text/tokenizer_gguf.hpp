// The tokenizer of a GGUF file.
//
// Read from tokenizer.ggml.*: model ("gpt2": byte-level byte-pair encoding; "llama": SentencePiece's byte-pair encoding by
// scores; "gemma4": byte-pair encoding of characters by merges; "t5": unigram), pre (how words are cut, see
// pre_tokenizer_kinds.hpp), tokens, token_type, scores, merges, precompiled_charsmap, add_space_prefix,
// remove_extra_whitespaces, bos/eos/eot/eom/unknown_token_id, add_bos_token, add_eos_token.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/parts.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/checkpoint.hpp"
#include "blockattn/text/charsmap.hpp"
#include "blockattn/text/merge_reader.hpp"
#include "blockattn/text/pre_tokenizer_kinds.hpp"
#include "blockattn/text/tokenizer_parts.hpp"

namespace blockattn::inline v0::detail {

/// Reads one file's tokenizer. Throws format_error: vocabulary missing, damaged or absurd; kind or pre-tokenizer not
/// supported (named, with those that are).
class gguf_tokenizer_reader {
 public:
  explicit gguf_tokenizer_reader(const checkpoint& file) : file_(&file) {
    parts_.where = cat("[tokenizer] ", file.path(), ": ");
  }

  [[nodiscard]] tokenizer_parts read() && {
    const std::string model = read_model();
    const std::vector<std::string_view> texts = file_->strings("tokenizer.ggml.tokens");
    read_tokens(texts);
    if (model == "gpt2") read_byte_level();
    else if (model == "t5") read_unigram();
    else read_sentencepiece(model == "gemma4");
    read_policy(model);
    finish_ends(parts_);
    return std::move(parts_);
  }

 private:
  static constexpr std::size_t max_tokens = std::size_t{1} << 24;

  [[nodiscard]] std::string read_model() {
    const auto model = file_->string("tokenizer.ggml.model");
    if (!model) parts_.fail("tokenizer.ggml.model is missing. The file has no vocabulary; use a complete model file.");
    if (*model == "gpt2") parts_.model = word_model::byte_bpe;
    else if (*model == "llama") parts_.model = word_model::score_bpe;
    else if (*model == "gemma4") parts_.model = word_model::char_bpe;
    else if (*model == "t5") parts_.model = word_model::unigram;
    else
      parts_.fail("the vocabulary is of kind '", printable(*model),
                  "'; supported: 'gpt2' (byte-level byte-pair encoding), 'llama' (SentencePiece), 'gemma4', 't5' (unigram)");
    return std::string(*model);
  }

  // Tokens

  void read_tokens(const std::vector<std::string_view>& texts) {
    const auto kinds = file_->numbers<int>("tokenizer.ggml.token_type");
    if (texts.empty())
      parts_.fail("tokenizer.ggml.tokens is missing or empty. The file has no vocabulary; use a complete model file.");
    if (kinds.size() != texts.size())
      parts_.fail("tokenizer.ggml.token_type has ", kinds.size(), " entries, tokenizer.ggml.tokens ", texts.size(),
                  "; they must agree. Convert the model again with a current converter.");
    if (texts.size() > max_tokens) parts_.fail(texts.size(), " tokens; allowed: up to ", max_tokens);
    std::size_t bytes = 0;
    for (const auto text : texts) bytes += text.size();
    parts_.tokens.reserve(texts.size(), bytes);
    for (std::size_t id = 0; id < texts.size(); ++id) {
      if (kinds[id] < 1 || kinds[id] > 6)
        parts_.fail("token ", id, " has type ", kinds[id], "; allowed: 1 (normal) to 6 (byte). Corrupt or newer file.");
      add_token(texts[id], static_cast<token_kind>(kinds[id]));
    }
    parts_.tokens.index([&](token_id first, token_id second) {
      if (kinds[static_cast<std::size_t>(first)] == kinds[static_cast<std::size_t>(second)] && parts_.tokens.kind(first) == token_kind::normal)
        parts_.fail("tokens ", first, " and ", second, " are both '", printable(texts[static_cast<std::size_t>(first)]),
                    "'; tokens must differ. Corrupt file.");
      return parts_.tokens.kind(second) == token_kind::normal;
    });
  }

  void add_token(std::string_view text, token_kind kind) {
    const bool byte_level = parts_.model == word_model::byte_bpe;
    const bool written = kind == token_kind::normal || kind == token_kind::user_defined;
    std::string_view stands_for = text;
    bool encodable = written;
    if (kind == token_kind::byte) {
      stands_for = read_byte(text);
    } else if (byte_level && kind == token_kind::normal) {
      buffer_.clear();
      encodable = append_bytes_of(text, buffer_);  // else: taken as it is, and never a result of merges
      if (encodable) stands_for = buffer_;
    } else if (!byte_level && written && text.find(meta_space) != std::string_view::npos) {
      buffer_.clear();
      append_folded(text, buffer_);
      stands_for = buffer_;
    }
    const auto id = static_cast<token_id>(parts_.tokens.size());
    parts_.tokens.add(stands_for, kind, encodable);
    if (kind == token_kind::byte && parts_.byte_tokens[static_cast<unsigned char>(stands_for[0])] < 0)
      parts_.byte_tokens[static_cast<unsigned char>(stands_for[0])] = id;
    if (kind == token_kind::unknown && parts_.unknown < 0) parts_.unknown = id;
    const bool control = kind == token_kind::control || kind == token_kind::unknown;
    if ((control || kind == token_kind::user_defined) && !text.empty() && is_valid_utf8(text))
      parts_.fixed.push_back({control ? std::string(text) : fixed_text_of(stands_for), id, control});
  }

  /// The text that a user-defined token is found by. Converters write spaces for U+2581. In a SentencePiece vocabulary, a run
  /// of spaces comes about by merges, of which it is the first; what is found as a whole is a run of U+2581.
  [[nodiscard]] std::string fixed_text_of(std::string_view text) const {
    const bool run = parts_.model == word_model::score_bpe && text.find_first_not_of(' ') == std::string_view::npos;
    return run ? replace_all(text, " ", meta_space) : std::string(text);
  }

  [[nodiscard]] std::string_view read_byte(std::string_view text) {
    const int value = byte_token_value(text);
    if (value < 0)
      parts_.fail("token ", parts_.tokens.size(), " is a byte token '", printable(text), "'; allowed: <0x00> to <0xFF>");
    buffer_.assign(1, static_cast<char>(value));
    return buffer_;
  }

  // Byte-level byte-pair encoding

  void read_byte_level() {
    const std::string_view name = file_->string("tokenizer.ggml.pre").value_or("(not given)");
    const pre_tokenizer_kind* kind = find_pre_tokenizer(name);
    if (kind == nullptr) {
      std::string names;
      for (const pre_tokenizer_kind& known : pre_tokenizer_kinds) names += cat(names.empty() ? "" : ", ", known.name);
      parts_.fail("tokenizer.ggml.pre is '", printable(name), "'; supported: ", names,
                  ". Convert the model again with a current converter, or use another model.");
    }
    if (file_->number<bool>("tokenizer.ggml.add_space_prefix").value_or(false))
      parts_.fail("tokenizer.ggml.add_space_prefix is set; supported: not set");
    parts_.kind = kind->name;
    parts_.words = pre_tokenizer(kind->rules());
    parts_.whole_words = kind->whole_words;
    parts_.adds_bos = kind->adds_bos;
    if (kind->composes) parts_.normal.add(normalizer::form(unicode_form::nfc));
    parts_.unknown = -1;
    parts_.byte_tokens.fill(-1);
    find_byte_tokens(parts_);
    read_merges();
  }

  /// Appends what a part of a merge stands for; false if it can't be a part of one.
  [[nodiscard]] bool append_part(std::string_view text) {
    if (parts_.model == word_model::byte_bpe) return append_bytes_of(text, buffer_);
    append_folded(text, buffer_);
    return true;
  }

  void read_merges() {
    const auto texts = file_->strings("tokenizer.ggml.merges");
    if (texts.empty()) parts_.fail("tokenizer.ggml.merges is missing or empty. Use a complete model file.");
    if (texts.size() > max_tokens) parts_.fail(texts.size(), " merges; allowed: up to ", max_tokens);
    parts_.merges = merge_table(texts.size());
    merge_reader reader(parts_.tokens, parts_.merges, [&](std::size_t i, const char* reason) {
      parts_.fail("merge ", i, " '", printable(texts[i]), "' ", reason, ". Corrupt file.");
    });
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::string_view text = texts[i];
      const std::size_t space = text.find(' ');
      buffer_.clear();
      bool valid = space != std::string_view::npos && space > 0 && space + 1 < text.size() && append_part(text.substr(0, space));
      const std::size_t left_size = buffer_.size();
      valid = valid && append_part(text.substr(space + 1));
      if (!valid)
        parts_.fail("merge ", i, " is '", printable(text), "'; allowed: two texts of the byte alphabet with a space between. Corrupt file.");
      reader.add(std::string_view(buffer_).substr(0, left_size), std::string_view(buffer_).substr(left_size));
    }
    reader.flush();
  }

  // SentencePiece

  void read_sentencepiece(bool by_merges) {
    parts_.kind = by_merges ? "gemma4" : "llama";
    parts_.fuse_unknown = true;
    parts_.normal.add(normalizer::replace(std::string(meta_space), " "));
    parts_.adds_bos = true;
    if (by_merges) read_merges();
    else read_scores();
    const bool prefix = file_->number<bool>("tokenizer.ggml.add_space_prefix").value_or(!by_merges);
    parts_.prefix = prefix ? space_prefix::always : space_prefix::none;
    parts_.strips_first_space = prefix;
    check_unknown();
    if (file_->string("general.architecture").value_or("") == "phi3") strip_after_marks();
  }

  /// The published Phi-3 tokenizer takes the white space after these marks away; GGUF files don't say so.
  void strip_after_marks() {
    for (fixed_text& f : parts_.fixed)
      f.strip_right = f.control && f.text != "<unk>" && f.text != "<s>" && f.text != "<|endoftext|>";
  }

  void read_unigram() {
    parts_.kind = "t5";
    parts_.fuse_unknown = true;
    parts_.adds_eos = true;
    read_scores();
    const auto table = file_->numbers<int>("tokenizer.ggml.precompiled_charsmap");
    if (!table.empty()) {
      std::string bytes;
      for (const int value : table) bytes += static_cast<char>(value);
      const auto map = std::make_shared<const charsmap>(bytes, parts_.where);
      parts_.normal.add({[](std::string_view text) { return !text.empty(); }, [map](std::string_view text) { return map->apply(text); }});
    }
    parts_.normal.add(normalizer::replace(std::string(meta_space), " "));
    if (file_->number<bool>("tokenizer.ggml.remove_extra_whitespaces").value_or(false)) parts_.normal.add(normalizer::single_spaces());
    const bool prefix = file_->number<bool>("tokenizer.ggml.add_space_prefix").value_or(true);
    parts_.prefix = prefix ? space_prefix::always : space_prefix::none;
    parts_.strips_first_space = prefix;
    check_unknown();
  }

  void read_scores() {
    parts_.scores = file_->numbers<float>("tokenizer.ggml.scores");
    if (parts_.scores.size() != static_cast<std::size_t>(parts_.tokens.size()))
      parts_.fail("tokenizer.ggml.scores has ", parts_.scores.size(), " entries, tokenizer.ggml.tokens ", parts_.tokens.size(),
                  "; they must agree. Convert the model again with a current converter.");
    for (std::size_t id = 0; id < parts_.scores.size(); ++id)
      if (std::isnan(parts_.scores[id])) parts_.fail("the score of token ", id, " is NaN. Corrupt file.");
    for (token_id id = 0; id < parts_.tokens.size(); ++id)
      if (parts_.tokens.kind(id) == token_kind::user_defined) parts_.scores[static_cast<std::size_t>(id)] = 0;  // the best
  }

  void check_unknown() {
    if (const auto id = special_id("tokenizer.ggml.unknown_token_id")) parts_.unknown = *id;
    bool bytes = true;
    for (const token_id id : parts_.byte_tokens) bytes = bytes && id >= 0;
    if (!bytes && parts_.unknown < 0)
      parts_.fail("neither tokens for all bytes nor an unknown token; a SentencePiece vocabulary has one or the other. Corrupt file.");
  }

  // What is added, and what ends an answer

  [[nodiscard]] std::optional<token_id> special_id(std::string_view key) const {
    const auto id = file_->number<std::int64_t>(key);
    if (id && (*id < 0 || *id >= parts_.tokens.size()))
      parts_.fail(key, " is ", *id, "; allowed: 0 to ", parts_.tokens.size() - 1, ". Corrupt file.");
    return id ? std::optional(static_cast<token_id>(*id)) : std::nullopt;
  }

  void read_policy(const std::string& model) {
    parts_.bos = special_id("tokenizer.ggml.bos_token_id");
    parts_.eos = special_id("tokenizer.ggml.eos_token_id");
    const auto adds_bos = file_->number<bool>("tokenizer.ggml.add_bos_token");
    const auto adds_eos = file_->number<bool>("tokenizer.ggml.add_eos_token");
    if (adds_bos.value_or(model == "gpt2" && parts_.adds_bos) && !parts_.bos)
      parts_.fail("tokenizer.ggml.add_bos_token is set, but there is no bos_token_id. Corrupt file.");
    if (adds_eos.value_or(false) && !parts_.eos)
      parts_.fail("tokenizer.ggml.add_eos_token is set, but there is no eos_token_id. Corrupt file.");
    parts_.adds_bos = adds_bos.value_or(parts_.adds_bos && parts_.bos.has_value());
    parts_.adds_eos = adds_eos.value_or(parts_.adds_eos && parts_.eos.has_value());
    for (const std::string_view key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
      if (const auto id = special_id(key)) parts_.ends.push_back(*id);
  }

  const checkpoint* file_;
  tokenizer_parts parts_;
  std::string buffer_;
};

[[nodiscard]] BLOCKATTN_PART tokenizer_parts read_tokenizer_gguf(const checkpoint& file);
#if BLOCKATTN_HAS_TEXT
BLOCKATTN_PART tokenizer_parts read_tokenizer_gguf(const checkpoint& file) { return gguf_tokenizer_reader(file).read(); }
#endif

}  // namespace blockattn::inline v0::detail
