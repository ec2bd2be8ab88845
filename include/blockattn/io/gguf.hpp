// GGUF version 3: metadata and tensors of a model in one mapped file.
//
// Little-endian. "GGUF", u32 version, u64 tensor count, u64 metadata count; then the metadata pairs
// (string key, u32 type, value), then the tensor infos (string name, u32 n, u64 size[n] with the contiguous one first,
// u32 type, u64 offset), then padding to general.alignment (32 if not given), then the data that offsets are relative to.
// A string is u64 length and bytes; an array is u32 element type, u64 count and its elements.
// Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// Nothing of the data is read or copied at opening: arrays of metadata stay where they lie until they are asked for.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/io/mapped_file.hpp"

namespace blockattn::inline v0 {

static_assert(std::endian::native == std::endian::little, "blockattn reads files as they lie, which needs a little-endian machine");

/// Type numbers of metadata values in a GGUF file.
enum class gguf_type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// One metadata value where it lies in the file. For an array, `element` is the type of its elements and `count` their number.
struct gguf_value {
  gguf_type type = gguf_type::u8;
  gguf_type element = gguf_type::u8;
  std::uint64_t count = 1;
  std::span<const std::byte> bytes;  ///< the value, or all elements of an array (strings with their lengths)
};

/// One tensor of the file. `shape` as in the file: the contiguous dimension first.
struct gguf_tensor {
  std::string name;
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  std::span<const std::byte> bytes;

  /// As a matrix [rows, columns]: columns is the contiguous dimension, rows the product of the others.
  [[nodiscard]] weight_view matrix() const {
    index_t rows = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) rows *= shape[i];
    return {type, bytes.data(), rows, shape.empty() ? 1 : shape[0]};
  }
};

namespace detail {

/// Reads forward through bytes that can't be trusted; every step is checked against the end.
class gguf_reader {
 public:
  gguf_reader(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(&path) {}

  template <class T>
  [[nodiscard]] T read(std::string_view what) {
    T value{};
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  [[nodiscard]] std::string_view string(std::string_view what) {
    const auto size = read<std::uint64_t>(what);
    const auto bytes = take(size, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  [[nodiscard]] std::span<const std::byte> take(std::uint64_t size, std::string_view what) {
    if (size > bytes_.size() - at_)
      throw format_error(cat("[gguf] ", *path_, ": ", what, " needs ", size, " bytes at ", at_, ", the file has ", bytes_.size(),
                             ". Truncated or corrupt file; fetch it again."));
    const auto result = bytes_.subspan(at_, static_cast<std::size_t>(size));
    at_ += static_cast<std::size_t>(size);
    return result;
  }

  [[nodiscard]] std::size_t position() const { return at_; }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - at_; }
  [[nodiscard]] std::span<const std::byte> since(std::size_t begin) const { return bytes_.subspan(begin, at_ - begin); }

 private:
  std::span<const std::byte> bytes_;
  const std::string* path_;
  std::size_t at_ = 0;
};

[[nodiscard]] inline std::uint64_t gguf_scalar_size(gguf_type type) {
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

/// Names of all tensor types that exist in GGUF files, by number; empty for retired numbers.
[[nodiscard]] inline std::string_view ggml_type_name(std::uint32_t type) {
  static constexpr std::array<std::string_view, 40> names = {
      "F32",     "F16",  "Q4_0",   "Q4_1", "",     "",    "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K",  "Q3_K",    "Q4_K",   "Q5_K",
      "Q6_K",    "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64",
      "F64",     "IQ1_M", "BF16",  "",     "",     "",    "TQ1_0", "TQ2_0", "",    "",     "",     "MXFP4"};
  return type < names.size() ? names[type] : std::string_view{};
}

[[nodiscard]] inline std::optional<dtype> dtype_of_ggml(std::uint32_t type) {
  switch (type) {
    case 0: return dtype::f32;
    case 1: return dtype::f16;
    case 2: return dtype::q4_0;
    case 3: return dtype::q4_1;
    case 8: return dtype::q8_0;
    case 30: return dtype::bf16;
    default: return std::nullopt;
  }
}

}  // namespace detail

/// An open GGUF file: a map of metadata and the list of tensors, both pointing into the mapping. Immutable; read by any thread.
/// Views handed out live as long as this object. Throws io_error and format_error.
class gguf_file {
 public:
  explicit gguf_file(const std::filesystem::path& path) : path_(path.string()), file_(path) { parse(); }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::uint32_t version() const { return version_; }
  [[nodiscard]] std::size_t size_bytes() const { return file_.bytes().size(); }
  [[nodiscard]] const std::map<std::string, gguf_value, std::less<>>& metadata() const { return metadata_; }
  [[nodiscard]] const std::vector<gguf_tensor>& tensors() const { return tensors_; }

  [[nodiscard]] bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }

  /// The tensor of that name, or nullptr.
  [[nodiscard]] const gguf_tensor* find_tensor(std::string_view name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &tensors_[found->second];
  }

  /// A number or Boolean, converted from whichever type the file holds; nothing if the key is missing.
  /// Throws format_error if the value isn't a number or doesn't fit into T.
  template <class T>
    requires std::is_arithmetic_v<T>
  [[nodiscard]] std::optional<T> number(std::string_view key) const {
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) return std::nullopt;
    return to_number<T>(key, found->second);
  }

  /// As number(), but a missing key is a format_error that names it.
  template <class T>
  [[nodiscard]] T require(std::string_view key) const {
    if (const auto value = number<T>(key)) return *value;
    throw format_error(cat("[gguf] ", path_, ": metadata key '", key, "' is missing. The file is incomplete or of an unsupported kind."));
  }

  /// A string, or nothing if the key is missing. Throws format_error if it is of another type.
  [[nodiscard]] std::optional<std::string_view> string(std::string_view key) const {
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) return std::nullopt;
    if (found->second.type != gguf_type::string)
      throw format_error(cat("[gguf] ", path_, ": metadata key '", key, "' should be a string, its type is ", static_cast<std::uint32_t>(found->second.type)));
    return std::string_view(reinterpret_cast<const char*>(found->second.bytes.data()), found->second.bytes.size());
  }

  /// All strings of an array; empty if the key is missing. Views point into the file.
  [[nodiscard]] std::vector<std::string_view> strings(std::string_view key) const {
    std::vector<std::string_view> result;
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) return result;
    expect_array(key, found->second, found->second.element == gguf_type::string, "strings");
    result.reserve(static_cast<std::size_t>(found->second.count));
    detail::gguf_reader reader(found->second.bytes, path_);
    for (std::uint64_t i = 0; i < found->second.count; ++i) result.push_back(reader.string(key));
    return result;
  }

  /// All numbers of an array, converted to T; empty if the key is missing.
  template <class T>
  [[nodiscard]] std::vector<T> numbers(std::string_view key) const {
    std::vector<T> result;
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) return result;
    const gguf_value& array = found->second;
    const std::uint64_t size = detail::gguf_scalar_size(array.element);
    expect_array(key, array, size != 0, "numbers");
    result.reserve(static_cast<std::size_t>(array.count));
    for (std::uint64_t i = 0; i < array.count; ++i) {
      gguf_value element{array.element, array.element, 1, array.bytes.subspan(static_cast<std::size_t>(i * size), static_cast<std::size_t>(size))};
      result.push_back(to_number<T>(key, element));
    }
    return result;
  }

 private:
  void parse() {
    detail::gguf_reader reader(file_.bytes(), path_);
    if (file_.bytes().size() < 4 || std::memcmp(file_.bytes().data(), "GGUF", 4) != 0)
      throw format_error(cat("[gguf] ", path_, ": doesn't start with 'GGUF'. Not a GGUF model file."));
    (void)reader.take(4, "the magic");
    version_ = reader.read<std::uint32_t>("the version");
    if (version_ != 3) throw format_error(cat("[gguf] ", path_, ": version ", version_, "; supported: 3. Convert the model again with a current converter."));
    const auto tensor_count = reader.read<std::uint64_t>("the tensor count");
    const auto metadata_count = reader.read<std::uint64_t>("the metadata count");
    // An entry takes at least 13 (metadata) or 24 (tensor) bytes: absurd counts are found before anything is reserved.
    if (metadata_count > reader.left() / 13 || tensor_count > reader.left() / 24)
      throw format_error(cat("[gguf] ", path_, ": the header counts ", metadata_count, " metadata entries and ", tensor_count, " tensors, more than ",
                             file_.bytes().size(), " bytes can hold. Corrupt file."));
    for (std::uint64_t i = 0; i < metadata_count; ++i) parse_metadata(reader);
    parse_tensors(reader, tensor_count);
  }

  void parse_metadata(detail::gguf_reader& reader) {
    std::string key(reader.string("a metadata key"));
    gguf_value value;
    value.type = static_cast<gguf_type>(reader.read<std::uint32_t>(key));
    if (value.type == gguf_type::array) {
      value.element = static_cast<gguf_type>(reader.read<std::uint32_t>(key));
      value.count = reader.read<std::uint64_t>(key);
    } else {
      value.element = value.type;
    }
    value.bytes = parse_elements(reader, key, value);
    if (!metadata_.emplace(key, value).second) throw format_error(cat("[gguf] ", path_, ": metadata key '", key, "' appears twice. Corrupt file."));
  }

  [[nodiscard]] std::span<const std::byte> parse_elements(detail::gguf_reader& reader, const std::string& key, const gguf_value& value) const {
    const std::uint64_t size = detail::gguf_scalar_size(value.element);
    if (size != 0) {
      if (value.count > reader.left() / size)
        throw format_error(cat("[gguf] ", path_, ": array '", key, "' claims ", value.count, " elements, more than the file holds. Corrupt file."));
      return reader.take(value.count * size, key);
    }
    if (value.element != gguf_type::string)
      throw format_error(cat("[gguf] ", path_, ": metadata key '", key, "' has type ", static_cast<std::uint32_t>(value.element),
                             value.type == gguf_type::array ? " in an array" : "", "; allowed: numbers, Booleans, strings and arrays of these"));
    if (value.type == gguf_type::string) {
      const auto text = reader.string(key);
      return std::as_bytes(std::span(text.data(), text.size()));
    }
    if (value.count > reader.left() / 8)
      throw format_error(cat("[gguf] ", path_, ": array '", key, "' claims ", value.count, " strings, more than the file holds. Corrupt file."));
    const std::size_t begin = reader.position();
    for (std::uint64_t i = 0; i < value.count; ++i) (void)reader.string(key);
    return reader.since(begin);
  }

  void parse_tensors(detail::gguf_reader& reader, std::uint64_t count) {
    std::vector<std::uint64_t> offsets;
    tensors_.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) {
      auto [tensor, offset] = parse_tensor_info(reader);
      if (!by_name_.emplace(tensor.name, tensors_.size()).second)
        throw format_error(cat("[gguf] ", path_, ": tensor '", tensor.name, "' appears twice. Corrupt file."));
      tensors_.push_back(std::move(tensor));
      offsets.push_back(offset);
    }
    const auto alignment = number<std::uint64_t>("general.alignment").value_or(32);
    if (alignment == 0 || alignment > (1U << 20) || !std::has_single_bit(alignment))
      throw format_error(cat("[gguf] ", path_, ": general.alignment is ", alignment, "; allowed: a power of two up to 1048576"));
    const std::uint64_t base = (reader.position() + alignment - 1) / alignment * alignment;
    for (std::size_t i = 0; i < tensors_.size(); ++i) place(tensors_[i], base, offsets[i], alignment);
  }

  [[nodiscard]] std::pair<gguf_tensor, std::uint64_t> parse_tensor_info(detail::gguf_reader& reader) const {
    gguf_tensor tensor;
    tensor.name = reader.string("a tensor name");
    const auto dimensions = reader.read<std::uint32_t>(tensor.name);
    if (dimensions == 0 || dimensions > 4)
      throw format_error(cat("[gguf] ", path_, ": tensor '", tensor.name, "' has ", dimensions, " dimensions; allowed: 1 to 4"));
    std::uint64_t values = 1;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto size = reader.read<std::uint64_t>(tensor.name);
      if (size == 0 || size > (std::uint64_t{1} << 40) / values)
        throw format_error(cat("[gguf] ", path_, ": dimension ", i, " of tensor '", tensor.name, "' is ", size, "; a tensor holds 1 to 2^40 values"));
      values *= size;
      tensor.shape.push_back(static_cast<index_t>(size));
    }
    const auto type = reader.read<std::uint32_t>(tensor.name);
    const auto known = detail::dtype_of_ggml(type);
    if (!known)
      throw format_error(cat("[gguf] ", path_, ": tensor '", tensor.name, "' has type ", type, " ", detail::ggml_type_name(type),
                             "; supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1. Use a file quantised to one of these."));
    tensor.type = *known;
    if (tensor.shape[0] % block_values(tensor.type) != 0)
      throw format_error(cat("[gguf] ", path_, ": rows of tensor '", tensor.name, "' have ", tensor.shape[0], " values; ", name(tensor.type),
                             " needs a multiple of ", block_values(tensor.type)));
    return {std::move(tensor), reader.read<std::uint64_t>("a tensor offset")};
  }

  void place(gguf_tensor& tensor, std::uint64_t base, std::uint64_t offset, std::uint64_t alignment) const {
    const std::uint64_t file = file_.bytes().size();
    index_t values = 1;
    for (const index_t size : tensor.shape) values *= size;
    const auto size = static_cast<std::uint64_t>(row_bytes(tensor.type, values));
    if (offset % alignment != 0)
      throw format_error(cat("[gguf] ", path_, ": tensor '", tensor.name, "' starts at ", offset, ", which isn't a multiple of the alignment ", alignment));
    if (base > file || offset > file - base || size > file - base - offset)  // no overflow
      throw format_error(cat("[gguf] ", path_, ": tensor '", tensor.name, "' needs bytes ", base, "+", offset, "+", size, ", the file has ", file,
                             ". Truncated download? Fetch it again."));
    tensor.bytes = file_.bytes().subspan(static_cast<std::size_t>(base + offset), static_cast<std::size_t>(size));
  }

  template <class T>
  [[nodiscard]] T to_number(std::string_view key, const gguf_value& value) const {
    const auto as = [&]<class From>(From) {
      From raw{};
      std::memcpy(&raw, value.bytes.data(), sizeof(From));
      return convert<T>(key, raw);
    };
    switch (value.type) {
      case gguf_type::u8:
      case gguf_type::boolean: return as(std::uint8_t{});
      case gguf_type::i8: return as(std::int8_t{});
      case gguf_type::u16: return as(std::uint16_t{});
      case gguf_type::i16: return as(std::int16_t{});
      case gguf_type::u32: return as(std::uint32_t{});
      case gguf_type::i32: return as(std::int32_t{});
      case gguf_type::u64: return as(std::uint64_t{});
      case gguf_type::i64: return as(std::int64_t{});
      case gguf_type::f32: return as(float{});
      case gguf_type::f64: return as(double{});
      default: throw format_error(cat("[gguf] ", path_, ": metadata key '", key, "' should be a number, its type is ", static_cast<std::uint32_t>(value.type)));
    }
  }

  template <class T, class From>
  [[nodiscard]] T convert(std::string_view key, From raw) const {
    bool fits = true;
    if constexpr (std::same_as<T, bool>) {
      return raw != From{};
    } else if constexpr (std::integral<T> && std::integral<From>) {
      fits = std::in_range<T>(raw);
    } else if constexpr (std::integral<T>) {
      fits = raw >= static_cast<From>(std::numeric_limits<T>::min()) && raw < static_cast<From>(std::numeric_limits<T>::max());
    }
    if (!fits) throw format_error(cat("[gguf] ", path_, ": metadata key '", key, "' is ", +raw, ", out of range. Corrupt file."));
    return static_cast<T>(raw);
  }

  void expect_array(std::string_view key, const gguf_value& value, bool element_ok, std::string_view wanted) const {
    if (value.type != gguf_type::array || !element_ok)
      throw format_error(cat("[gguf] ", path_, ": metadata key '", key, "' should be an array of ", wanted, ", its type is ",
                             static_cast<std::uint32_t>(value.type), "/", static_cast<std::uint32_t>(value.element)));
  }

  std::string path_;
  mapped_file file_;
  std::uint32_t version_ = 0;
  std::map<std::string, gguf_value, std::less<>> metadata_;
  std::vector<gguf_tensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace blockattn::inline v0
