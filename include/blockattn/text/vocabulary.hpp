// The tokens of a vocabulary: their bytes in one piece of memory, what each of them is for, and the way back from bytes
// to a token.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/io/gguf.hpp"
#include "blockattn/text/bpe.hpp"

namespace blockattn::inline v0 {

/// What a token is for; the numbers of tokenizer.ggml.token_type.
enum class token_kind : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

namespace detail {

/// Finds the longest of some fixed texts at a place: a sorted list, narrowed character by character.
class fixed_texts {
 public:
  struct entry {
    std::string_view text;
    token_id id = 0;
    bool control = false;
  };
  struct match {
    std::size_t length = 0;
    token_id id = -1;
  };

  explicit fixed_texts(std::vector<entry> entries = {}) : entries_(std::move(entries)) {
    std::sort(entries_.begin(), entries_.end(), [](const entry& a, const entry& b) { return a.text < b.text; });
    for (const entry& e : entries_) starts_[static_cast<unsigned char>(e.text.front())] = true;
  }

  [[nodiscard]] bool empty() const { return entries_.empty(); }
  [[nodiscard]] bool may_start(char first) const { return starts_[static_cast<unsigned char>(first)]; }

  /// The longest text that stands at text[at]; a control token's only if it ends by `control_end`. length 0: none.
  [[nodiscard]] match longest_at(std::string_view text, std::size_t at, std::size_t control_end) const {
    match best;
    auto low = entries_.begin();
    auto high = entries_.end();
    for (std::size_t depth = 0; low != high && at + depth < text.size();) {
      const auto wanted = static_cast<unsigned char>(text[at + depth]);
      const auto at_depth = [depth](const entry& e) {
        return e.text.size() > depth ? static_cast<int>(static_cast<unsigned char>(e.text[depth])) : -1;
      };
      low = std::partition_point(low, high, [&](const entry& e) { return at_depth(e) < wanted; });
      high = std::partition_point(low, high, [&](const entry& e) { return at_depth(e) == wanted; });
      ++depth;
      if (low != high && low->text.size() == depth && (!low->control || at + depth <= control_end))
        best = {depth, low->id};
    }
    return best;
  }

 private:
  std::vector<entry> entries_;  // sorted: of texts with a common beginning the shortest is first
  std::array<bool, 256> starts_{};
};

/// Where messages about a vocabulary say it is.
[[nodiscard]] inline std::string vocabulary_name(const checkpoint& file) {
  return cat("[tokenizer] ", file.path(), ": ");
}

/// The type number of a token, checked.
[[nodiscard]] inline token_kind token_kind_of(const checkpoint& file, std::size_t id, int number) {
  if (number < 1 || number > 6)
    throw format_error(cat(vocabulary_name(file), "token ", id, " has type ", number,
                           "; allowed: 1 (normal) to 6 (byte). Corrupt or newer file."));
  return static_cast<token_kind>(number);
}

}  // namespace detail

/// Immutable list of tokens. Views that it hands out live as long as it does.
class vocabulary {
 public:
  /// Reads tokenizer.ggml.tokens and token_type. Throws format_error.
  explicit vocabulary(const checkpoint& file) {
    const auto texts = file.strings("tokenizer.ggml.tokens");
    const auto kinds = file.numbers<int>("tokenizer.ggml.token_type");
    if (texts.empty())
      throw format_error(
          cat(detail::vocabulary_name(file),
              "tokenizer.ggml.tokens is missing or empty. The file has no vocabulary; use a complete model file."));
    if (kinds.size() != texts.size())
      throw format_error(cat(detail::vocabulary_name(file), "tokenizer.ggml.token_type has ", kinds.size(),
                             " entries, tokenizer.ggml.tokens ", texts.size(),
                             "; they must agree. Convert the model again with a current converter."));
    if (texts.size() > max_tokens)
      throw format_error(cat(detail::vocabulary_name(file), texts.size(), " tokens; allowed: up to ", max_tokens));
    reserve(texts);
    for (std::size_t id = 0; id < texts.size(); ++id) add(file, texts[id], detail::token_kind_of(file, id, kinds[id]));
    fill_bytes(file);
  }

  [[nodiscard]] index_t size() const { return static_cast<index_t>(kinds_.size()); }
  [[nodiscard]] bool contains(token_id id) const { return id >= 0 && id < size(); }

  /// The bytes of a token, 0 <= id < size().
  [[nodiscard]] std::string_view bytes(token_id id) const {
    const auto i = static_cast<std::size_t>(id);
    return std::string_view(bytes_).substr(ends_[i], ends_[i + 1] - ends_[i]);
  }
  [[nodiscard]] token_kind kind(token_id id) const { return kinds_[static_cast<std::size_t>(id)]; }

  /// The normal token of these bytes, or -1.
  [[nodiscard]] token_id find_normal(std::string_view bytes) const { return slots_[slot_of(bytes)]; }

  /// The normal token of a single byte, or -1.
  [[nodiscard]] token_id byte_token(unsigned char byte) const { return byte_tokens_[byte]; }

  /// Texts of the tokens that are matched as a whole before anything else: control, unknown and user-defined ones.
  [[nodiscard]] std::vector<detail::fixed_texts::entry> fixed() const {
    std::vector<detail::fixed_texts::entry> result;
    for (token_id id = 0; id < size(); ++id) {
      const bool control = kind(id) == token_kind::control || kind(id) == token_kind::unknown;
      if ((control || kind(id) == token_kind::user_defined) && !bytes(id).empty())
        result.push_back({bytes(id), id, control});
    }
    return result;
  }

 private:
  static constexpr std::size_t max_tokens = std::size_t{1} << 24;

  void reserve(const std::vector<std::string_view>& texts) {
    std::size_t bytes = 0;
    for (const auto text : texts) bytes += text.size();
    bytes_.reserve(bytes);
    ends_.reserve(texts.size() + 1);
    ends_.push_back(0);
    kinds_.reserve(texts.size());
    slots_.assign(std::bit_ceil(texts.size() * 2 + 16), -1);
  }

  void add(const checkpoint& file, std::string_view text, token_kind kind) {
    const auto id = static_cast<token_id>(kinds_.size());
    const std::size_t begin = bytes_.size();
    bool encodable = false;
    if (kind == token_kind::byte) {
      bytes_ += byte_of(file, id, text);
    } else if (kind == token_kind::normal && detail::append_bytes_of(text, bytes_)) {
      encodable = !text.empty();
    } else {
      bytes_ += text;  // not written in the byte alphabet: taken as it is, and never a result of merges
    }
    ends_.push_back(bytes_.size());
    kinds_.push_back(kind);
    if (!encodable) return;
    token_id& slot = slots_[slot_of(std::string_view(bytes_).substr(begin))];
    if (slot >= 0)
      throw format_error(cat(detail::vocabulary_name(file), "tokens ", slot, " and ", id, " are both '", text,
                             "'; tokens must differ. Corrupt file."));
    slot = id;
  }

  [[nodiscard]] static char byte_of(const checkpoint& file, token_id id, std::string_view text) {
    unsigned value = 0;
    bool valid = text.size() == 6 && text.substr(0, 3) == "<0x" && text.back() == '>';
    for (std::size_t i = 3; valid && i < 5; ++i) {
      const std::size_t digit = std::string_view("0123456789ABCDEF").find(text[i]);
      valid = digit != std::string_view::npos;
      value = value * 16 + static_cast<unsigned>(digit);
    }
    if (!valid)
      throw format_error(
          cat(detail::vocabulary_name(file), "token ", id, " is a byte token '", text, "'; allowed: <0x00> to <0xFF>"));
    return static_cast<char>(value);
  }

  void fill_bytes(const checkpoint& file) {
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char character = static_cast<char>(byte);
      byte_tokens_[byte] = find_normal({&character, 1});
      if (byte_tokens_[byte] < 0 && ((byte >= 32 && byte < 127) || byte == '\n'))
        throw format_error(cat(detail::vocabulary_name(file), "no token for the byte ", byte,
                               "; a byte-level vocabulary has one for each printable ASCII character. Corrupt file."));
    }
  }

  /// Where a token of these bytes is, or would be.
  [[nodiscard]] std::size_t slot_of(std::string_view wanted) const {
    const std::size_t mask = slots_.size() - 1;
    auto at = static_cast<std::size_t>(detail::mix_bytes(wanted)) & mask;
    while (slots_[at] >= 0 && bytes(slots_[at]) != wanted) at = (at + 1) & mask;
    return at;
  }

  std::string bytes_;              // of all tokens, one after the other
  std::vector<std::size_t> ends_;  // token id has bytes_[ends_[id] .. ends_[id + 1])
  std::vector<token_kind> kinds_;
  std::vector<token_id> slots_;  // open addressing over the bytes of normal tokens, at most half full
  std::array<token_id, 256> byte_tokens_{};
};

}  // namespace blockattn::inline v0
