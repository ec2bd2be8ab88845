// What a tokenizer is made of, whatever file it was read from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/text/bpe.hpp"
#include "blockattn/text/fixed_texts.hpp"
#include "blockattn/text/normalizer.hpp"
#include "blockattn/text/pre_tokenizer.hpp"
#include "blockattn/text/vocabulary.hpp"

namespace blockattn::inline v0::detail {

/// How a word becomes tokens.
enum class word_model : std::uint8_t {
  byte_bpe,   ///< from single bytes, by ranked merges
  char_bpe,   ///< from characters, by ranked merges
  score_bpe,  ///< from characters, by the scores of what neighbours become (SentencePiece)
  unigram     ///< the best sum of scores (SentencePiece)
};

/// Whether a space is put before a text.
enum class space_prefix : std::uint8_t {
  none,
  always,  ///< before every stretch of text between fixed texts
  once,    ///< as always, unless it begins with one
  first    ///< as once, at the beginning of the whole text only
};

/// In vocabularies of SentencePiece a space is written U+2581. Here it is a space everywhere: in tokens, in the text that
/// is encoded (where U+2581 and the space are one character, as they are there), and in what tokens stand for.
inline constexpr std::string_view meta_space = "\xE2\x96\x81";

/// Appends `text` with a space for each U+2581.
inline void append_folded(std::string_view text, std::string& out) {
  std::size_t done = 0;
  for (std::size_t at = text.find(meta_space); at != std::string_view::npos; at = text.find(meta_space, done)) {
    out.append(text, done, at - done) += ' ';
    done = at + meta_space.size();
  }
  out.append(text, done);
}

struct tokenizer_parts {
  std::string where;  ///< begins messages: "[tokenizer] path: "
  std::string kind;   ///< the pre-tokenizer's name, or the model's
  vocabulary tokens;
  word_model model = word_model::byte_bpe;
  merge_table merges;                      ///< of byte_bpe and char_bpe
  std::vector<float> scores;               ///< [V] of score_bpe and unigram
  std::array<token_id, 256> byte_tokens;   ///< the token of each byte, or -1
  token_id unknown = -1;                   ///< of a character that has no other token; -1: it is left out
  bool fuse_unknown = false;               ///< several of these in a row are one token
  bool whole_words = false;                ///< a word that is a token is taken as that token, merges or not
  normalizer normal;
  space_prefix prefix = space_prefix::none;
  pre_tokenizer words;
  std::vector<fixed_text> fixed;             ///< found in the text as it is
  std::vector<fixed_text> fixed_normalized;  ///< found in normalised text
  bool strips_first_space = false;           ///< of a decoded text
  std::optional<token_id> bos, eos;
  bool adds_bos = false, adds_eos = false;
  std::vector<token_id> ends;  ///< tokens after which an answer is over

  tokenizer_parts() { byte_tokens.fill(-1); }

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw format_error(cat(where, parts...));
  }
};

/// The value of a byte token's text, "<0x00>" to "<0xFF>"; -1 if it is another text.
[[nodiscard]] constexpr int byte_token_value(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text.back() != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const std::size_t digit = std::string_view("0123456789ABCDEF").find(c);
    if (digit == std::string_view::npos) return -1;
    value = value * 16 + static_cast<int>(digit);
  }
  return value;
}

/// Control tokens that end an answer, by their text.
[[nodiscard]] inline bool ends_answers(std::string_view text) {
  constexpr std::string_view names[] = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
                                        "<|end|>", "<|END_OF_TURN_TOKEN|>", "<end_of_turn>", "<turn|>", "<|endofturn|>"};
  for (const std::string_view name : names)
    if (text == name) return true;
  return false;
}

/// Sets byte_tokens of a byte_bpe vocabulary from its tokens, and checks that printable ASCII has them.
inline void find_byte_tokens(tokenizer_parts& parts) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    parts.byte_tokens[byte] = parts.tokens.find({&character, 1});
    if (parts.byte_tokens[byte] < 0 && ((byte >= 32 && byte < 127) || byte == '\n'))
      parts.fail("no token for the byte ", byte, "; a byte-level vocabulary has one for each printable ASCII character. Corrupt file.");
  }
}

/// Adds control tokens known by their name to `ends`, and puts it in order.
inline void finish_ends(tokenizer_parts& parts) {
  for (const auto* list : {&parts.fixed, &parts.fixed_normalized})
    for (const fixed_text& f : *list)
      if (f.control && ends_answers(f.text)) parts.ends.push_back(f.id);
  std::sort(parts.ends.begin(), parts.ends.end());
  parts.ends.erase(std::unique(parts.ends.begin(), parts.ends.end()), parts.ends.end());
}

}  // namespace blockattn::inline v0::detail
