// The tokenizer of a Hugging Face folder: tokenizer.json, as the library `tokenizers` writes it.
//
// Supported: models BPE (with a ByteLevel pre-tokenizer: over bytes; else over characters, with byte_fallback) and Unigram;
// added tokens with all their flags; the normalizers, pre-tokenizers and decoders that json_pipeline.hpp lists;
// TemplateProcessing with one token on each side. What isn't supported is refused by name.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/parts.hpp"
#include "blockattn/core/json.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/mapped_file.hpp"
#include "blockattn/text/json_pipeline.hpp"
#include "blockattn/text/merge_reader.hpp"
#include "blockattn/text/tokenizer_parts.hpp"

namespace blockattn::inline v0 {

/// The texts of a folder's files; those that are empty aren't there.
struct tokenizer_json_texts {
  std::string_view tokenizer;   ///< tokenizer.json
  std::string_view config;      ///< tokenizer_config.json: which tokens are BOS and EOS, and whether they are added
  std::string_view generation;  ///< generation_config.json: which tokens end an answer
  std::string name = "tokenizer.json";  ///< stands for the path in messages
};

namespace detail {

/// The files of a folder, mapped.
class tokenizer_json_files {
 public:
  explicit tokenizer_json_files(const std::filesystem::path& path)
      : path_(std::filesystem::is_directory(path) ? path / "tokenizer.json" : path), tokenizer_(path_),
        config_(open(path_.parent_path() / "tokenizer_config.json")), generation_(open(path_.parent_path() / "generation_config.json")) {}

  [[nodiscard]] tokenizer_json_texts texts() const {
    return {text(tokenizer_), config_ ? text(*config_) : "", generation_ ? text(*generation_) : "", path_.string()};
  }

 private:
  [[nodiscard]] static std::optional<mapped_file> open(const std::filesystem::path& path) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return std::nullopt;
    return mapped_file(path);
  }
  [[nodiscard]] static std::string_view text(const mapped_file& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }

  std::filesystem::path path_;
  mapped_file tokenizer_;
  std::optional<mapped_file> config_, generation_;
};

/// Reads one tokenizer.json. Throws format_error.
class json_tokenizer_reader {
 public:
  json_tokenizer_reader(const tokenizer_json_texts& texts, index_t vocab_size)
      : texts_(&texts), document_(texts.tokenizer, cat("[tokenizer] ", texts.name)), wanted_size_(vocab_size) {
    parts_.where = cat("[tokenizer] ", texts.name, ": ");
  }

  [[nodiscard]] tokenizer_parts read() && {
    const json_value root = document_.root();
    const json_value model = root.at("model");
    const std::string_view type = model_type(model);
    const bool bytes = json_pipeline::has(root.find("pre_tokenizer"), "ByteLevel");
    parts_.model = type == "Unigram" ? word_model::unigram : bytes ? word_model::byte_bpe : word_model::char_bpe;
    parts_.kind = type == "Unigram" ? "unigram" : bytes ? "byte-level" : "bpe";
    if (type == "Unigram" && bytes) model.fail("is Unigram with a ByteLevel pre-tokenizer; not supported");
    json_pipeline pipeline(parts_);
    pipeline.read(root);
    spaces_ = pipeline.meta_spaces();
    collect_model(model, type);
    collect_added(root.find("added_tokens"));
    add_tokens(model);
    place_fixed();
    if (type == "BPE") read_merges(model.at("merges"));
    if (const auto post = root.find("post_processor")) read_post_processor(*post);
    read_config();
    read_generation();
    finish_ends(parts_);
    return std::move(parts_);
  }

 private:
  /// A token before it is in the vocabulary.
  struct entry {
    std::string_view text;
    float score = 0;
    bool given = false;     // some token has this id
    bool in_model = false;  // text can become it without being marked
    std::optional<fixed_text> added;
    bool normalized = false;
  };

  static constexpr std::size_t max_tokens = std::size_t{1} << 24;

  [[nodiscard]] static std::string_view model_type(const json_value& model) {
    const auto type = model.find("type");
    const std::string_view name = type ? type->string() : model.find("merges") ? "BPE" : "Unigram";  // old files don't say
    if (name != "BPE" && name != "Unigram") model.fail("is of type '", printable(name), "'; supported: BPE, Unigram");
    return name;
  }

  [[nodiscard]] static bool flag(const json_value& value, std::string_view key, bool otherwise = false) {
    const auto found = value.find(key);
    return found ? found->boolean() : otherwise;
  }

  // Collecting tokens by id

  entry& at_id(const json_value& from, std::int64_t id) {
    if (id < 0 || static_cast<std::uint64_t>(id) >= max_tokens) from.fail("is ", id, "; allowed: ids from 0 to ", max_tokens - 1);
    const auto i = static_cast<std::size_t>(id);
    if (i >= entries_.size()) entries_.resize(i + 1);
    return entries_[i];
  }

  void collect_model(const json_value& model, std::string_view type) {
    for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const auto text = model.find(key); text && !text->string().empty()) text->fail("is '", printable(text->string()), "'; supported: none");
    const json_value vocabulary = model.at("vocab");
    if (vocabulary.size() == 0) vocabulary.fail("is empty");
    if (vocabulary.size() > max_tokens) vocabulary.fail("has ", vocabulary.size(), " tokens; allowed: up to ", max_tokens);
    entries_.reserve(vocabulary.size() + 1024);
    if (type == "BPE") {
      for (const auto& [text, id] : vocabulary.members()) {
        entry& e = at_id(id, id.number<std::int64_t>());
        if (e.given) id.fail("is ", id.number<std::int64_t>(), ", which '", printable(e.text), "' has already");
        e = {text, 0, true, true, {}, false};
      }
    } else {
      for (const auto& [key, pair] : vocabulary.elements()) {
        if (pair.size() != 2) pair.fail("has an element of size ", pair.size(), "; allowed: [text, score]");
        auto part = pair.elements().begin();
        const std::string_view text = (*part).value.string();
        const double score = (*++part).value.template number<double>();
        if (!std::isfinite(score) || std::abs(score) > 1e30) pair.fail("has the score ", score, "; allowed: finite numbers up to 1e30");
        entries_.push_back({text, static_cast<float>(score), true, true, {}, false});
      }
    }
  }

  void collect_added(const std::optional<json_value>& list) {
    if (!list) return;
    for (const auto& [key, token] : list->elements()) {
      const std::string_view text = token.at("content").string();
      entry& e = at_id(token.at("id"), token.at("id").number<std::int64_t>());
      if (e.given && e.text != text) token.at("id").fail("belongs to '", printable(e.text), "', not to '", printable(text), "'");
      e.text = text;
      e.given = true;
      e.normalized = flag(token, "normalized");
      e.added = fixed_text{std::string(text), 0, flag(token, "special"), flag(token, "lstrip"), flag(token, "rstrip"), flag(token, "single_word")};
    }
  }

  // Filling the vocabulary

  void add_tokens(const json_value& model) {
    const auto unknown = model.find("unk_token");
    const bool byte_fallback = flag(model, "byte_fallback");
    parts_.fuse_unknown = parts_.model == word_model::unigram || flag(model, "fuse_unk");
    parts_.whole_words = flag(model, "ignore_merges");
    const std::size_t least = entries_.size();
    if (wanted_size_ != 0 && static_cast<std::size_t>(wanted_size_) < least)
      parts_.fail("has ", least, " tokens, the model ", wanted_size_, " rows for them. The files don't belong together.");
    entries_.resize(std::max(least, static_cast<std::size_t>(wanted_size_)));
    std::size_t bytes = 0;
    for (const entry& e : entries_) bytes += e.text.size();
    parts_.tokens.reserve(entries_.size(), bytes);
    for (const entry& e : entries_) add_token(e, byte_fallback, unknown && unknown->string() == e.text);
    parts_.tokens.index([this](token_id first, token_id second) -> bool {
      parts_.fail("tokens ", first, " and ", second, " are both '", printable(entries_[static_cast<std::size_t>(first)].text), "'; tokens must differ");
    });
    if (parts_.model == word_model::byte_bpe) find_byte_tokens(parts_);
    if (parts_.model == word_model::unigram)
      for (const entry& e : entries_) parts_.scores.push_back(e.score);
    if (const auto id = model.find("unk_id")) set_unknown(*id);
  }

  void set_unknown(const json_value& id) {
    const auto number = id.number<std::int64_t>();
    if (number < 0 || number >= parts_.tokens.size()) id.fail("is ", number, "; allowed: 0 to ", parts_.tokens.size() - 1);
    parts_.unknown = static_cast<token_id>(number);
  }

  void add_token(const entry& e, bool byte_fallback, bool unknown) {
    const auto id = static_cast<token_id>(parts_.tokens.size());
    const int byte = byte_fallback && e.in_model ? byte_token_value(e.text) : -1;
    const bool control = e.added && e.added->control;
    const bool plain = !e.added && byte < 0 && e.given && !unknown;
    std::string_view stands_for = e.text;
    bool encodable = e.in_model && !control && byte < 0 && !unknown;
    if (byte >= 0) {
      buffer_.assign(1, static_cast<char>(byte));
      stands_for = buffer_;
      parts_.byte_tokens[static_cast<std::size_t>(byte)] = id;
    } else if (parts_.model == word_model::byte_bpe && plain) {
      buffer_.clear();
      encodable = append_bytes_of(e.text, buffer_);
      if (encodable) stands_for = buffer_;
    } else if (spaces_ && !control) {
      encodable = encodable && e.text.find(' ') == std::string_view::npos;  // no text has a space when it comes here
      buffer_.clear();
      append_folded(e.text, buffer_);
      stands_for = buffer_;
    }
    if (unknown) parts_.unknown = id;
    const token_kind kind = !e.given ? token_kind::unused : control ? token_kind::control : e.added ? token_kind::user_defined
                            : byte >= 0 ? token_kind::byte : unknown ? token_kind::unknown : token_kind::normal;
    parts_.tokens.add(stands_for, kind, encodable);
  }

  /// Control tokens are found in the text as it is, so that only markup can have them; others as they ask for.
  void place_fixed() {
    for (std::size_t id = 0; id < entries_.size(); ++id) {
      if (!entries_[id].added || entries_[id].added->text.empty()) continue;
      fixed_text f = *std::move(entries_[id].added);
      f.id = static_cast<token_id>(id);
      const bool normalized = entries_[id].normalized && !f.control && !parts_.normal.empty();
      std::string buffer;
      if (normalized) f.text = std::string(parts_.normal.apply(f.text, buffer));
      if (!f.text.empty()) (normalized ? parts_.fixed_normalized : parts_.fixed).push_back(std::move(f));
    }
  }

  // Merges

  [[nodiscard]] bool append_part(std::string_view text) {
    if (parts_.model == word_model::byte_bpe) return append_bytes_of(text, buffer_);
    if (spaces_) append_folded(text, buffer_);
    else buffer_ += text;
    return true;
  }

  void read_merges(const json_value& merges) {
    if (merges.size() > max_tokens) merges.fail("has ", merges.size(), " merges; allowed: up to ", max_tokens);
    parts_.merges = merge_table(merges.size());
    merge_reader reader(parts_.tokens, parts_.merges, [&](std::size_t i, const char* reason) { merges.fail("has a merge, number ", i, ", that ", reason); });
    for (const auto& [key, merge] : merges.elements()) {
      const auto [left, right] = sides(merge);
      buffer_.clear();
      bool valid = !left.empty() && !right.empty() && append_part(left);
      const std::size_t left_size = buffer_.size();
      valid = valid && append_part(right);
      if (!valid) merge.fail("has the merge '", printable(left), "' + '", printable(right), "'; allowed: two texts of the vocabulary's alphabet that aren't empty");
      reader.add(std::string_view(buffer_).substr(0, left_size), std::string_view(buffer_).substr(left_size));
    }
    reader.flush();
  }

  /// [left, right], or "left right".
  [[nodiscard]] static std::pair<std::string_view, std::string_view> sides(const json_value& merge) {
    if (!merge.is_array()) {
      const std::string_view text = merge.string();
      const std::size_t space = text.find(' ');
      return {text.substr(0, space), space == std::string_view::npos ? std::string_view() : text.substr(space + 1)};
    }
    if (merge.size() != 2) merge.fail("has a merge of ", merge.size(), " parts; allowed: 2");
    auto part = merge.elements().begin();
    const std::string_view left = (*part).value.string();
    return {left, (*++part).value.string()};
  }

  // What is added to a text, and what ends an answer

  void read_post_processor(const json_value& post) {
    const std::string_view type = post.at("type").string();
    if (type == "Sequence") {
      for (const auto& [key, one] : post.at("processors").elements()) read_post_processor(one);
    } else if (type == "TemplateProcessing") {
      read_template(post);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      parts_.bos = named((*post.at("cls").elements().begin()).value);
      parts_.eos = named((*post.at("sep").elements().begin()).value);
      parts_.adds_bos = parts_.adds_eos = true;
    } else if (type != "ByteLevel") {
      post.fail("is of type '", printable(type), "'; supported: TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing, Sequence");
    }
  }

  void read_template(const json_value& post) {
    bool after = false;
    for (const auto& [key, piece] : post.at("single").elements()) {
      if (piece.find("Sequence")) {
        after = true;
        continue;
      }
      bool& adds = after ? parts_.adds_eos : parts_.adds_bos;
      if (adds) piece.fail("has more than one token on a side of the text; supported: one");
      adds = true;
      (after ? parts_.eos : parts_.bos) = named(piece.at("SpecialToken").at("id"));
    }
  }

  /// The id of a token that is named by its text.
  [[nodiscard]] token_id named(const json_value& text) const {
    const std::string_view wanted = text.string();
    for (std::size_t id = 0; id < entries_.size(); ++id)
      if (entries_[id].given && entries_[id].text == wanted) return static_cast<token_id>(id);
    text.fail("names the token '", printable(wanted), "', which the vocabulary lacks");
  }

  /// A token of tokenizer_config.json: its text, or an object with it.
  [[nodiscard]] std::optional<token_id> config_token(const json_value& config, std::string_view key) const {
    const auto value = config.find(key);
    if (!value) return std::nullopt;
    return named(value->is_object() ? value->at("content") : *value);
  }

  void read_config() {
    if (texts_->config.empty()) return;
    const json_document document(texts_->config, cat("[tokenizer] ", texts_->name, ", tokenizer_config.json"));
    const json_value config = document.root();
    if (const auto id = config_token(config, "bos_token")) parts_.bos = id;
    if (const auto id = config_token(config, "eos_token")) parts_.eos = id;
    const auto name = config.find("tokenizer_class");
    if (name && name->string() == "PreTrainedTokenizerFast") return;  // that class does what tokenizer.json says
    parts_.adds_bos = flag(config, "add_bos_token", parts_.adds_bos) && parts_.bos;
    parts_.adds_eos = flag(config, "add_eos_token", parts_.adds_eos) && parts_.eos;
  }

  void read_generation() {
    if (parts_.eos) parts_.ends.push_back(*parts_.eos);
    if (texts_->generation.empty()) return;
    const json_document document(texts_->generation, cat("[tokenizer] ", texts_->name, ", generation_config.json"));
    const auto ids = document.root().find("eos_token_id");
    if (!ids) return;
    const auto add = [this](const json_value& id) {
      const auto number = id.number<std::int64_t>();
      if (number < 0 || number >= parts_.tokens.size()) id.fail("is ", number, "; allowed: 0 to ", parts_.tokens.size() - 1);
      parts_.ends.push_back(static_cast<token_id>(number));
    };
    if (!ids->is_array()) return add(*ids);
    for (const auto& [key, id] : ids->elements()) add(id);
  }

  const tokenizer_json_texts* texts_;
  json_document document_;
  index_t wanted_size_;
  tokenizer_parts parts_;
  std::vector<entry> entries_;  // by id
  bool spaces_ = false;         // the pipeline writes spaces as U+2581
  std::string buffer_;
};

[[nodiscard]] BLOCKATTN_PART tokenizer_parts read_tokenizer_json(const tokenizer_json_texts& texts, index_t vocab_size);
#if BLOCKATTN_HAS_TEXT
BLOCKATTN_PART tokenizer_parts read_tokenizer_json(const tokenizer_json_texts& texts, index_t vocab_size) { return json_tokenizer_reader(texts, vocab_size).read(); }
#endif

}  // namespace detail
}  // namespace blockattn::inline v0
