// Text to token ids and back, by the vocabulary that a GGUF file carries.
//
// Read from the file: tokenizer.ggml.model (must be "gpt2", byte-level byte-pair encoding), pre (how words are cut, see
// pre_tokenizer.hpp), tokens, token_type, merges, and bos/eos/eot/eom_token_id, add_bos_token, add_space_prefix (must
// be off).
//
// Encoding: invalid UTF-8 becomes U+FFFD; control tokens (in markup) and user-defined tokens are cut out, the leftmost
// first, the longest of those that start there; what lies between is cut into words, and each word is merged. BOS is
// never added: adds_bos() says whether the model wants one. A byte that the vocabulary has no token for is left out, as
// the reference implementations do: in SmolLM2 these are the control characters 04, 06, 13, 14, 16, 1D (hexadecimal)
// and the first byte of characters from U+40000 to U+BFFFF, where Unicode has assigned none.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/gguf.hpp"
#include "blockattn/text/bpe.hpp"
#include "blockattn/text/pre_tokenizer.hpp"
#include "blockattn/text/prompt.hpp"
#include "blockattn/text/utf8.hpp"
#include "blockattn/text/vocabulary.hpp"

namespace blockattn::inline v0 {

/// A tokenizer. Immutable: any number of threads may use one object. Copies are cheap and share the vocabulary, which
/// is the object's own: the file may be closed.
class tokenizer {
 public:
  /// Throws format_error: vocabulary missing, damaged or absurd; kind or pre-tokenizer not supported (named, with those
  /// that are).
  [[nodiscard]] static tokenizer from_gguf(const checkpoint& file) { return tokenizer(file); }

  /// Token ids of `text`; with `markup`, control tokens in it are recognised. No BOS. Any bytes are accepted (see
  /// above).
  [[nodiscard]] std::vector<token_id> encode(std::string_view text, bool markup = true) const {
    if (is_valid_utf8(text)) return encode_valid(text, std::array{piece_end{text.size(), markup}});
    const std::string valid = to_valid_utf8(text).text;
    return encode_valid(valid, std::array{piece_end{valid.size(), markup}});
  }

  /// Token ids of a block: of its pieces' joined text, so that a merge may span a border; a control token must lie in
  /// one markup piece. If the joined text isn't valid UTF-8, each piece is made so by itself.
  [[nodiscard]] std::vector<token_id> encode(const text_block& block) const {
    std::string text = block.text();
    const bool valid = is_valid_utf8(text);
    if (!valid) text.clear();
    std::vector<piece_end> ends;
    std::size_t end = 0;
    for (const text_piece& piece : block.pieces) {
      if (!valid) text += to_valid_utf8(piece.text).text;
      end = valid ? end + piece.text.size() : text.size();
      ends.push_back({end, piece.markup});
    }
    return encode_valid(text, ends);
  }

  /// The tokens' bytes, one after the other; control tokens are left out unless `keep_control`. The result is UTF-8
  /// unless the ids start or end inside a character, or a model made them. Throws argument_error for an id outside of
  /// the vocabulary.
  [[nodiscard]] std::string decode(std::span<const token_id> ids, bool keep_control = false) const {
    std::string result;
    for (const token_id id : ids)
      if (const auto part = bytes(id); keep_control || !is_control(id)) result += part;
    return result;
  }

  /// The bytes that a token stands for; the text of a control token. Throws argument_error for an id outside of the
  /// vocabulary.
  [[nodiscard]] std::string_view bytes(token_id id) const {
    check(id);
    return state_->tokens.bytes(id);
  }

  /// Whether a token means something to the model instead of standing for text: control, unknown and unused tokens.
  [[nodiscard]] bool is_control(token_id id) const {
    check(id);
    const token_kind kind = state_->tokens.kind(id);
    return kind == token_kind::control || kind == token_kind::unknown || kind == token_kind::unused;
  }

  /// Whether an answer is over when the model gives this token: the file's eos, eot and eom, and control tokens known
  /// by their name.
  [[nodiscard]] bool ends_generation(token_id id) const {
    check(id);
    return std::binary_search(state_->ends.begin(), state_->ends.end(), id);
  }

  /// The token of exactly these bytes (a control token by its text), if there is one.
  [[nodiscard]] std::optional<token_id> find(std::string_view token_text) const {
    const auto fixed =
        token_text.empty() ? detail::fixed_texts::match{} : state_->fixed.longest_at(token_text, 0, token_text.size());
    if (fixed.length != 0 && fixed.length == token_text.size()) return fixed.id;
    const token_id id = token_text.empty() ? -1 : state_->tokens.find_normal(token_text);
    return id < 0 ? std::nullopt : std::optional(id);
  }

  [[nodiscard]] std::optional<token_id> bos() const { return state_->bos; }
  [[nodiscard]] std::optional<token_id> eos() const { return state_->eos; }
  [[nodiscard]] bool adds_bos() const { return state_->adds_bos; }  ///< whether the model wants BOS before a prompt
  [[nodiscard]] index_t vocab_size() const { return state_->tokens.size(); }
  [[nodiscard]] std::string_view pre_tokenizer_name() const { return state_->kind.name; }

 private:
  /// Everything, built once: members refer to the ones before them, so they stay where they are.
  struct state {
    explicit state(const checkpoint& file)
        : kind(read_kind(file)),
          splitter(kind.pattern),
          tokens(file),
          fixed(tokens.fixed()),
          merges(read_merges(file, tokens)) {
      find_direct();
      bos = special_id(file, "tokenizer.ggml.bos_token_id");
      eos = special_id(file, "tokenizer.ggml.eos_token_id");
      adds_bos = file.number<bool>("tokenizer.ggml.add_bos_token").value_or(kind.adds_bos);
      if (adds_bos && !bos)
        throw format_error(cat(detail::vocabulary_name(file),
                               "tokenizer.ggml.add_bos_token is set, but there is no bos_token_id. Corrupt file."));
      find_ends(file);
    }
    state(const state&) = delete;
    state& operator=(const state&) = delete;

    void find_direct();
    void find_ends(const checkpoint& file);
    [[nodiscard]] std::optional<token_id> special_id(const checkpoint& file, std::string_view key) const;

    pre_tokenizer_kind kind;
    pre_tokenizer splitter;
    vocabulary tokens;
    detail::fixed_texts fixed;
    merge_table merges;
    std::vector<bool> direct;      // [V] the token is what its own bytes are merged into
    std::size_t longest_word = 0;  // bytes of the longest of these
    std::optional<token_id> bos, eos;
    bool adds_bos = false;
    std::vector<token_id> ends;  // sorted
  };

  /// Where a piece of a text ends, and whether control tokens are recognised in it.
  struct piece_end {
    std::size_t end = 0;
    bool markup = false;
  };

  /// Encodes words; keeps its memory between them.
  class word_encoder {
   public:
    word_encoder(const state& s, std::vector<token_id>& out) : state_(&s), merger_(s.merges), out_(&out) {}

    void operator()(std::string_view word) {
      if (word.size() <= state_->longest_word) {
        const token_id id = state_->tokens.find_normal(word);
        if (id >= 0 && state_->direct[static_cast<std::size_t>(id)]) return out_->push_back(id);
      }
      merge(word);
    }

    /// By merges alone.
    void merge(std::string_view word) {
      tokens_.clear();
      for (const char c : word)
        if (const token_id id = state_->tokens.byte_token(static_cast<unsigned char>(c)); id >= 0)
          tokens_.push_back(id);
      merger_.merge(tokens_, *out_);
    }

   private:
    const state* state_;
    bpe_merger merger_;
    std::vector<token_id> tokens_;
    std::vector<token_id>* out_;
  };

  explicit tokenizer(const checkpoint& file) : state_(std::make_shared<const state>(file)) {}

  [[nodiscard]] static pre_tokenizer_kind read_kind(const checkpoint& file);
  [[nodiscard]] static merge_table read_merges(const checkpoint& file, const vocabulary& tokens);

  void check(token_id id) const {
    if (!state_->tokens.contains(id))
      throw argument_error(cat("[tokenizer] token id ", id, "; allowed: 0 to ", vocab_size() - 1));
  }

  /// `text` is valid UTF-8 and made of pieces that end at `ends`.
  [[nodiscard]] std::vector<token_id> encode_valid(std::string_view text, std::span<const piece_end> ends) const {
    std::vector<token_id> out;
    out.reserve(text.size() / 4 + 8);
    word_encoder encode_word(*state_, out);
    std::size_t begin = 0;  // of the ordinary text not yet encoded
    std::size_t piece = 0;
    for (std::size_t at = 0; at < text.size() && !state_->fixed.empty();) {
      while (at >= ends[piece].end) ++piece;
      const auto found = state_->fixed.may_start(text[at])
                             ? state_->fixed.longest_at(text, at, ends[piece].markup ? ends[piece].end : at)
                             : detail::fixed_texts::match{};
      if (found.length == 0) {
        ++at;
        continue;
      }
      state_->splitter.split(text.substr(begin, at - begin), encode_word);
      out.push_back(found.id);
      begin = at += found.length;
    }
    state_->splitter.split(text.substr(begin), encode_word);
    return out;
  }

  std::shared_ptr<const state> state_;
};

inline pre_tokenizer_kind tokenizer::read_kind(const checkpoint& file) {
  const std::string where = detail::vocabulary_name(file);
  const auto model = file.string("tokenizer.ggml.model");
  if (!model)
    throw format_error(
        cat(where, "tokenizer.ggml.model is missing. The file has no vocabulary; use a complete model file."));
  if (*model != "gpt2")
    throw format_error(
        cat(where, "the vocabulary is of kind '", *model, "'; supported: 'gpt2' (byte-level byte-pair encoding)"));
  const std::string_view name = file.string("tokenizer.ggml.pre").value_or("(not given)");
  const pre_tokenizer_kind* kind = find_pre_tokenizer(name);
  if (kind == nullptr) {
    std::string names;
    for (const pre_tokenizer_kind& known : pre_tokenizer_kinds) names += cat(names.empty() ? "" : ", ", known.name);
    throw format_error(cat(where, "tokenizer.ggml.pre is '", name, "'; supported: ", names,
                           ". Convert the model again with a current converter, or use another model."));
  }
  if (file.number<bool>("tokenizer.ggml.add_space_prefix").value_or(false))
    throw format_error(cat(where, "tokenizer.ggml.add_space_prefix is set; supported: not set"));
  return *kind;
}

inline merge_table tokenizer::read_merges(const checkpoint& file, const vocabulary& tokens) {
  const std::string where = detail::vocabulary_name(file);
  const auto texts = file.strings("tokenizer.ggml.merges");
  if (texts.empty())
    throw format_error(cat(where, "tokenizer.ggml.merges is missing or empty. Use a complete model file."));
  merge_table merges(texts.size());
  std::string bytes;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string_view text = texts[i];
    const std::size_t space = text.find(' ');
    bytes.clear();
    bool valid = space != std::string_view::npos && space > 0 && space + 1 < text.size() &&
                 detail::append_bytes_of(text.substr(0, space), bytes);
    const std::size_t left_size = bytes.size();
    valid = valid && detail::append_bytes_of(text.substr(space + 1), bytes);
    if (!valid)
      throw format_error(cat(where, "merge ", i, " is '", text,
                             "'; allowed: two texts of the byte alphabet with a space between. Corrupt file."));
    const token_id left = tokens.find_normal(std::string_view(bytes).substr(0, left_size));
    const token_id right = tokens.find_normal(std::string_view(bytes).substr(left_size));
    const token_id merged = tokens.find_normal(bytes);
    if (left < 0 || right < 0 || merged < 0)
      throw format_error(cat(where, "merge ", i, " '", text, "' needs a token that the vocabulary lacks: ",
                             left < 0    ? "its left part"
                             : right < 0 ? "its right part"
                                         : "its result",
                             ". Corrupt file."));
    if (!merges.add(left, right, merged))
      throw format_error(cat(where, "merge ", i, " '", text, "' is there twice. Corrupt file."));
  }
  return merges;
}

/// A word that is a token in its own right is looked up instead of merged, if merging would give that token (or the
/// kind says so).
inline void tokenizer::state::find_direct() {
  std::vector<token_id> merged;
  word_encoder encode_word(*this, merged);
  direct.resize(static_cast<std::size_t>(tokens.size()));
  for (token_id id = 0; id < tokens.size(); ++id) {
    const std::string_view bytes = tokens.bytes(id);
    if (tokens.kind(id) != token_kind::normal || tokens.find_normal(bytes) != id) continue;
    merged.clear();
    if (!kind.whole_words) encode_word.merge(bytes);
    if (!kind.whole_words && (merged.size() != 1 || merged[0] != id)) continue;
    direct[static_cast<std::size_t>(id)] = true;
    longest_word = std::max(longest_word, bytes.size());
  }
}

inline void tokenizer::state::find_ends(const checkpoint& file) {
  for (const std::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const auto id = special_id(file, key)) ends.push_back(*id);
  for (const std::string_view name : {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
                                      "<|end|>", "<|END_OF_TURN_TOKEN|>"}) {
    const auto found = fixed.longest_at(name, 0, name.size());
    if (found.length == name.size() && tokens.kind(found.id) == token_kind::control) ends.push_back(found.id);
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

inline std::optional<token_id> tokenizer::state::special_id(const checkpoint& file, std::string_view key) const {
  const auto id = file.number<std::int64_t>(key);
  if (id && (*id < 0 || *id >= tokens.size()))
    throw format_error(
        cat(detail::vocabulary_name(file), key, " is ", *id, "; allowed: 0 to ", tokens.size() - 1, ". Corrupt file."));
  return id ? std::optional(static_cast<token_id>(*id)) : std::nullopt;
}

}  // namespace blockattn::inline v0
