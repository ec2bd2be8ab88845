// Files that lie. Each must give a format_error that says where and what, and never a crash.
#include <catch2/catch.hpp>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "blockattn/io/gguf.hpp"
#include "io/gguf_cases.hpp"
#include "support/exact_memory.hpp"
#include "support/temporary_file.hpp"

using namespace blockattn;
using namespace blockattn_test;

namespace {

constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

/// What reading `bytes` throws. Read from memory of exactly that size: a sanitizer sees every step past the end.
std::string refused(const std::string& bytes) {
  const exact_memory memory(bytes);
  try {
    (void)gguf_file::from_memory(memory.span(), "hostile.gguf");
  } catch (const format_error& e) {
    CHECK_THAT(e.what(), Catch::StartsWith("[gguf] hostile.gguf: "));
    return e.what();
  }
  FAIL("the file was accepted");
  return {};
}

std::string refused(const gguf_writer& w) { return refused(w.bytes()); }

/// A small file with a little of everything.
gguf_writer valid() {
  gguf_writer w;
  w.string("general.architecture", "llama")
      .number("general.alignment", std::uint32_t{32})
      .number("rate", 0.25F)
      .number("on", true);
  w.strings("words", std::vector<std::string>{"one", "", "three"}).numbers("scores", std::vector<float>{1, 2, 3});
  w.tensor({"a.weight", ggml_q4_0, {64, 2}, std::string(72, 'a')});
  w.tensor(
      {"b.weight", ggml_f32, {24}, std::string(96, 'b')});  // ends where the padding would end: every byte is needed
  return w;
}

/// valid() with another beginning.
gguf_writer with_head(const std::string& magic, std::uint32_t version) {
  gguf_writer w = valid();
  w.magic = magic;
  w.version = version;
  return w;
}

/// valid() with other counts in its header.
gguf_writer with_counts(std::uint64_t tensors, std::uint64_t metadata) {
  gguf_writer w = valid();
  w.tensor_count = tensors;
  w.metadata_count = metadata;
  return w;
}

/// Asks an open file for everything in every way; only blockattn::error may come out.
void ask_everything(const gguf_file& file) {
  const auto tolerate = [](const std::function<void()>& question) {
    try {
      question();
    } catch (const error&) {
    }
  };
  for (const auto& entry : file.metadata()) {
    const std::string& key = entry.first;
    tolerate([&] { (void)file.number<std::int8_t>(key); });
    tolerate([&] { (void)file.number<bool>(key); });
    tolerate([&] { (void)file.number<index_t>(key); });
    tolerate([&] { (void)file.number<float>(key); });
    tolerate([&] { (void)file.numbers<std::int32_t>(key); });
    tolerate([&] { (void)file.numbers<double>(key); });
    tolerate([&] { (void)file.string(key); });
    tolerate([&] {
      std::size_t sum = 0;
      for (const std::string_view text : file.strings(key))
        for (const char c : text) sum += static_cast<unsigned char>(c);
      (void)sum;
    });
  }
  for (const gguf_tensor& tensor : file.tensors()) {
    const weight_view matrix = tensor.matrix();
    REQUIRE(static_cast<std::size_t>(matrix.rows * row_bytes(matrix.type, matrix.columns)) == tensor.bytes.size());
    volatile std::byte ends = tensor.bytes.front() ^ tensor.bytes.back();
    (void)ends;
  }
}

}  // namespace

TEST_CASE("gguf hostile: not a GGUF file") {
  CHECK_THAT(refused(std::string("PK\3\4, which is another format")), Catch::Contains("doesn't start with 'GGUF'"));
  CHECK_THAT(refused(std::string("GG")), Catch::Contains("doesn't start with 'GGUF'"));
  CHECK_THAT(refused(std::string()), Catch::Contains("doesn't start with 'GGUF'"));
  CHECK_THAT(refused(with_head("ggml", 3)), Catch::Contains("doesn't start with 'GGUF'"));
}

TEST_CASE("gguf hostile: empty, missing and foreign files by path") {
  const temporary_file empty(""), foreign("# a text\n");
  CHECK_THROWS_AS(gguf_file(empty.path()), format_error);
  CHECK_THROWS_AS(gguf_file(foreign.path()), format_error);
  CHECK_THROWS_AS(gguf_file("/nowhere/model.gguf"), io_error);
  CHECK_THROWS_AS(gguf_file(std::filesystem::temp_directory_path()), io_error);
}

TEST_CASE("gguf hostile: other versions") {
  for (const std::uint32_t version : {0U, 1U, 4U, 0xffffffffU})
    CHECK_THAT(refused(with_head("GGUF", version)), Catch::Contains("supported: 2 and 3"));
  CHECK_THAT(refused(with_head("GGUF", 0x03000000U)), Catch::Contains("big-endian"));
}

TEST_CASE("gguf hostile: cut off after any byte") {
  const std::string whole = valid().bytes();
  {
    const exact_memory memory(whole);
    CHECK_NOTHROW(gguf_file::from_memory(memory.span(), "whole.gguf"));
  }
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size << " of " << whole.size() << " bytes");
    refused(whole.substr(0, size));
  }
}

TEST_CASE("gguf hostile: huge_header, counts that no file holds") {
  for (const std::uint64_t count : {std::uint64_t{1000}, std::uint64_t{1} << 32, std::uint64_t{1} << 61, most}) {
    CHECK_THAT(refused(with_counts(count, 6)), Catch::Contains("[gguf] hostile.gguf: "));
    CHECK_THAT(refused(with_counts(2, count)), Catch::Contains("metadata entries"));
    CHECK_THAT(refused(with_counts(count, count)), Catch::Contains("more than"));
  }
  refused(with_counts(3, 6));
  refused(with_counts(2, 7));
  refused(with_counts(2, 5));
}

TEST_CASE("gguf hostile: lengths of strings and arrays beyond the file") {
  for (const std::uint64_t size : {std::uint64_t{1000}, std::uint64_t{1} << 40, most - 7, most}) {
    INFO(size);
    const std::string header = "GGUF" + raw(3U) + raw(std::uint64_t{0}) + raw(std::uint64_t{1});
    CHECK_THAT(refused(header + raw(size) + std::string(64, 'k')), Catch::Contains("a metadata key needs"));
    CHECK_THAT(refused(gguf_writer().raw("text", gguf_writer::string_type, raw(size) + "abc")),
               Catch::Contains("text needs"));
    for (const std::uint32_t element : {0U, 1U, 3U, 5U, 6U, 7U, 8U, 10U, 12U})
      CHECK_THAT(refused(gguf_writer().raw("list", gguf_writer::array_type, raw(element) + raw(size) + "abc")),
                 Catch::Contains("'list' is an array of"));
    const std::string inner =
        raw(gguf_writer::string_type) + raw(std::uint64_t{2}) + raw_string("fine") + raw(size) + "abc";
    CHECK_THAT(refused(gguf_writer().raw("list", gguf_writer::array_type, inner)), Catch::Contains("list needs"));
    CHECK_THAT(
        refused("GGUF" + raw(3U) + raw(std::uint64_t{1}) + raw(std::uint64_t{0}) + raw(size) + std::string(64, 't')),
        Catch::Contains("a tensor name needs"));
  }
}

TEST_CASE("gguf hostile: types of metadata that don't exist, arrays in arrays") {
  CHECK_THAT(refused(gguf_writer().raw("key", 13, std::string(64, '\0'))),
             Catch::Contains("'key' has type 13 (unknown); supported:"));
  CHECK_THAT(refused(gguf_writer().raw("key", 0xffffffffU, std::string(64, '\0'))), Catch::Contains("type 4294967295"));
  CHECK_THAT(refused(gguf_writer().raw("key", gguf_writer::array_type,
                                       raw(99U) + raw(std::uint64_t{1}) + std::string(64, '\0'))),
             Catch::Contains("'key' has type 99 (unknown) in an array"));
  std::string nested;
  for (int depth = 0; depth < 1000; ++depth) nested += raw(gguf_writer::array_type) + raw(std::uint64_t{1});
  CHECK_THAT(refused(gguf_writer().raw("key", gguf_writer::array_type, nested)),
             Catch::Contains("'key' has type 9 (array) in an array"));
}

TEST_CASE("gguf hostile: dup_name, a key or tensor twice") {
  CHECK_THAT(refused(valid().append({"rate", 5, raw(1)})), Catch::Contains("metadata key 'rate' appears twice"));
  CHECK_THAT(refused(with_tensor(valid(), "a.weight", {1}, ggml_f32, "1234")),
             Catch::Contains("tensor 'a.weight' appears twice"));
}

TEST_CASE("gguf hostile: tensor types that aren't supported are named, with those that are") {
  const auto message = [](std::uint32_t type) {
    return refused(with_tensor(valid(), "c", {256}, type, std::string(4096, 'c')));
  };
  CHECK_THAT(message(18), Catch::Contains("tensor 'c' has type 18 (IQ3_XXS); supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, "
                                          "Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS. Use a file"));
  CHECK_THAT(message(39), Catch::Contains("39 (MXFP4)"));
  for (const std::uint32_t type : {4U, 5U, 31U, 40U, 1000U, 0xffffffffU})
    CHECK_THAT(message(type), Catch::Contains("(unknown); supported:"));
}

TEST_CASE("gguf hostile: shapes") {
  const auto message = [](const std::vector<std::uint64_t>& shape, std::uint32_t type = ggml_f32) {
    return refused(with_tensor(valid(), "c", shape, type, std::string(64, 'c')));
  };
  CHECK_THAT(message({}), Catch::Contains("'c' has 0 dimensions; allowed: 1 to 4"));
  CHECK_THAT(message({1, 1, 1, 1, 1}), Catch::Contains("has 5 dimensions"));
  CHECK_THAT(message(std::vector<std::uint64_t>(1000, 1)), Catch::Contains("has 1000 dimensions"));
  CHECK_THAT(message({0}), Catch::Contains("dimension 0 of tensor 'c' is 0"));
  CHECK_THAT(message({4, 0}), Catch::Contains("dimension 1 of tensor 'c' is 0"));
  for (const auto& shape : std::vector<std::vector<std::uint64_t>>{
           {most},
           {std::uint64_t{1} << 63},
           {std::uint64_t{1} << 41},
           {std::uint64_t{1} << 32, std::uint64_t{1} << 32},
           {std::uint64_t{1} << 16, std::uint64_t{1} << 16, std::uint64_t{1} << 16, std::uint64_t{1} << 16},
           {3, std::uint64_t{0x5555555555555556}}})
    CHECK_THAT(message(shape), Catch::Contains("values in all"));
  CHECK_THAT(message({std::uint64_t{1} << 40}), Catch::Contains("Truncated download?"));
  CHECK_THAT(message({33}, ggml_q4_0),
             Catch::Contains("rows of tensor 'c' have 33 values; q4_0 needs a multiple of 32"));
  CHECK_THAT(message({16, 2}, ggml_q8_0), Catch::Contains("needs a multiple of 32"));
  for (const std::uint32_t type : {10U, 11U, 12U, 13U, 14U, 23U})
    CHECK_THAT(message({288, 2}, type), Catch::Contains("have 288 values; ") && Catch::Contains("needs a multiple of 256. Corrupt file"));
}

TEST_CASE("gguf hostile: offset_past_end, begin_after_end, wrong_size, misaligned") {
  const auto file = [](std::optional<std::uint64_t> offset = {}) {
    return with_tensor(valid(), "c", {16}, ggml_f32, std::string(64, 'c'), offset);
  };
  CHECK_THAT(refused(file(1 << 20)), Catch::Contains("tensor 'c' needs bytes"));
  CHECK_THAT(refused(file(std::uint64_t{1} << 63)), Catch::Contains("tensor 'c' needs bytes"));
  CHECK_THAT(refused(file(most - 31)), Catch::Contains("tensor 'c' needs bytes"));  // base + offset wraps around
  CHECK_THAT(refused(file(1)), Catch::Contains("'c' starts at 1, which isn't a multiple of the alignment 32"));
  CHECK_THAT(refused(file(most)), Catch::Contains("isn't a multiple of the alignment"));

  std::string one_byte_short = file().bytes();
  one_byte_short.pop_back();
  CHECK_THAT(refused(one_byte_short),
             Catch::Contains("tensor 'c' needs bytes") && Catch::Contains("+64, the file has"));
  CHECK_THAT(refused(valid().header()), Catch::Contains("Truncated download?"));  // no data at all
}

TEST_CASE("gguf hostile: alignments") {
  const auto file = [](auto alignment) {
    return with_tensor(gguf_writer().number("general.alignment", alignment), "t", {1}, ggml_f32, "1234");
  };
  for (const std::uint32_t alignment : {0U, 1U, 4U, 33U, 48U, 1U << 21, 0xffffffffU})
    CHECK_THAT(refused(file(alignment)),
               Catch::Contains("general.alignment is ") && Catch::Contains("a power of two from 8"));
  CHECK_THAT(refused(file(most)), Catch::Contains("general.alignment is "));
  CHECK_THAT(refused(file(-32)), Catch::Contains("'general.alignment' is -32"));
  CHECK_THAT(refused(gguf_writer().string("general.alignment", "32")),
             Catch::Contains("'general.alignment' should be a number; got: string"));
}

TEST_CASE("gguf hostile: names can't write to the terminal, nor fill it") {
  const std::string message = refused(with_tensor({}, "\x1b[2J" + std::string(100000, 'x'), {}, ggml_f32, ""));
  CHECK_THAT(message, Catch::Contains("'\\x1b[2Jxxx") && Catch::Contains("... (100004 bytes)"));
  CHECK(message.size() < 400);
}

TEST_CASE("gguf hostile: 20,000 mutations give an error or a file that can be read") {
  const std::string whole = valid().bytes();
  std::mt19937 random(20240915);
  const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % end); };
  int refusals = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = whole;
    for (std::size_t change = 1 + below(4); change > 0; --change) {
      const std::size_t at = below(bytes.size());
      switch (below(5)) {
        case 0: bytes[at] = static_cast<char>(random()); break;
        case 1: bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8))); break;
        case 2: bytes.insert(at, 1 + below(8), static_cast<char>(random())); break;
        case 3: bytes.erase(at, 1 + below(8)); break;
        default: bytes[at] = below(2) == 0 ? '\0' : '\xff'; break;
      }
      if (bytes.empty()) bytes = "G";
    }
    const exact_memory memory(bytes);
    try {
      ask_everything(gguf_file::from_memory(memory.span(), "mutated.gguf"));
    } catch (const error&) {
      ++refusals;
    }
  }
  CHECK(refusals > 5000);   // the changes reach what is checked,
  CHECK(refusals < 20000);  // and not only that
}
