// SentencePiece's precompiled normalisation: a table of texts and what they are replaced by.
//
// u32 size of a double-array trie in bytes, the trie, then the replacements, each ended by a zero byte. A unit of the trie
// (darts-clone): bits 0..7 and 31 its label, bit 8 whether a text ends there, bits 10..30 and 9 the offset of its children;
// the child with label c of the unit u is at u ^ offset(u) ^ c; where a text ends, the unit at u ^ offset(u) holds in its
// lower 31 bits where the replacement begins. Source: https://github.com/google/sentencepiece, src/normalizer.cc;
// https://github.com/s-yata/darts-clone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/text/normalizer.hpp"

namespace blockattn::inline v0 {

/// Immutable. At each place the longest text of the table is replaced; what isn't in it stays.
class charsmap {
 public:
  /// `where` begins messages. Throws format_error if the parts don't fit. What the trie points to is checked where it is
  /// used: an offset that leads outside is no match.
  charsmap(std::string_view bytes, std::string where) : where_(std::move(where)) {
    std::uint32_t size = 0;
    if (bytes.size() < sizeof(size)) fail("it has ", bytes.size(), " bytes");
    std::memcpy(&size, bytes.data(), sizeof(size));
    if (size % sizeof(std::uint32_t) != 0 || size == 0 || size > bytes.size() - sizeof(size))
      fail("its trie has ", size, " bytes of ", bytes.size());
    units_.resize(size / sizeof(std::uint32_t));
    std::memcpy(units_.data(), bytes.data() + sizeof(size), size);
    texts_ = bytes.substr(sizeof(size) + size);
    if (texts_.empty() || texts_.back() != '\0') fail("its last replacement has no end");
  }

  [[nodiscard]] std::string apply(std::string_view text) const {
    std::string out;
    out.reserve(text.size() + text.size() / 8);
    for (std::size_t at = 0; at < text.size();) {
      const match found = longest(text, at);
      const std::size_t size = found.length != 0 ? found.length : detail::character_at(text, at).length;
      out += found.length != 0 ? std::string_view(texts_.data() + found.replacement) : text.substr(at, size);
      at += size;
      while (at < text.size() && !detail::starts_character(text, at)) ++at;  // a table that ends inside of a character
    }
    return is_valid_utf8(out) ? out : to_valid_utf8(out).text;
  }

 private:
  struct match {
    std::size_t length = 0, replacement = 0;
  };

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw format_error(cat(where_, "the precompiled charsmap is damaged: ", parts..., ". Corrupt file."));
  }

  [[nodiscard]] static std::size_t offset(std::uint32_t unit) { return (unit >> 10) << ((unit & (1U << 9)) >> 6); }

  [[nodiscard]] match longest(std::string_view text, std::size_t at) const {
    match best;
    std::size_t unit = offset(units_[0]);
    for (std::size_t end = at; end < text.size(); ++end) {
      const auto byte = static_cast<unsigned char>(text[end]);
      if (byte == 0) break;
      unit ^= byte;
      if (unit >= units_.size() || (units_[unit] & ((1U << 31) | 0xFFU)) != byte) break;
      const bool ends = ((units_[unit] >> 8) & 1U) != 0;
      unit ^= offset(units_[unit]);
      if (!ends || unit >= units_.size()) continue;
      const std::size_t replacement = units_[unit] & ((1U << 31) - 1);
      if (replacement < texts_.size()) best = {end + 1 - at, replacement};
    }
    return best;
  }

  std::string where_;
  std::vector<std::uint32_t> units_;
  std::string texts_;  // a zero byte ends each of them, and the last
};

}  // namespace blockattn::inline v0
