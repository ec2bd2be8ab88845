// A 128-bit fingerprint of bytes: XXH3-128, the same on every machine.
//
// Not cryptographic: it tells apart what differs by accident, not what someone made to collide.
// xxHash is linked (libxxhash), not inlined: its inlined form has internal linkage, so that an inline function which
// calls it would differ from one translation unit to the next, by compiler flags too; and it would change what an
// application's own #include <xxhash.h> means.
#pragma once

#include <xxhash.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace blockattn::inline v0 {

/// 128 bits that stand for some content (a model, a block of tokens).
struct fingerprint128 {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  friend constexpr bool operator==(const fingerprint128&, const fingerprint128&) = default;
  friend constexpr auto operator<=>(const fingerprint128&, const fingerprint128&) = default;
};

/// Fingerprint of `bytes` under `seed` (XXH3_128bits_withSeed).
[[nodiscard]] inline fingerprint128 hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed = 0) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed);
  return {hash.low64, hash.high64};
}

/// The 16 bytes of a fingerprint, little-endian, low half first: its form inside of other hashed streams and in files.
[[nodiscard]] constexpr std::array<std::byte, 16> to_bytes(const fingerprint128& value) {
  std::array<std::byte, 16> bytes{};
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<std::byte>(value.low >> (8 * i));
    bytes[i + 8] = static_cast<std::byte>(value.high >> (8 * i));
  }
  return bytes;
}

/// Fingerprint of the ordered pair (first, second): combine(a, b) != combine(b, a).
[[nodiscard]] inline fingerprint128 combine(const fingerprint128& first, const fingerprint128& second) {
  std::array<std::byte, 32> bytes{};
  const auto left = to_bytes(first), right = to_bytes(second);
  for (std::size_t i = 0; i < 16; ++i) {
    bytes[i] = left[i];
    bytes[i + 16] = right[i];
  }
  return hash_bytes(bytes);
}

/// 32 lower-case hexadecimal digits, the high half first (the text that xxHash's own tools print).
[[nodiscard]] inline std::string to_string(const fingerprint128& value) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text(32, '0');
  for (std::size_t i = 0; i < 16; ++i) {
    text[i] = digits[(value.high >> (60 - 4 * i)) & 15U];
    text[i + 16] = digits[(value.low >> (60 - 4 * i)) & 15U];
  }
  return text;
}

}  // namespace blockattn::inline v0

/// The bits are uniform already: any of them make a hash.
template <>
struct std::hash<blockattn::fingerprint128> {
  [[nodiscard]] std::size_t operator()(const blockattn::fingerprint128& value) const noexcept {
    return static_cast<std::size_t>(value.low);
  }
};
