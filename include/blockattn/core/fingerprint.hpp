// A 128-bit fingerprint of bytes: XXH3-128, the same on every machine.
//
// Not cryptographic: it tells apart what differs by accident, not what someone made to collide.
// xxHash is linked (libxxhash), not inlined: its inlined form has internal linkage, so that an inline function which
// calls it would differ from one translation unit to the next, by compiler flags too; and it would change what an
// application's own #include <xxhash.h> means.
#pragma once

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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

/// The inverse of to_string(); nothing if the text isn't 32 hexadecimal digits in lower case.
[[nodiscard]] inline std::optional<fingerprint128> parse_fingerprint(std::string_view text) {
  if (text.size() != 32) return std::nullopt;
  fingerprint128 value;
  for (std::size_t i = 0; i < 32; ++i) {
    const char c = text[i];
    const bool digit = c >= '0' && c <= '9';
    if (!digit && !(c >= 'a' && c <= 'f')) return std::nullopt;
    auto& half = i < 16 ? value.high : value.low;
    half = (half << 4) | static_cast<std::uint64_t>(digit ? c - '0' : c - 'a' + 10);
  }
  return value;
}

/// Fingerprint of the bytes of a text.
[[nodiscard]] inline fingerprint128 hash_text(std::string_view text) {
  return hash_bytes(std::as_bytes(std::span(text.data(), text.size())));
}

/// What a fingerprint is made of, part by part: kept beside data that belong to it, so that data of another fingerprint
/// can be refused with the reason. Names and values have no line feed; names have no '='.
struct fingerprint_parts {
  std::vector<std::pair<std::string, std::string>> parts;  ///< name and value, in a fixed order

  void add(std::string name, std::string value) { parts.emplace_back(std::move(name), std::move(value)); }

  /// One line "name=value" a part.
  [[nodiscard]] std::string text() const {
    std::string result;
    for (const auto& [name, value] : parts) result += name + '=' + value + '\n';
    return result;
  }

  /// The inverse of text(). Lines without '=' are left out.
  [[nodiscard]] static fingerprint_parts parse(std::string_view text) {
    fingerprint_parts result;
    while (!text.empty()) {
      const std::string_view line = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(line.size() + 1, text.size()));
      if (const auto equal = line.find('='); equal != std::string_view::npos)
        result.add(std::string(line.substr(0, equal)), std::string(line.substr(equal + 1)));
    }
    return result;
  }

  [[nodiscard]] fingerprint128 hash() const { return hash_text(text()); }

  /// The value of a part; empty if it isn't there.
  [[nodiscard]] std::string_view value(std::string_view name) const {
    for (const auto& [each, text] : parts)
      if (each == name) return text;
    return {};
  }
};

/// Which parts of two fingerprints differ, for a message: "kv: f16 there, bf16 here; isa: avx2 there, avx512 here".
/// Empty if none does.
[[nodiscard]] inline std::string difference(const fingerprint_parts& there, const fingerprint_parts& here) {
  const auto shown = [](std::string_view value) {
    if (value.empty()) return std::string("nothing");
    return value.size() <= 40 ? std::string(value) : std::string(value.substr(0, 37)) + "...";
  };
  std::string result;
  const auto compare = [&](const std::string& name) {
    if (there.value(name) == here.value(name)) return;
    result += (result.empty() ? "" : "; ") + name + ": " + shown(there.value(name)) + " there, " + shown(here.value(name)) + " here";
  };
  for (const auto& part : here.parts) compare(part.first);
  for (const auto& part : there.parts)
    if (here.value(part.first).empty()) compare(part.first);
  return result;
}

}  // namespace blockattn::inline v0

/// The bits are uniform already: any of them make a hash.
template <>
struct std::hash<blockattn::fingerprint128> {
  [[nodiscard]] std::size_t operator()(const blockattn::fingerprint128& value) const noexcept {
    return static_cast<std::size_t>(value.low);
  }
};
