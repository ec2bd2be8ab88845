// The pieces of a GGUF file: types of metadata values, numbers of tensor types, and a reader that trusts nothing.
// See gguf.hpp for the format.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

static_assert(std::endian::native == std::endian::little,
              "blockattn reads files as they lie: it needs a little-endian machine");

/// Type numbers of metadata values in a GGUF file.
enum class gguf_type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

[[nodiscard]] constexpr std::string_view name(gguf_type type) {
  constexpr std::array<std::string_view, 13> names = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                      "bool", "string", "array", "u64", "i64", "f64"};
  const auto number = static_cast<std::size_t>(type);
  return number < names.size() ? names[number] : std::string_view("unknown");
}

/// One metadata value where it lies in the file. For an array, `element` is the type of its elements and `count` their
/// number; else `element` == `type` and `count` == 1.
struct gguf_value {
  gguf_type type = gguf_type::u8;
  gguf_type element = gguf_type::u8;
  std::uint64_t count = 1;
  /// The value (a string without its length), or all elements of an array (strings with their lengths).
  std::span<const std::byte> bytes;
};

namespace detail {

/// Text from a file that can't be trusted, fit for a message: at most 80 bytes of it, everything but printable ASCII as
/// \xNN.
[[nodiscard]] inline std::string printable(std::string_view text) {
  constexpr std::size_t most = 80;
  constexpr char digits[] = "0123456789abcdef";
  std::string result;
  for (const char c : text.substr(0, most)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      result += c;
    } else {
      result += "\\x";
      result += digits[byte >> 4];
      result += digits[byte & 15];
    }
  }
  if (text.size() > most) result += cat("... (", text.size(), " bytes)");
  return result;
}

/// Reads forward through bytes that can't be trusted; every step is checked against the end.
/// `what` names the thing that is read, for the message.
class gguf_reader {
 public:
  gguf_reader(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  template <class T>
    requires std::is_arithmetic_v<T>
  [[nodiscard]] T read(std::string_view what) {
    T value{};
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  /// u64 length and bytes; a view of the bytes.
  [[nodiscard]] std::string_view string(std::string_view what) {
    const auto bytes = take(read<std::uint64_t>(what), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  [[nodiscard]] std::span<const std::byte> take(std::uint64_t size, std::string_view what) {
    if (size > left())
      throw format_error(cat("[gguf] ", path_, ": ", printable(what), " needs ", size, " bytes at ", at_,
                             ", the file has ", bytes_.size(), ". Truncated or corrupt file; fetch it again."));
    const auto result = bytes_.subspan(at_, static_cast<std::size_t>(size));
    at_ += result.size();
    return result;
  }

  [[nodiscard]] std::size_t position() const { return at_; }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - at_; }
  [[nodiscard]] std::span<const std::byte> since(std::size_t begin) const { return bytes_.subspan(begin, at_ - begin); }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
  std::size_t at_ = 0;
};

/// Bytes of a number or Boolean; 0 for strings, arrays and unknown types.
[[nodiscard]] constexpr std::uint64_t gguf_scalar_size(gguf_type type) {
  switch (type) {
    case gguf_type::u8:
    case gguf_type::i8:
    case gguf_type::boolean: return 1;
    case gguf_type::u16:
    case gguf_type::i16: return 2;
    case gguf_type::u32:
    case gguf_type::i32:
    case gguf_type::f32: return 4;
    case gguf_type::u64:
    case gguf_type::i64:
    case gguf_type::f64: return 8;
    default: return 0;
  }
}

/// Names of the tensor types that exist in GGUF files, by number; "unknown" for retired and new numbers.
[[nodiscard]] constexpr std::string_view ggml_type_name(std::uint32_t type) {
  constexpr std::array<std::string_view, 40> names = {
      "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
      "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
      "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
      "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4"};
  return type < names.size() && !names[type].empty() ? names[type] : std::string_view("unknown");
}

/// The number in GGUF files of each dtype, in the order of the enumeration.
inline constexpr std::array<std::uint32_t, all_dtypes.size()> ggml_type_numbers = {0,  1,  30, 8,  2,  3,  6, 7,
                                                                                   10, 11, 12, 13, 14, 20, 23};

[[nodiscard]] constexpr std::uint32_t ggml_type_of(dtype type) {
  return ggml_type_numbers[static_cast<std::size_t>(type)];
}

[[nodiscard]] constexpr std::optional<dtype> dtype_of_ggml(std::uint32_t type) {
  for (const dtype known : all_dtypes)
    if (ggml_type_of(known) == type) return known;
  return std::nullopt;
}

/// The names of all dtypes as GGUF's users write them: "F32, F16, ...".
[[nodiscard]] inline std::string supported_ggml_types() {
  std::string names;
  for (const dtype type : all_dtypes) names += cat(names.empty() ? "" : ", ", ggml_type_name(ggml_type_of(type)));
  return names;
}

}  // namespace detail
}  // namespace blockattn::inline v0
