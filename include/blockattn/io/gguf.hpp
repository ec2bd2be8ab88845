// GGUF version 3: metadata and tensors of a model in one mapped file.
//
// Little-endian. "GGUF", u32 version, u64 tensor count, u64 metadata count; then the metadata pairs
// (string key, u32 type, value), then the tensor infos (string name, u32 n, u64 size[n] with the contiguous one first,
// u32 type, u64 offset), then padding to general.alignment (32 if not given), then the data that offsets are relative
// to. A string is u64 length and bytes; an array is u32 element type, u64 count and its elements. Source:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// Nothing of the data is read or copied at opening: arrays of metadata stay where they lie until they are asked for.
// The file isn't trusted: whatever its bytes are, opening and asking either work or throw, in memory proportional to
// its size.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/io/gguf_format.hpp"
#include "blockattn/io/mapped_file.hpp"

namespace blockattn::inline v0 {

/// One tensor of the file. `shape` as in the file: the contiguous dimension first. 1 to 4 dimensions, none of them 0.
struct gguf_tensor {
  std::string name;
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  std::span<const std::byte> bytes;  ///< aligned to 8 bytes at least

  /// As a matrix [rows, columns]: columns is the contiguous dimension, rows the product of the others.
  [[nodiscard]] weight_view matrix() const {
    index_t rows = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) rows *= shape[i];
    return {type, bytes.data(), rows, shape.empty() ? 1 : shape[0]};
  }
};

/// An open GGUF file: a map of metadata and the list of tensors, both pointing into the mapping. Immutable; read by any
/// thread. Views handed out live as long as this object, or the one it was moved to. Throws io_error and format_error.
class gguf_file {
 public:
  explicit gguf_file(const std::filesystem::path& path) : path_(path.string()), file_(path), bytes_(file_->bytes()) {
    parse();
  }

  /// A file that is in memory already, such as one built into the program. `bytes` aren't copied: they must outlive
  /// this object and start at a multiple of 8 (argument_error). `name` stands for the path in messages.
  [[nodiscard]] static gguf_file from_memory(std::span<const std::byte> bytes, std::string name) {
    return gguf_file(bytes, std::move(name));
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::uint32_t version() const { return version_; }
  [[nodiscard]] std::size_t size_bytes() const { return bytes_.size(); }
  [[nodiscard]] const std::map<std::string, gguf_value, std::less<>>& metadata() const { return metadata_; }
  [[nodiscard]] const std::vector<gguf_tensor>& tensors() const { return tensors_; }

  [[nodiscard]] bool has(std::string_view key) const { return find_value(key) != nullptr; }

  /// The tensor of that name, or nullptr.
  [[nodiscard]] const gguf_tensor* find_tensor(std::string_view name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &tensors_[found->second];
  }

  /// A number or Boolean, converted from whichever type the file holds; nothing if the key is missing.
  /// Throws format_error if the value isn't a number or T can't hold it (out of range; a fraction where T is an
  /// integer).
  template <class T>
    requires std::is_arithmetic_v<T>
  [[nodiscard]] std::optional<T> number(std::string_view key) const {
    const gguf_value* value = find_value(key);
    if (value == nullptr) return std::nullopt;
    return to_number<T>(key, value->type, value->bytes);
  }

  /// As number(), but a missing key is a format_error that names it.
  template <class T>
    requires std::is_arithmetic_v<T>
  [[nodiscard]] T require(std::string_view key) const {
    if (const auto value = number<T>(key)) return *value;
    fail("metadata key '", key, "' is missing. The file is incomplete or of an unsupported kind.");
  }

  /// A string, or nothing if the key is missing. Throws format_error if it is of another type.
  [[nodiscard]] std::optional<std::string_view> string(std::string_view key) const {
    const gguf_value* value = find_value(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != gguf_type::string) fail_type(key, "a string", *value);
    return std::string_view(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
  }

  /// All strings of an array; empty if the key is missing. Views point into the file. Throws format_error if it is of
  /// another type.
  [[nodiscard]] std::vector<std::string_view> strings(std::string_view key) const {
    const gguf_value* value = find_value(key);
    if (value == nullptr) return {};
    if (value->type != gguf_type::array || value->element != gguf_type::string)
      fail_type(key, "an array of strings", *value);
    std::vector<std::string_view> result;
    result.reserve(static_cast<std::size_t>(value->count));
    detail::gguf_reader reader(value->bytes, path_);
    for (std::uint64_t i = 0; i < value->count; ++i) result.push_back(reader.string(key));
    return result;
  }

  /// All numbers of an array, each converted as by number(); empty if the key is missing. Throws format_error as
  /// number() does.
  template <class T>
    requires std::is_arithmetic_v<T>
  [[nodiscard]] std::vector<T> numbers(std::string_view key) const {
    const gguf_value* value = find_value(key);
    if (value == nullptr) return {};
    const auto size = static_cast<std::size_t>(detail::gguf_scalar_size(value->element));
    if (value->type != gguf_type::array || size == 0) fail_type(key, "an array of numbers", *value);
    std::vector<T> result;
    result.reserve(static_cast<std::size_t>(value->count));
    for (std::size_t at = 0; at < value->bytes.size(); at += size)
      result.push_back(to_number<T>(key, value->element, value->bytes.subspan(at, size)));
    return result;
  }

 private:
  gguf_file(std::span<const std::byte> bytes, std::string name) : path_(std::move(name)), bytes_(bytes) {
    const auto past = reinterpret_cast<std::uintptr_t>(bytes.data()) % least_alignment;
    if (past != 0)
      throw argument_error(cat("[gguf] ", path_, ": the memory starts ", past, " bytes after a multiple of ",
                               least_alignment, "; allowed: multiples of it. Declare it with alignas(", least_alignment,
                               ")."));
    parse();
  }

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw format_error(cat("[gguf] ", path_, ": ", parts...));
  }

  [[noreturn]] void fail_type(std::string_view key, std::string_view wanted, const gguf_value& value) const {
    fail("metadata key '", detail::printable(key), "' should be ", wanted, "; got: ", name(value.type),
         value.type == gguf_type::array ? " of " : "", value.type == gguf_type::array ? name(value.element) : "",
         ". Corrupt file, or one for another program.");
  }

  [[nodiscard]] const gguf_value* find_value(std::string_view key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? nullptr : &found->second;
  }

  void parse() {
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0)
      fail("doesn't start with 'GGUF'. Not a GGUF model file; give one, or fetch it again.");
    detail::gguf_reader reader(bytes_, path_);
    (void)reader.take(4, "the magic");
    version_ = reader.read<std::uint32_t>("the version");
    if (version_ != 3)
      fail("version ", version_, version_ == 0x03000000U ? " (3 in big-endian order)" : "",
           "; supported: 3, little-endian. Convert the model again with a current converter.");
    const auto tensor_count = reader.read<std::uint64_t>("the tensor count");
    const auto metadata_count = reader.read<std::uint64_t>("the metadata count");
    // A metadata entry takes 13 bytes at least, a tensor 32: absurd counts are found before anything is stored.
    if (metadata_count > reader.left() / 13 || tensor_count > reader.left() / 32)
      fail("the header counts ", metadata_count, " metadata entries and ", tensor_count, " tensors, more than ",
           bytes_.size(), " bytes can hold. Corrupt file; fetch it again.");
    for (std::uint64_t i = 0; i < metadata_count; ++i) parse_metadata(reader);
    parse_tensors(reader, tensor_count);
  }

  void parse_metadata(detail::gguf_reader& reader) {
    const std::string_view key = reader.string("a metadata key");
    gguf_value value;
    value.type = static_cast<gguf_type>(reader.read<std::uint32_t>(key));
    value.element = value.type;
    if (value.type == gguf_type::array) {
      value.element = static_cast<gguf_type>(reader.read<std::uint32_t>(key));
      value.count = reader.read<std::uint64_t>(key);
    }
    value.bytes = take_value(reader, key, value);
    if (!metadata_.emplace(key, value).second)
      fail("metadata key '", detail::printable(key), "' appears twice. Corrupt file; fetch it again.");
  }

  [[nodiscard]] std::span<const std::byte> take_value(detail::gguf_reader& reader, std::string_view key,
                                                      const gguf_value& value) const {
    const std::uint64_t size = detail::gguf_scalar_size(value.element);
    if (size == 0 && value.element != gguf_type::string)
      fail("metadata key '", detail::printable(key), "' has type ", static_cast<std::uint32_t>(value.element), " (",
           name(value.element), ")", value.type == gguf_type::array ? " in an array" : "",
           "; supported: numbers, Booleans, strings and arrays of these");
    if (value.type == gguf_type::string) {
      const std::string_view text = reader.string(key);
      return std::as_bytes(std::span(text.data(), text.size()));
    }
    if (value.count > reader.left() / (size != 0 ? size : sizeof(std::uint64_t)))
      fail("metadata key '", detail::printable(key), "' is an array of ", value.count, " elements, more than the ",
           reader.left(), " bytes that are left hold. Truncated or corrupt file; fetch it again.");
    if (size != 0) return reader.take(value.count * size, key);
    const std::size_t begin = reader.position();
    for (std::uint64_t i = 0; i < value.count; ++i) (void)reader.string(key);
    return reader.since(begin);
  }

  void parse_tensors(detail::gguf_reader& reader, std::uint64_t count) {
    std::vector<std::uint64_t> offsets;
    for (std::uint64_t i = 0; i < count; ++i) {
      gguf_tensor tensor = parse_tensor(reader);
      offsets.push_back(reader.read<std::uint64_t>(tensor.name));
      if (!by_name_.emplace(tensor.name, tensors_.size()).second)
        fail("tensor '", detail::printable(tensor.name), "' appears twice. Corrupt file; fetch it again.");
      tensors_.push_back(std::move(tensor));
    }
    const auto alignment = number<std::uint64_t>("general.alignment").value_or(32);
    if (alignment < least_alignment || alignment > most_alignment || !std::has_single_bit(alignment))
      fail("general.alignment is ", alignment, "; allowed: a power of two from ", least_alignment, " to ",
           most_alignment);
    const std::uint64_t base = (reader.position() + alignment - 1) / alignment * alignment;
    for (std::size_t i = 0; i < tensors_.size(); ++i) place(tensors_[i], base, offsets[i], alignment);
  }

  /// A tensor's name, shape and type, each checked; its offset comes next.
  [[nodiscard]] gguf_tensor parse_tensor(detail::gguf_reader& reader) const {
    gguf_tensor tensor;
    tensor.name = reader.string("a tensor name");
    const auto dimensions = reader.read<std::uint32_t>(tensor.name);
    if (dimensions == 0 || dimensions > 4)
      fail("tensor '", detail::printable(tensor.name), "' has ", dimensions, " dimensions; allowed: 1 to 4");
    index_t values = 1;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto size = reader.read<std::uint64_t>(tensor.name);
      if (size == 0 || size > static_cast<std::uint64_t>(most_values / values))
        fail("dimension ", i, " of tensor '", detail::printable(tensor.name), "' is ", size,
             "; allowed: at least 1, and ", most_values, " values in all");
      tensor.shape.push_back(static_cast<index_t>(size));
      values *= tensor.shape.back();
    }
    const auto type = reader.read<std::uint32_t>(tensor.name);
    const auto known = detail::dtype_of_ggml(type);
    if (!known)
      fail("tensor '", detail::printable(tensor.name), "' has type ", type, " (", detail::ggml_type_name(type),
           "); supported: ", detail::supported_ggml_types(), ". Use a file quantised to one of these.");
    tensor.type = *known;
    if (tensor.shape[0] % block_values(tensor.type) != 0)
      fail("rows of tensor '", detail::printable(tensor.name), "' have ", tensor.shape[0], " values; ",
           name(tensor.type), " needs a multiple of ", block_values(tensor.type),
           ". Corrupt file, or one made by a broken converter.");
    return tensor;
  }

  /// Finds the tensor's bytes: `offset` after `base`, all of them inside of the file.
  void place(gguf_tensor& tensor, std::uint64_t base, std::uint64_t offset, std::uint64_t alignment) const {
    const std::uint64_t file = bytes_.size();
    const weight_view whole = tensor.matrix();
    const auto size = static_cast<std::uint64_t>(whole.rows * row_bytes(whole.type, whole.columns));
    if (offset % alignment != 0)
      fail("tensor '", detail::printable(tensor.name), "' starts at ", offset,
           ", which isn't a multiple of the alignment ", alignment);
    if (base > file || offset > file - base || size > file - base - offset)  // no overflow
      fail("tensor '", detail::printable(tensor.name), "' needs bytes ", base, "+", offset, "+", size,
           ", the file has ", file, ". Truncated download? Fetch it again.");
    tensor.bytes = bytes_.subspan(static_cast<std::size_t>(base + offset), static_cast<std::size_t>(size));
  }

  template <class T>
  [[nodiscard]] T to_number(std::string_view key, gguf_type type, std::span<const std::byte> bytes) const {
    const auto as = [&]<class From>(From raw) {
      std::memcpy(&raw, bytes.data(), sizeof(From));
      if (!fits<T>(raw) || (type == gguf_type::boolean && raw > From{1}))
        fail("metadata key '", detail::printable(key), "' is ", +raw, " (", name(type),
             "), which can't be used there. Corrupt file?");
      return static_cast<T>(raw);
    };
    switch (type) {
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
      default: fail_type(key, "a number", {type, type, 1, bytes});
    }
  }

  /// Whether T can hold `raw`: rounding to a nearer float is fine, losing a fraction or the size isn't.
  template <class T, class From>
  [[nodiscard]] static bool fits(From raw) {
    if constexpr (std::same_as<T, bool>) {
      return raw == From{0} || raw == From{1};
    } else if constexpr (std::integral<From>) {
      if constexpr (std::integral<T>) return std::in_range<T>(raw);
      return true;
    } else if constexpr (std::integral<T>) {
      const From end = std::ldexp(From{1}, std::numeric_limits<T>::digits);  // one past the largest T
      return raw == std::trunc(raw) && raw < end && raw >= static_cast<From>(std::numeric_limits<T>::min());
    } else {
      return !std::isfinite(raw) ||
             std::abs(static_cast<long double>(raw)) <= static_cast<long double>(std::numeric_limits<T>::max());
    }
  }

  static constexpr std::uint64_t least_alignment = 8, most_alignment = 1U << 20;
  static constexpr index_t most_values = index_t{1} << 40;  ///< of one tensor

  std::string path_;
  std::optional<mapped_file> file_;  ///< nothing if the bytes are the caller's
  std::span<const std::byte> bytes_;
  std::uint32_t version_ = 0;
  std::map<std::string, gguf_value, std::less<>> metadata_;
  std::vector<gguf_tensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace blockattn::inline v0
