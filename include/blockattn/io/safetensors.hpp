// safetensors: the tensors of one file, mapped.
//
// u64 N (little-endian), then N bytes of JSON: {"name": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}, then the
// data that offsets are relative to: row-major, little-endian, without holes. Source: https://github.com/huggingface/safetensors (README, "Format").
//
// The file isn't trusted: whatever its bytes are, opening works or throws, in memory proportional to the header.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/json.hpp"
#include "blockattn/io/gguf_format.hpp"
#include "blockattn/io/mapped_file.hpp"

namespace blockattn::inline v0 {

/// One tensor as the file says it. Types that this library can't read can be listed; only what is used must be supported.
struct safetensors_entry {
  std::string name;
  std::string type_name;             ///< "F32", "BF16", "F8_E4M3", ...
  std::optional<dtype> type;         ///< if it is supported
  std::vector<index_t> shape;        ///< as in the file: the contiguous dimension last; empty for a scalar
  std::span<const std::byte> bytes;  ///< at any address
};

namespace detail {

/// Bits of one value of the types of safetensors; 0 for unknown names.
[[nodiscard]] constexpr index_t safetensors_bits(std::string_view type) {
  struct entry {
    std::string_view name;
    index_t bits;
  };
  constexpr entry known[] = {{"F64", 64}, {"F32", 32}, {"F16", 16}, {"BF16", 16}, {"I64", 64}, {"I32", 32}, {"I16", 16}, {"I8", 8}, {"U64", 64}, {"U32", 32},
                             {"U16", 16}, {"U8", 8}, {"BOOL", 8}, {"C64", 64}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
  for (const entry& e : known)
    if (e.name == type) return e.bits;
  return 0;
}

[[nodiscard]] inline std::optional<dtype> dtype_of_safetensors(std::string_view type) {
  if (type == "F32") return dtype::f32;
  if (type == "F16") return dtype::f16;
  if (type == "BF16") return dtype::bf16;
  return std::nullopt;
}

}  // namespace detail

/// An open file. Immutable; entries point into the mapping, which file() keeps. Throws io_error and format_error.
class safetensors_file {
 public:
  explicit safetensors_file(const std::filesystem::path& path) : path_(path.string()), file_(std::make_shared<const mapped_file>(path)), bytes_(file_->bytes()) { parse(); }

  /// A file that is in memory already; `bytes` aren't copied and must outlive this object. `name` stands for the path in messages.
  [[nodiscard]] static safetensors_file from_memory(std::span<const std::byte> bytes, std::string name) { return {bytes, std::move(name)}; }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::vector<safetensors_entry>& entries() const { return entries_; }  ///< in the order of their data
  [[nodiscard]] const std::shared_ptr<const mapped_file>& file() const { return file_; }
  [[nodiscard]] std::size_t size_bytes() const { return bytes_.size(); }

 private:
  safetensors_file(std::span<const std::byte> bytes, std::string name) : path_(std::move(name)), bytes_(bytes) { parse(); }

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw format_error(cat("[safetensors] ", path_, ": ", parts...));
  }

  void parse() {
    std::uint64_t size = 0;
    if (bytes_.size() < sizeof(size) + 2) fail("has ", bytes_.size(), " bytes; a safetensors file has 10 at least. Truncated download? Fetch it again.");
    std::memcpy(&size, bytes_.data(), sizeof(size));
    if (size > most_header) fail("the header has ", size, " bytes; allowed: up to ", most_header, ". Not a safetensors file?");
    if (size > bytes_.size() - sizeof(size)) fail("the header needs ", size, " bytes after the first 8, the file has ", bytes_.size(), ". Truncated download? Fetch it again.");
    const auto header = bytes_.subspan(sizeof(size), static_cast<std::size_t>(size));
    const auto data = bytes_.subspan(sizeof(size) + header.size());
    const json_document document({reinterpret_cast<const char*>(header.data()), header.size()}, cat("[safetensors] ", path_));
    if (!document.root().is_object()) fail("the header isn't a JSON object. Not a safetensors file?");
    for (const auto& [name, value] : document.root().members())
      if (name != "__metadata__") entries_.push_back(parse_entry(name, value, data));
    check_offsets(data);
  }

  [[nodiscard]] safetensors_entry parse_entry(std::string_view name, const json_value& value, std::span<const std::byte> data) const {
    safetensors_entry entry;
    entry.name = name;
    entry.type_name = value.at("dtype").string();
    entry.type = detail::dtype_of_safetensors(entry.type_name);
    const index_t bits = detail::safetensors_bits(entry.type_name);
    if (bits == 0) fail("tensor '", detail::printable(name), "' has dtype '", detail::printable(entry.type_name), "', which safetensors doesn't know; supported: F32, F16, BF16");
    index_t values = 1;
    for (const auto& size : value.at("shape").elements()) {
      entry.shape.push_back(size.value.number<index_t>());
      if (entry.shape.back() < 0 || entry.shape.size() > 16 || (values != 0 && entry.shape.back() > most_values / values))
        fail("dimension ", entry.shape.size() - 1, " of tensor '", detail::printable(name), "' is ", entry.shape.back(), "; allowed: 0 or more, up to 16 dimensions, and ",
             most_values, " values in all");
      values *= entry.shape.back();
    }
    const json_value offsets = value.at("data_offsets");
    if (offsets.elements().begin() == offsets.elements().end() || offsets.size() != 2) offsets.fail("of tensor '", detail::printable(name), "' has ", offsets.size(), " numbers; expected 2");
    auto offset = offsets.elements().begin();
    const auto begin = (*offset).value.number<std::uint64_t>();
    const auto end = (*++offset).value.number<std::uint64_t>();
    if (begin > end || end > data.size())
      fail("tensor '", detail::printable(name), "' lies at bytes ", begin, " to ", end, " of the data, which has ", data.size(), ". Truncated download? Fetch it again.");
    const auto needed = static_cast<std::uint64_t>((values * bits + 7) / 8);
    if (end - begin != needed)
      fail("tensor '", detail::printable(name), "' has ", end - begin, " bytes; ", values, " values of ", entry.type_name, " need ", needed, ". Corrupt file; fetch it again.");
    entry.bytes = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(needed));
    return entry;
  }

  /// The data is covered once, from its first to its last byte. Sorts the entries by where they lie.
  void check_offsets(std::span<const std::byte> data) {
    std::stable_sort(entries_.begin(), entries_.end(), [](const safetensors_entry& a, const safetensors_entry& b) {
      return a.bytes.data() != b.bytes.data() ? a.bytes.data() < b.bytes.data() : a.bytes.size() < b.bytes.size();
    });
    std::size_t at = 0;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const auto begin = static_cast<std::size_t>(entries_[i].bytes.data() - data.data());
      if (begin != at)
        fail("tensor '", detail::printable(entries_[i].name), "' starts at byte ", begin, " of the data, but ", i == 0 ? "the data starts" : "the one before it ends", " at ", at, " ('",
             i == 0 ? "" : detail::printable(entries_[i - 1].name), "'): tensors ", begin < at ? "overlap" : "leave a hole", ". Corrupt file; fetch it again.");
      at += entries_[i].bytes.size();
    }
    if (at != data.size()) fail("the last tensor ends at byte ", at, " of the data, which has ", data.size(), ". Corrupt file; fetch it again.");
  }

  static constexpr std::uint64_t most_header = 100'000'000;  // the format's own limit
  static constexpr index_t most_values = index_t{1} << 40;   ///< of one tensor

  std::string path_;
  std::shared_ptr<const mapped_file> file_;  ///< nothing if the bytes are the caller's
  std::span<const std::byte> bytes_;
  std::vector<safetensors_entry> entries_;
};

}  // namespace blockattn::inline v0
