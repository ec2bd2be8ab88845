// GGUF versions 2 and 3: metadata and tensors of a model in one mapped file, or in several parts.
//
// Little-endian. "GGUF", u32 version, u64 tensor count, u64 metadata count; then the metadata pairs
// (string key, u32 type, value), then the tensor infos (string name, u32 n, u64 size[n] with the contiguous one first,
// u32 type, u64 offset), then padding to general.alignment (32 if not given), then the data that offsets are relative
// to. A string is u64 length and bytes; an array is u32 element type, u64 count and its elements. Version 3 only added that
// files may be big-endian; these are refused. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// A model in parts is "NAME-00001-of-0000N.gguf", ...: each part says split.no (from 0), split.count and split.tensors.count (of all parts), the first one
// has the model's metadata, and the tensors are those of all parts. Any part opens all (llama.cpp's llama-gguf-split writes them).
//
// Nothing of the data is read or copied at opening: arrays of metadata stay where they lie until they are asked for.
// The file isn't trusted: whatever its bytes are, opening and asking either work or throw, in memory proportional to
// its size.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/io/checkpoint.hpp"
#include "blockattn/io/gguf_format.hpp"
#include "blockattn/io/mapped_file.hpp"

namespace blockattn::inline v0 {

/// An open GGUF file: a map of metadata and the list of tensors, both pointing into the mapping. Immutable; read by any
/// thread. Throws io_error and format_error.
class gguf_file : public checkpoint {
 public:
  /// A file, or all parts of a model of which `path` is one.
  explicit gguf_file(const std::filesystem::path& path) : gguf_file(path, one_file{}) {
    if (const auto parts = number<std::uint32_t>("split.count").value_or(1); parts > 1) join_parts(path, parts);
  }

  /// A file that is in memory already, such as one built into the program. `bytes` aren't copied: they must outlive
  /// this object and start at a multiple of 8 (argument_error). `name` stands for the path in messages.
  [[nodiscard]] static gguf_file from_memory(std::span<const std::byte> bytes, std::string name) {
    return gguf_file(bytes, std::move(name));
  }

 private:
  struct one_file {};

  gguf_file(const std::filesystem::path& path, one_file) : checkpoint("gguf", path.string(), "GGUF") {
    auto file = std::make_shared<const mapped_file>(path);
    bytes_ = file->bytes();
    keep(std::move(file), bytes_.size());
    parse();
  }

  gguf_file(std::span<const std::byte> bytes, std::string name) : checkpoint("gguf", std::move(name), "GGUF"), bytes_(bytes) {
    const auto past = reinterpret_cast<std::uintptr_t>(bytes.data()) % least_alignment;
    if (past != 0)
      throw argument_error(cat("[gguf] ", path(), ": the memory starts ", past, " bytes after a multiple of ",
                               least_alignment, "; allowed: multiples of it. Declare it with alignas(", least_alignment,
                               ")."));
    keep(nullptr, bytes.size());
    parse();
    if (const auto parts = number<std::uint32_t>("split.count").value_or(1); parts > 1)
      fail("is one of ", parts, " parts of a model; in memory there must be one whole file. Join the parts first.");
  }

  /// "-00002-of-00003.gguf" of part number `part`, counted from 0.
  [[nodiscard]] static std::string part_ending(std::uint32_t part, std::uint32_t parts) {
    const auto digits = [](std::uint64_t number) {
      const std::string text = std::to_string(number);
      return std::string(5 - std::min<std::size_t>(text.size(), 5), '0') + text;
    };
    return cat("-", digits(std::uint64_t{part} + 1), "-of-", digits(parts), ".gguf");
  }

  /// This file is one part: becomes the whole model, with the first part's metadata.
  void join_parts(const std::filesystem::path& path, std::uint32_t parts) {
    const auto own = require<std::uint32_t>("split.no");
    const std::string file = path.filename().string();
    if (own >= parts || !file.ends_with(part_ending(own, parts)))
      fail("is part ", std::uint64_t{own} + 1, " of ", parts, " by its metadata (split.no, split.count), so its name must end in '", own < parts ? part_ending(own, parts) : "",
           "'. Give all parts the names they were made with.");
    const std::string stem = file.substr(0, file.size() - part_ending(own, parts).size());
    const auto open = [&](std::uint32_t part) { return open_part(path.parent_path() / (stem + part_ending(part, parts)), part, parts); };
    gguf_file whole = open(0);
    for (std::uint32_t part = 1; part < parts; ++part) {
      gguf_file next = open(part);
      for (const char* key : {"general.architecture", "general.name"})
        if (next.has(key) && next.string(key) != whole.string(key))
          next.fail("'", key, "' is '", detail::printable(*next.string(key)), "', in the first part '", detail::printable(whole.string(key).value_or("missing")),
                    "'. A part of another model?");
      whole.take_tensors(std::move(next));
    }
    const auto expected = whole.require<std::uint64_t>("split.tensors.count");
    if (whole.tensors().size() != expected)
      whole.fail("its ", parts, " parts have ", whole.tensors().size(), " tensors; 'split.tensors.count' says ", expected, ". A part of another model?");
    *this = std::move(whole);
  }

  [[nodiscard]] gguf_file open_part(const std::filesystem::path& path, std::uint32_t part, std::uint32_t parts) const {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored))
      fail("part ", part + 1, " of ", parts, " is missing: ", path.string(), ". Fetch it into the same folder, under that name.");
    gguf_file file(path, one_file{});
    const auto number_of = [&](const char* key) { return file.number<std::uint64_t>(key); };
    if (number_of("split.no") != part || number_of("split.count") != parts)
      file.fail("should be part ", part + 1, " of ", parts, "; its metadata say ", number_of("split.no").value_or(0) + 1, " of ", number_of("split.count").value_or(1),
                ". Parts were renamed or mixed up.");
    if (number_of("split.tensors.count") != number<std::uint64_t>("split.tensors.count"))
      file.fail("belongs to a model of ", number_of("split.tensors.count").value_or(0), " tensors, ", this->path(), " to one of ",
                number<std::uint64_t>("split.tensors.count").value_or(0), ". A part of another model?");
    return file;
  }

  void parse() {
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0)
      fail("doesn't start with 'GGUF'. Not a GGUF model file; give one, or fetch it again.");
    detail::gguf_reader reader(bytes_, path());
    (void)reader.take(4, "the magic");
    const auto version = reader.read<std::uint32_t>("the version");
    if (version == 0x02000000U || version == 0x03000000U)
      fail("the file is big-endian (version ", version >> 24, "); supported: little-endian files. Convert the model again for this machine's byte order.");
    if (version != 2 && version != 3)
      fail("version ", version, "; supported: 2 and 3. Convert the model again with a current converter.");
    set_version(version);
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
    if (!add_value(key, value))
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
    std::vector<checkpoint_tensor> found;
    std::vector<std::uint64_t> offsets;
    for (std::uint64_t i = 0; i < count; ++i) {
      found.push_back(parse_tensor(reader));
      offsets.push_back(reader.read<std::uint64_t>(found.back().name));
    }
    const auto alignment = number<std::uint64_t>("general.alignment").value_or(32);
    if (alignment < least_alignment || alignment > most_alignment || !std::has_single_bit(alignment))
      fail("general.alignment is ", alignment, "; allowed: a power of two from ", least_alignment, " to ",
           most_alignment);
    const std::uint64_t base = (reader.position() + alignment - 1) / alignment * alignment;
    for (std::size_t i = 0; i < found.size(); ++i) {
      place(found[i], base, offsets[i], alignment);
      add_tensor(std::move(found[i]));
    }
  }

  /// A tensor's name, shape and type, each checked; its offset comes next.
  [[nodiscard]] checkpoint_tensor parse_tensor(detail::gguf_reader& reader) const {
    checkpoint_tensor tensor;
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
  void place(checkpoint_tensor& tensor, std::uint64_t base, std::uint64_t offset, std::uint64_t alignment) const {
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

  static constexpr std::uint64_t least_alignment = 8, most_alignment = 1U << 20;
  static constexpr index_t most_values = index_t{1} << 40;  ///< of one tensor

  std::span<const std::byte> bytes_;
};

}  // namespace blockattn::inline v0
