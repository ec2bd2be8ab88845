// Writes GGUF files for tests, correct ones and, on request, wrong ones: every count, type, offset and size can be
// overridden. Its layout is its own reading of the format's documentation, not the loader's code turned round.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace blockattn_test {

/// Appends the bytes of a value as they lie in memory (little-endian).
template <class T>
void put(std::string& out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

/// Appends u64 length and bytes.
inline void put_string(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

/// The format's type number of a C++ type.
template <class T>
constexpr std::uint32_t gguf_type_number() {
  if constexpr (std::is_same_v<T, bool>)
    return 7;
  else if constexpr (std::is_same_v<T, float>)
    return 6;
  else if constexpr (std::is_same_v<T, double>)
    return 12;
  else if constexpr (sizeof(T) == 8)
    return std::is_signed_v<T> ? 11 : 10;
  else
    return (sizeof(T) == 1 ? 0U : sizeof(T) == 2 ? 2U : 4U) + (std::is_signed_v<T> ? 1U : 0U);
}

class gguf_writer {
 public:
  static constexpr std::uint32_t string_type = 8, array_type = 9;

  struct entry {
    std::string key;
    std::uint32_t type = 0;
    std::string value;  ///< as in the file
  };
  struct tensor_entry {
    std::string name;
    std::uint32_t type = 0;            ///< the format's number: 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0, 30 BF16
    std::vector<std::uint64_t> shape;  ///< the contiguous dimension first
    std::string data;
    std::optional<std::uint64_t> offset{};      ///< written instead of the right one
    std::optional<std::uint32_t> dimensions{};  ///< written instead of shape.size()
  };

  // What the header says; the counts are the right ones unless given.
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::optional<std::uint64_t> tensor_count, metadata_count;
  std::uint64_t alignment = 32;  ///< of the data; not written as general.alignment by itself

  gguf_writer& string(std::string_view key, std::string_view text) {
    std::string value;
    put_string(value, text);
    return raw(key, string_type, std::move(value));
  }

  template <class T>
  gguf_writer& number(std::string_view key, T number) {
    std::string value;
    put(value, number);
    return raw(key, gguf_type_number<T>(), std::move(value));
  }

  gguf_writer& strings(std::string_view key, const std::vector<std::string>& texts,
                       std::optional<std::uint64_t> count = {}) {
    std::string elements;
    for (const std::string& text : texts) put_string(elements, text);
    return array(key, string_type, count.value_or(texts.size()), elements);
  }

  template <class T>
  gguf_writer& numbers(std::string_view key, const std::vector<T>& values, std::optional<std::uint64_t> count = {}) {
    std::string elements;
    for (const T value : values) put(elements, value);
    return array(key, gguf_type_number<T>(), count.value_or(values.size()), elements);
  }

  /// An array of any element type with any count.
  gguf_writer& array(std::string_view key, std::uint32_t element_type, std::uint64_t count, std::string_view elements) {
    std::string value;
    put(value, element_type);
    put(value, count);
    return raw(key, array_type, value += elements);
  }

  /// Any type number with any bytes; takes the place of an entry with that key.
  gguf_writer& raw(std::string_view key, std::uint32_t type, std::string value) {
    remove(key);
    return append({std::string(key), type, std::move(value)});
  }

  /// One more entry, even if the key is there.
  gguf_writer& append(entry e) {
    metadata_.push_back(std::move(e));
    return *this;
  }

  gguf_writer& remove(std::string_view key) {
    metadata_.erase(std::remove_if(metadata_.begin(), metadata_.end(), [&](const entry& e) { return e.key == key; }),
                    metadata_.end());
    return *this;
  }

  /// One more tensor, even if the name is there.
  gguf_writer& tensor(tensor_entry t) {
    tensors_.push_back(std::move(t));
    return *this;
  }

  /// An F32 tensor.
  gguf_writer& tensor(std::string name, std::vector<std::uint64_t> shape, const std::vector<float>& values) {
    std::string data;
    for (const float value : values) put(data, value);
    return tensor({std::move(name), 0, std::move(shape), std::move(data)});
  }

  /// The tensor of that name, to be changed.
  [[nodiscard]] tensor_entry& tensor(std::string_view name) {
    for (tensor_entry& t : tensors_)
      if (t.name == name) return t;
    throw std::out_of_range("no tensor '" + std::string(name) + "'");
  }

  [[nodiscard]] std::vector<entry>& metadata() { return metadata_; }
  [[nodiscard]] std::vector<tensor_entry>& tensors() { return tensors_; }

  /// The file.
  [[nodiscard]] std::string bytes() const {
    std::string out = header();
    pad(out);
    for (const tensor_entry& t : tensors_) {
      out += t.data;
      pad(out);
    }
    return out;
  }

  /// All before the padding and the data: where it ends is a good place to truncate.
  [[nodiscard]] std::string header() const {
    std::string out = magic;
    put(out, version);
    put(out, tensor_count.value_or(tensors_.size()));
    put(out, metadata_count.value_or(metadata_.size()));
    for (const entry& e : metadata_) {
      put_string(out, e.key);
      put(out, e.type);
      out += e.value;
    }
    std::uint64_t offset = 0;
    for (const tensor_entry& t : tensors_) {
      put_string(out, t.name);
      put(out, t.dimensions.value_or(static_cast<std::uint32_t>(t.shape.size())));
      for (const std::uint64_t size : t.shape) put(out, size);
      put(out, t.type);
      put(out, t.offset.value_or(offset));
      offset += (t.data.size() + alignment - 1) / alignment * alignment;
    }
    return out;
  }

 private:
  void pad(std::string& out) const { out.resize((out.size() + alignment - 1) / alignment * alignment); }

  std::vector<entry> metadata_;
  std::vector<tensor_entry> tensors_;
};

}  // namespace blockattn_test
