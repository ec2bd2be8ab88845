// The tokens of a vocabulary: their bytes in one piece of memory, what each of them is for, and the way back from bytes
// to a token.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

/// What a token is for; the numbers of tokenizer.ggml.token_type.
enum class token_kind : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

namespace detail {

/// A well mixed 64-bit number of some bytes; equal on all machines of one byte order.
[[nodiscard]] inline std::uint64_t mix_bytes(std::string_view bytes) {
  constexpr std::uint64_t odd = 0xBF58476D1CE4E5B9U;
  const char* at = bytes.data();
  std::size_t size = bytes.size();
  std::uint64_t hash = (0x9E3779B97F4A7C15U ^ size) * odd;
  std::uint64_t word = 0;
  for (; size > 8; at += 8, size -= 8) {
    std::memcpy(&word, at, 8);
    hash = (hash ^ word) * odd;
    hash ^= hash >> 32;
  }
  if (size >= 4) {
    std::uint32_t low = 0, high = 0;
    std::memcpy(&low, at, 4);
    std::memcpy(&high, at + size - 4, 4);
    word = static_cast<std::uint64_t>(high) << 32 | low;
  } else if (size > 0) {
    const auto byte = [at](std::size_t i) { return static_cast<std::uint64_t>(static_cast<unsigned char>(at[i])); };
    word = byte(0) << 16 | byte(size / 2) << 8 | byte(size - 1);
  }
  hash = (hash ^ word) * odd;
  return hash ^ (hash >> 32);
}

}  // namespace detail

/// A list of tokens: filled by add(), closed by index(), immutable from then on. Views that it hands out live as long as it
/// does.
class vocabulary {
 public:
  /// `tokens` tokens of `bytes` bytes together are about to be added.
  void reserve(std::size_t tokens, std::size_t bytes) {
    bytes_.reserve(bytes);
    ends_.reserve(tokens + 1);
    kinds_.reserve(tokens);
    encodable_.reserve(tokens);
  }

  /// Adds the next token: `text` is what it stands for. `encodable`: find() may give it.
  void add(std::string_view text, token_kind kind, bool encodable) {
    if (text.size() > std::numeric_limits<std::uint32_t>::max() - bytes_.size())
      throw format_error("[tokenizer] a vocabulary of 4 GiB; allowed: less. Corrupt file.");
    bytes_ += text;
    ends_.push_back(static_cast<std::uint32_t>(bytes_.size()));
    kinds_.push_back(kind);
    encodable_.push_back(encodable && !text.empty());
    if (encodable) longest_ = std::max(longest_, text.size());
  }

  /// Makes find() work. Where two encodable tokens have the same bytes, duplicate(first, second) says whether the second
  /// takes the place of the first.
  template <class Duplicate>
  void index(Duplicate&& duplicate) {
    slots_.assign(std::bit_ceil(kinds_.size() + kinds_.size() / 2 + 16), {});
    // The table is larger than the processor's caches: places are fetched some tokens ahead.
    constexpr token_id ahead = 16;
    std::array<std::uint64_t, ahead> hashes{};
    for (token_id id = 0; id < size() + ahead; ++id) {
      const auto turn = static_cast<std::size_t>(id % ahead);
      if (id >= ahead) enter(id - ahead, hashes[turn], duplicate);
      if (id >= size()) continue;
      hashes[turn] = detail::mix_bytes(bytes(id));
      prefetch(hashes[turn]);
    }
  }

  [[nodiscard]] index_t size() const { return static_cast<index_t>(kinds_.size()); }
  [[nodiscard]] bool contains(token_id id) const { return id >= 0 && id < size(); }

  /// The bytes of a token, 0 <= id < size().
  [[nodiscard]] std::string_view bytes(token_id id) const {
    const auto i = static_cast<std::size_t>(id);
    return {bytes_.data() + ends_[i], ends_[i + 1] - ends_[i]};
  }
  [[nodiscard]] token_kind kind(token_id id) const { return kinds_[static_cast<std::size_t>(id)]; }
  [[nodiscard]] bool encodable(token_id id) const { return encodable_[static_cast<std::size_t>(id)]; }

  /// Whether the token is a mark for the model instead of text.
  [[nodiscard]] bool is_control(token_id id) const {
    return kind(id) == token_kind::control || kind(id) == token_kind::unknown || kind(id) == token_kind::unused;
  }

  /// The token that text of these bytes may become, or -1.
  [[nodiscard]] token_id find(std::string_view bytes) const { return find(bytes, detail::mix_bytes(bytes)); }
  /// The same for who has asked for mix_bytes(bytes) already, perhaps to prefetch().
  [[nodiscard]] token_id find(std::string_view bytes, std::uint64_t hash) const {
    return bytes.size() > longest_ ? -1 : slots_[slot_of(bytes, hash)].id;
  }
  /// Fetches what find() looks at first.
  void prefetch(std::uint64_t hash) const { __builtin_prefetch(&slots_[static_cast<std::size_t>(hash) & (slots_.size() - 1)]); }
  /// Fetches what find() looks at then: the bytes to compare with.
  void prefetch_bytes(std::uint64_t hash) const {
    const token_id id = slots_[static_cast<std::size_t>(hash) & (slots_.size() - 1)].id;
    if (id >= 0) __builtin_prefetch(bytes_.data() + ends_[static_cast<std::size_t>(id)]);
  }

  /// For each two bytes, at 256 * first + second: whether they follow each other in a token that find() may give.
  [[nodiscard]] std::bitset<256 * 256> neighbours() const {
    std::bitset<256 * 256> result;
    for (token_id id = 0; id < size(); ++id) {
      if (!encodable(id)) continue;
      const std::string_view text = bytes(id);
      for (std::size_t i = 1; i < text.size(); ++i)
        result[static_cast<unsigned char>(text[i - 1]) * 256U + static_cast<unsigned char>(text[i])] = true;
    }
    return result;
  }

 private:
  struct slot {
    std::uint32_t tag = 0;  // of the hash, so that a look rarely leads to other bytes
    token_id id = -1;
  };

  template <class Duplicate>
  void enter(token_id id, std::uint64_t hash, Duplicate& duplicate) {
    if (!encodable(id)) return;
    slot& place = slots_[slot_of(bytes(id), hash)];
    if (place.id < 0 || duplicate(place.id, id)) place = {static_cast<std::uint32_t>(hash >> 32), id};
  }

  /// Where a token of these bytes is, or would be.
  [[nodiscard]] std::size_t slot_of(std::string_view wanted, std::uint64_t hash) const {
    const std::size_t mask = slots_.size() - 1;
    const auto tag = static_cast<std::uint32_t>(hash >> 32);
    auto at = static_cast<std::size_t>(hash) & mask;
    while (slots_[at].id >= 0 && (slots_[at].tag != tag || bytes(slots_[at].id) != wanted)) at = (at + 1) & mask;
    return at;
  }

  std::string bytes_;                      // of all tokens, one after the other
  std::vector<std::uint32_t> ends_ = {0};  // token id has bytes_[ends_[id] .. ends_[id + 1])
  std::vector<token_kind> kinds_;
  std::vector<bool> encodable_;
  std::vector<slot> slots_ = std::vector<slot>(1);  // open addressing, at most two thirds full
  std::size_t longest_ = 0;                // bytes of the longest encodable token
};

}  // namespace blockattn::inline v0
