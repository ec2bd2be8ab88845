// Any bytes: opening them as a GGUF file and asking for everything in it either works or throws blockattn::error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "blockattn/io/gguf.hpp"
#include "support/exact_memory.hpp"
#include "support/gguf_writer.hpp"

namespace {

void ask_everything(const blockattn::gguf_file& file) {
  for (const auto& [key, value] : file.metadata()) {
    try {
      switch (value.type) {
        case blockattn::gguf_type::string: (void)file.string(key); break;
        case blockattn::gguf_type::array:
          if (value.element == blockattn::gguf_type::string)
            (void)file.strings(key);
          else
            (void)file.numbers<blockattn::index_t>(key);
          break;
        default: (void)file.number<std::int32_t>(key); break;
      }
    } catch (const blockattn::error&) {
    }
  }
  for (const auto& tensor : file.tensors()) {
    const blockattn::weight_view matrix = tensor.matrix();
    volatile std::byte last = matrix.row(matrix.rows - 1)[blockattn::row_bytes(matrix.type, matrix.columns) - 1];
    (void)last;
  }
}

}  // namespace

/// Starts from a valid file, which random bytes would never become.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed);
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned) {
  if (size < 8) {
    blockattn_test::gguf_writer w;
    w.number("general.alignment", std::uint32_t{32}).string("name", "text");
    w.numbers("list", std::vector<std::int32_t>{1, 2}).strings("words", {"a", "bc"});
    w.tensor({"a", 8, {32, 2}, std::string(68, 'a')}).tensor({"b", 0, {3}, std::string(12, 'b')});
    const std::string bytes = w.bytes();
    if (bytes.size() > most) return size;
    bytes.copy(reinterpret_cast<char*>(data), bytes.size());
    return bytes.size();
  }
  return LLVMFuzzerMutate(data, size, most);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const blockattn_test::exact_memory memory(std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    ask_everything(blockattn::gguf_file::from_memory(memory.span(), "fuzzed.gguf"));
  } catch (const blockattn::error&) {
  }
  return 0;
}
