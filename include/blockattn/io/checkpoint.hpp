// What a model is read from, whatever its file format: metadata by key, and tensors by name.
//
// Keys and names are those of llama.cpp's GGUF files, values of metadata are encoded as there (gguf_format.hpp). gguf_file fills a checkpoint from a GGUF file and
// its parts, huggingface.hpp from a folder with safetensors files, quantize.hpp from another checkpoint. Bytes lie in maps or buffers that the checkpoint keeps.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
#include "blockattn/io/gguf_format.hpp"

namespace blockattn::inline v0 {

/// One tensor. `shape` as in GGUF files: the contiguous dimension first. 1 to 4 dimensions, none of them 0.
struct checkpoint_tensor {
  std::string name;
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  std::span<const std::byte> bytes;  ///< of a float type: aligned to its size; of a GGUF file: to 8 bytes at least

  /// As a matrix [rows, columns]: columns is the contiguous dimension, rows the product of the others.
  [[nodiscard]] weight_view matrix() const {
    index_t rows = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) rows *= shape[i];
    return {type, bytes.data(), rows, shape.empty() ? 1 : shape[0]};
  }
};
using gguf_tensor = checkpoint_tensor;

/// "[rows, columns]" of a tensor, the contiguous dimension last: as messages write shapes.
[[nodiscard]] inline std::string shape_text(const checkpoint_tensor& t) {
  std::string text = "[";
  for (std::size_t i = t.shape.size(); i-- > 0;) text += cat(t.shape[i], i == 0 ? "" : ", ");
  return text + "]";
}

namespace detail {

/// Whether T can hold `raw`: rounding to a nearer float is fine, losing a fraction or the size isn't.
template <class T, class From>
[[nodiscard]] bool number_fits(From raw) {
  if constexpr (std::same_as<T, bool>) {
    return raw == From{0} || raw == From{1};
  } else if constexpr (std::integral<From>) {
    if constexpr (std::integral<T>) return std::in_range<T>(raw);
    return true;
  } else if constexpr (std::integral<T>) {
    const From end = std::ldexp(From{1}, std::numeric_limits<T>::digits);  // one past the largest T
    return raw == std::trunc(raw) && raw < end && raw >= static_cast<From>(std::numeric_limits<T>::min());
  } else {
    return !std::isfinite(raw) || std::abs(static_cast<long double>(raw)) <= static_cast<long double>(std::numeric_limits<T>::max());
  }
}

/// The channel of a head in transformers' order (pairs are i and i + rotated / 2) that is channel `c` in GGUF files with RoPE over adjacent channels.
[[nodiscard]] constexpr index_t huggingface_channel(index_t c, index_t rotated) { return c < rotated ? c % 2 * (rotated / 2) + c / 2 : c; }

}  // namespace detail

/// Immutable once it is made; read by any number of threads. Views handed out live as long as this object, or the one it was moved to.
class checkpoint {
 public:
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& format() const { return format_; }  ///< "GGUF", "safetensors"
  [[nodiscard]] std::uint32_t version() const { return version_; }     ///< of the format; 0 if it has none
  [[nodiscard]] std::size_t size_bytes() const { return size_bytes_; }  ///< of all its files, or of its buffers
  [[nodiscard]] const std::map<std::string, gguf_value, std::less<>>& metadata() const { return metadata_; }
  [[nodiscard]] const std::vector<checkpoint_tensor>& tensors() const { return tensors_; }

  [[nodiscard]] bool has(std::string_view key) const { return find_value(key) != nullptr; }

  /// The tensor of that name, or nullptr.
  [[nodiscard]] const checkpoint_tensor* find_tensor(std::string_view name) const {
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

 protected:
  /// `where` begins messages: "[where] path: ...".
  checkpoint(std::string where, std::string path, std::string format) : where_(std::move(where)), path_(std::move(path)), format_(std::move(format)) {}

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw format_error(cat("[", where_, "] ", path_, ": ", parts...));
  }

  /// False if the key is there already.
  bool add_value(std::string_view key, const gguf_value& value) { return metadata_.emplace(key, value).second; }
  void set_value(std::string_view key, const gguf_value& value) { metadata_.insert_or_assign(std::string(key), value); }

  void add_tensor(checkpoint_tensor tensor) {
    if (!by_name_.emplace(tensor.name, tensors_.size()).second)
      fail("tensor '", detail::printable(tensor.name), "' appears twice. Corrupt file; fetch it again.");
    tensors_.push_back(std::move(tensor));
  }

  /// Keeps what values and tensors point into, `bytes` of it in files or buffers of weights.
  void keep(std::shared_ptr<const void> owner, std::size_t bytes) {
    owners_.push_back(std::move(owner));
    size_bytes_ += bytes;
  }
  void set_version(std::uint32_t version) { version_ = version; }

  /// Appends the tensors and the owners of another checkpoint.
  void take_tensors(checkpoint&& other) {
    for (checkpoint_tensor& t : other.tensors_) add_tensor(std::move(t));
    for (auto& owner : other.owners_) owners_.push_back(std::move(owner));
    size_bytes_ += other.size_bytes_;
  }

 private:
  [[noreturn]] void fail_type(std::string_view key, std::string_view wanted, const gguf_value& value) const {
    fail("metadata key '", detail::printable(key), "' should be ", wanted, "; got: ", name(value.type),
         value.type == gguf_type::array ? " of " : "", value.type == gguf_type::array ? name(value.element) : "",
         ". Corrupt file, or one for another program.");
  }

  [[nodiscard]] const gguf_value* find_value(std::string_view key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? nullptr : &found->second;
  }

  template <class T>
  [[nodiscard]] T to_number(std::string_view key, gguf_type type, std::span<const std::byte> bytes) const {
    const auto as = [&]<class From>(From raw) {
      std::memcpy(&raw, bytes.data(), sizeof(From));
      if (!detail::number_fits<T>(raw) || (type == gguf_type::boolean && raw > From{1}))
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

  std::string where_, path_, format_;
  std::uint32_t version_ = 0;
  std::size_t size_bytes_ = 0;
  std::map<std::string, gguf_value, std::less<>> metadata_;
  std::vector<checkpoint_tensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::vector<std::shared_ptr<const void>> owners_;
};

/// A checkpoint in the making: its values are copied into it. Move it into a checkpoint when it is done.
class checkpoint_builder : public checkpoint {
 public:
  checkpoint_builder(std::string where, std::string path, std::string format) : checkpoint(std::move(where), std::move(path), std::move(format)) {}
  using checkpoint::add_tensor;
  using checkpoint::fail;
  using checkpoint::keep;
  using checkpoint::set_value;
  using checkpoint::take_tensors;

  template <class T>
    requires std::is_arithmetic_v<T>
  void set_number(std::string_view key, T value) {
    set_value(key, {type_of<T>(), type_of<T>(), 1, copy(std::as_bytes(std::span(&value, 1)))});
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  void set_numbers(std::string_view key, const std::vector<T>& values) {
    set_value(key, {gguf_type::array, type_of<T>(), values.size(), copy(std::as_bytes(std::span(values)))});
  }
  void set_string(std::string_view key, std::string_view text) { set_string_view(key, {reinterpret_cast<const char*>(copy(std::as_bytes(std::span(text))).data()), text.size()}); }
  /// Text that is kept already.
  void set_string_view(std::string_view key, std::string_view text) { set_value(key, {gguf_type::string, gguf_type::string, 1, std::as_bytes(std::span(text))}); }
  void set_strings(std::string_view key, const std::vector<std::string>& texts) {
    std::string bytes;
    for (const std::string& text : texts) {
      const std::uint64_t size = text.size();
      bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
      bytes += text;
    }
    set_value(key, {gguf_type::array, gguf_type::string, texts.size(), copy(std::as_bytes(std::span(bytes)))});
  }
  void add_floats(std::string name, const std::vector<float>& values) {
    add_tensor({std::move(name), dtype::f32, {static_cast<index_t>(values.size())}, copy(std::as_bytes(std::span(values)))});
  }

  /// A buffer that the checkpoint keeps, aligned to 64 bytes. Its bytes count as weights.
  [[nodiscard]] std::span<std::byte> allocate(std::size_t size) {
    std::shared_ptr<std::byte> buffer(static_cast<std::byte*>(::operator new(std::max<std::size_t>(size, 1), std::align_val_t{64})),
                                      [](std::byte* p) { ::operator delete(p, std::align_val_t{64}); });
    std::byte* data = buffer.get();
    keep(std::move(buffer), size);
    return {data, size};
  }

 private:
  [[nodiscard]] std::span<const std::byte> copy(std::span<const std::byte> bytes) {
    const auto kept = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
    keep(kept, 0);
    return *kept;
  }

  template <class T>
  [[nodiscard]] static constexpr gguf_type type_of() {
    if constexpr (std::same_as<T, bool>) return gguf_type::boolean;
    else if constexpr (std::same_as<T, float>) return gguf_type::f32;
    else if constexpr (std::same_as<T, double>) return gguf_type::f64;
    else if constexpr (sizeof(T) == 1) return std::signed_integral<T> ? gguf_type::i8 : gguf_type::u8;
    else if constexpr (sizeof(T) == 2) return std::signed_integral<T> ? gguf_type::i16 : gguf_type::u16;
    else if constexpr (sizeof(T) == 4) return std::signed_integral<T> ? gguf_type::i32 : gguf_type::u32;
    else return std::signed_integral<T> ? gguf_type::i64 : gguf_type::u64;
  }
};

}  // namespace blockattn::inline v0
