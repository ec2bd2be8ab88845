// Text to token ids and back.
//
// Byte-level byte-pair encoding, SentencePiece's byte-pair encoding and unigram, from the vocabulary of a GGUF file
// (tokenizer_gguf.hpp) or from a Hugging Face folder (tokenizer_json.hpp).
//
// Encoding: invalid UTF-8 becomes U+FFFD; control tokens (in markup) and user-defined tokens are cut out, the leftmost
// first, the longest of those that start there; what lies between is normalised and cut into words, and each word is
// merged. BOS is never added: adds_bos() says whether the model wants one. A byte or character that the vocabulary has no
// token for is the unknown token, or left out if there is none, as the reference implementations do: in SmolLM2 these are
// the control characters 04, 06, 13, 14, 16, 1D (hexadecimal) and the first byte of characters from U+40000 to U+BFFFF,
// where Unicode has assigned none.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/checkpoint.hpp"
#include "blockattn/text/prompt.hpp"
#include "blockattn/text/tokenizer_gguf.hpp"
#include "blockattn/text/tokenizer_json.hpp"
#include "blockattn/text/utf8.hpp"
#include "blockattn/text/word_encoder.hpp"

namespace blockattn::inline v0 {

/// A tokenizer. Immutable: any number of threads may use one object. Copies are cheap and share the vocabulary, which
/// is the object's own: the file may be closed.
class tokenizer {
 public:
  /// The tokenizer of a checkpoint: of its metadata, or of the tokenizer.json that it brings along. Throws format_error:
  /// vocabulary missing, damaged or absurd; kind or pre-tokenizer not supported (named, with those that are).
  [[nodiscard]] static tokenizer from_gguf(const checkpoint& file) {
    const auto json = file.string("tokenizer.huggingface.json");
    if (!json) return tokenizer(detail::read_tokenizer_gguf(file));
    const checkpoint_tensor* embedding = file.find_tensor("token_embd.weight");
    const index_t rows = embedding == nullptr ? 0 : embedding->matrix().rows;
    return from_json({*json, file.string("tokenizer.huggingface.config").value_or(""), file.string("tokenizer.huggingface.generation").value_or(""), file.path()}, rows);
  }

  /// The tokenizer of a Hugging Face folder, or of a tokenizer.json in one: that file, and beside it, where they are there,
  /// tokenizer_config.json (BOS and EOS) and generation_config.json (what ends an answer). `vocab_size`: rows of the
  /// embedding, if they are more than the tokens; those ids are unused tokens. Throws io_error and format_error: a part of
  /// the file that isn't supported is named.
  [[nodiscard]] static tokenizer from_json(const std::filesystem::path& path, index_t vocab_size = 0) {
    const detail::tokenizer_json_files files(path);
    return from_json(files.texts(), vocab_size);
  }

  /// The same from texts in memory, which need not outlive the call.
  [[nodiscard]] static tokenizer from_json(const tokenizer_json_texts& texts, index_t vocab_size = 0) {
    return tokenizer(detail::read_tokenizer_json(texts, vocab_size));
  }

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

  /// The tokens' bytes, one after the other; control tokens are left out unless `keep_control`, and the first space if
  /// strips_first_space(). The result is UTF-8 unless the ids start or end inside a character, or a model made them.
  /// Throws argument_error for an id outside of the vocabulary.
  [[nodiscard]] std::string decode(std::span<const token_id> ids, bool keep_control = false) const {
    std::string result;
    for (const token_id id : ids)
      if (const auto part = bytes(id); keep_control || !is_control(id)) result += part;
    if (strips_first_space() && result.starts_with(' ')) result.erase(0, 1);
    return result;
  }

  /// The bytes that a token stands for; the text of a control token. Throws argument_error for an id outside of the
  /// vocabulary.
  [[nodiscard]] std::string_view bytes(token_id id) const {
    check(id);
    return parts().tokens.bytes(id);
  }

  /// Whether a token means something to the model instead of standing for text: control, unknown and unused tokens.
  [[nodiscard]] bool is_control(token_id id) const {
    check(id);
    return parts().tokens.is_control(id);
  }

  /// Whether an answer is over when the model gives this token: the file's eos, eot and eom, and control tokens known
  /// by their name.
  [[nodiscard]] bool ends_generation(token_id id) const {
    check(id);
    return std::binary_search(parts().ends.begin(), parts().ends.end(), id);
  }

  /// The token of exactly these bytes (a control token by its text), if there is one.
  [[nodiscard]] std::optional<token_id> find(std::string_view token_text) const {
    if (token_text.empty()) return std::nullopt;
    for (const auto* fixed : {&state_->fixed, &state_->fixed_normalized})
      if (const auto found = fixed->longest_at(token_text, 0, token_text.size()); found.length == token_text.size()) return found.found->id;
    const token_id id = parts().tokens.find(token_text);
    return id < 0 ? std::nullopt : std::optional(id);
  }

  [[nodiscard]] std::optional<token_id> bos() const { return parts().bos; }
  [[nodiscard]] std::optional<token_id> eos() const { return parts().eos; }
  [[nodiscard]] bool adds_bos() const { return parts().adds_bos; }  ///< whether the model wants BOS before a prompt
  [[nodiscard]] bool adds_eos() const { return parts().adds_eos; }  ///< whether the model wants EOS after a text it reads
  [[nodiscard]] bool strips_first_space() const { return parts().strips_first_space; }  ///< encoding has put one there
  [[nodiscard]] index_t vocab_size() const { return parts().tokens.size(); }
  /// The name of the pre-tokenizer ("qwen2"), or of the kind of vocabulary where there is none ("llama").
  [[nodiscard]] std::string_view pre_tokenizer_name() const { return parts().kind; }

 private:
  /// Where a piece of a text ends, and whether control tokens are recognised in it.
  struct piece_end {
    std::size_t end = 0;
    bool markup = false;
  };

  /// What encoding one text needs: kept between its stretches.
  struct work {
    explicit work(const detail::tokenizer_state& s) : encode_word(s, out) {}

    std::vector<token_id> out;
    detail::word_encoder encode_word;
    pre_tokenizer::scratch memory;
    std::string buffer;
  };

  explicit tokenizer(detail::tokenizer_parts parts) : state_(std::make_shared<const detail::tokenizer_state>(std::move(parts))) {}

  [[nodiscard]] const detail::tokenizer_parts& parts() const { return state_->parts; }

  void check(token_id id) const {
    if (!parts().tokens.contains(id))
      throw argument_error(cat("[tokenizer] token id ", id, "; allowed: 0 to ", vocab_size() - 1));
  }

  /// `text` is valid UTF-8 and made of pieces that end at `ends`.
  [[nodiscard]] std::vector<token_id> encode_valid(std::string_view text, std::span<const piece_end> ends) const {
    work w(*state_);
    w.out.reserve(text.size() / 4 + 8);
    bool first = true;
    scan(state_->fixed, text, ends, w, [&](std::string_view stretch) {
      encode_stretch(stretch, std::exchange(first, false), w);
    });
    return std::move(w.out);
  }

  /// Cuts fixed texts out of `text`, appends their ids, and calls ordinary(std::string_view) for what lies between.
  template <class Ordinary>
  static void scan(const detail::fixed_texts& fixed, std::string_view text, std::span<const piece_end> ends, work& w, Ordinary&& ordinary) {
    std::size_t begin = 0;  // of the ordinary text not yet encoded
    std::size_t piece = 0;
    for (std::size_t at = 0; at < text.size() && !fixed.empty();) {
      if (!fixed.may_start(text, at)) {
        ++at;
        continue;
      }
      while (at >= ends[piece].end) ++piece;
      const auto [length, found] = fixed.longest_at(text, at, ends[piece].markup ? ends[piece].end : at);
      if (length == 0) {
        ++at;
        continue;
      }
      const std::string_view before = text.substr(std::min(begin, at), at - std::min(begin, at));
      ordinary(before.substr(0, before.size() - (found->strip_left ? detail::trailing_space(before) : 0)));
      w.out.push_back(found->id);
      at += length;
      begin = at + (found->strip_right ? detail::leading_space(text.substr(at)) : 0);  // that space may still be a fixed text
    }
    ordinary(text.substr(begin));
  }

  /// `first`: the text begins with it.
  void encode_stretch(std::string_view text, bool first, work& w) const {
    using detail::space_prefix;
    if (text.empty()) return;
    std::string_view normal = parts().normal.apply(text, w.buffer);
    const space_prefix prefix = parts().prefix;
    const bool wanted = prefix == space_prefix::always || (!normal.starts_with(' ') && (prefix == space_prefix::once || (prefix == space_prefix::first && first)));
    if (wanted && !normal.empty()) {
      if (normal.data() != w.buffer.data()) w.buffer.assign(normal);
      w.buffer.insert(0, 1, ' ');
      normal = w.buffer;
    }
    if (state_->fixed_normalized.empty()) return parts().words.split(normal, w.encode_word, w.memory);
    scan(state_->fixed_normalized, normal, std::array{piece_end{normal.size(), true}}, w,
         [&](std::string_view stretch) { parts().words.split(stretch, w.encode_word, w.memory); });
  }

  std::shared_ptr<const detail::tokenizer_state> state_;
};

}  // namespace blockattn::inline v0
