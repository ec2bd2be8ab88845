// Good files: the default checkpoint, and small ones with every type of metadata and tensor.
#include <catch2/catch.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "blockattn/io/gguf.hpp"
#include "io/gguf_cases.hpp"
#include "support/exact_memory.hpp"
#include "support/model_path.hpp"
#include "support/temporary_file.hpp"

using namespace blockattn;
using namespace blockattn_test;

namespace {

/// A file in memory, and the memory.
struct small_file {
  explicit small_file(const gguf_writer& w)
      : memory(w.bytes()), gguf(gguf_file::from_memory(memory.span(), "small.gguf")) {}
  exact_memory memory;
  gguf_file gguf;
};

}  // namespace

TEST_CASE("gguf: the default checkpoint") {
  const gguf_file file(model_path());
  CHECK(file.version() == 3);
  CHECK(file.tensors().size() == 272);
  CHECK(file.string("general.architecture") == "llama");
  CHECK(file.require<int>("llama.block_count") == 30);
  CHECK(file.require<int>("llama.embedding_length") == 576);
  CHECK(file.require<int>("llama.attention.head_count") == 9);
  CHECK(file.require<int>("llama.attention.head_count_kv") == 3);
  CHECK(file.require<double>("llama.rope.freq_base") == Approx(100000));
  CHECK(file.require<float>("llama.attention.layer_norm_rms_epsilon") == Approx(1e-5));
  CHECK(file.string("tokenizer.ggml.model") == "gpt2");
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  REQUIRE(tokens.size() == 49152);
  CHECK(tokens[1] == "<|im_start|>");
  CHECK(tokens[2] == "<|im_end|>");
  CHECK(file.numbers<std::int32_t>("tokenizer.ggml.token_type").size() == 49152);

  const gguf_tensor* up = file.find_tensor("blk.0.ffn_up.weight");
  REQUIRE(up != nullptr);
  CHECK(up->type == dtype::q4_1);
  CHECK(up->shape == std::vector<index_t>{576, 1536});
  const weight_view matrix = up->matrix();
  CHECK(matrix.rows == 1536);
  CHECK(matrix.columns == 576);
  CHECK(up->bytes.size() == 1536 * 576 / 32 * 20);

  const gguf_tensor* norm = file.find_tensor("output_norm.weight");
  REQUIRE(norm != nullptr);
  CHECK(norm->type == dtype::f32);
  CHECK(norm->shape == std::vector<index_t>{576});
  CHECK(file.find_tensor("blk.30.ffn_up.weight") == nullptr);
}

TEST_CASE("gguf: numbers of every type, converted to what was asked for") {
  gguf_writer w;
  w.number("u8", std::uint8_t{255}).number("i8", std::int8_t{-128}).number("u16", std::uint16_t{65535});
  w.number("i16", std::int16_t{-32768}).number("u32", std::uint32_t{4294967295U}).number("i32", std::int32_t{-7});
  w.number("u64", std::numeric_limits<std::uint64_t>::max()).number("i64", std::numeric_limits<std::int64_t>::min());
  w.number("f32", 0.5F).number("f64", 1e100).number("yes", true).number("no", false).number("whole", 127.0F);
  const small_file f(w);
  CHECK(f.gguf.require<int>("u8") == 255);
  CHECK(f.gguf.require<std::int8_t>("i8") == -128);
  CHECK(f.gguf.require<std::uint16_t>("u16") == 65535);
  CHECK(f.gguf.require<index_t>("i16") == -32768);
  CHECK(f.gguf.require<index_t>("u32") == 4294967295);
  CHECK(f.gguf.require<double>("i32") == -7);
  CHECK(f.gguf.require<std::uint64_t>("u64") == std::numeric_limits<std::uint64_t>::max());
  CHECK(f.gguf.require<std::int64_t>("i64") == std::numeric_limits<std::int64_t>::min());
  CHECK(f.gguf.require<double>("f32") == 0.5);
  CHECK(f.gguf.require<double>("f64") == 1e100);
  CHECK(f.gguf.require<bool>("yes"));
  CHECK_FALSE(f.gguf.require<bool>("no"));
  CHECK(f.gguf.require<std::int8_t>("whole") == 127);  // the largest value of the type
  CHECK(f.gguf.has("yes"));
  CHECK_FALSE(f.gguf.has("maybe"));
  CHECK(f.gguf.number<int>("maybe") == std::nullopt);
  CHECK(f.gguf.string("maybe") == std::nullopt);
  CHECK(f.gguf.strings("maybe").empty());
  CHECK(f.gguf.numbers<int>("maybe").empty());
}

TEST_CASE("gguf: a number that the asked type can't hold is an error that names the key") {
  gguf_writer w;
  w.number("big", std::uint32_t{300})
      .number("minus", std::int32_t{-1})
      .number("half", 0.5F)
      .number("huge", 1e300)
      .number("end", 128.0F);
  w.number("not", std::numeric_limits<float>::quiet_NaN())
      .number("inf", std::numeric_limits<double>::infinity())
      .string("text", "7");
  w.number("max", std::uint64_t{1} << 63)
      .number("max_as_float", 9223372036854775808.0)
      .raw("bool2", 7, raw(std::uint8_t{2}));
  w.numbers("list", std::vector<int>{1});
  const small_file f(w);
  CHECK_THROWS_WITH(f.gguf.number<std::uint8_t>("big"),
                    Catch::Contains("[gguf] small.gguf: metadata key 'big' is 300 (u32)"));
  CHECK_THROWS_AS(f.gguf.number<std::uint32_t>("minus"), format_error);
  CHECK_THROWS_AS(f.gguf.number<int>("half"), format_error);
  CHECK_THROWS_AS(f.gguf.number<float>("huge"), format_error);
  CHECK_THROWS_AS(f.gguf.number<std::int8_t>("end"), format_error);
  CHECK_THROWS_AS(f.gguf.number<int>("not"), format_error);
  CHECK_THROWS_AS(f.gguf.number<bool>("not"), format_error);
  CHECK_THROWS_AS(f.gguf.number<index_t>("inf"), format_error);
  CHECK_THROWS_AS(f.gguf.number<index_t>("max"), format_error);
  CHECK_THROWS_AS(f.gguf.number<index_t>("max_as_float"), format_error);
  CHECK_THROWS_AS(f.gguf.number<bool>("big"), format_error);
  CHECK_THROWS_AS(f.gguf.number<bool>("bool2"), format_error);
  CHECK_THROWS_WITH(f.gguf.number<int>("text"), Catch::Contains("'text' should be a number; got: string"));
  CHECK_THROWS_WITH(f.gguf.number<int>("list"), Catch::Contains("'list' should be a number; got: array"));
  CHECK_THROWS_WITH(f.gguf.require<int>("gone"), Catch::Contains("metadata key 'gone' is missing"));
}

TEST_CASE("gguf: strings and arrays, and asking for the wrong kind") {
  gguf_writer w;
  w.string("name", "a \xF0\x9F\x90\xA6").string("empty", "").strings("words", std::vector<std::string>{"x", "", "yz"});
  w.numbers("numbers", std::vector<std::int32_t>{-1, 0, 70000}).numbers("none", std::vector<float>{});
  w.raw("no_words", gguf_writer::array_type, raw(gguf_writer::string_type) + raw(std::uint64_t{0}));
  w.raw("flags", gguf_writer::array_type, raw(std::uint32_t{7}) + raw(std::uint64_t{3}) + std::string("\1\0\1", 3));
  const small_file f(w);
  CHECK(f.gguf.string("name") == "a \xF0\x9F\x90\xA6");
  CHECK(f.gguf.string("empty") == "");
  CHECK(f.gguf.strings("words") == std::vector<std::string_view>{"x", "", "yz"});
  CHECK(f.gguf.strings("no_words").empty());
  CHECK(f.gguf.numbers<float>("numbers") == std::vector<float>{-1, 0, 70000});
  CHECK(f.gguf.numbers<double>("none").empty());
  CHECK(f.gguf.numbers<bool>("flags") == std::vector<bool>{true, false, true});
  CHECK(f.gguf.metadata().at("words").count == 3);
  CHECK(f.gguf.metadata().at("words").element == gguf_type::string);

  CHECK_THROWS_WITH(f.gguf.string("numbers"), Catch::Contains("'numbers' should be a string; got: array of i32"));
  CHECK_THROWS_WITH(f.gguf.strings("name"), Catch::Contains("'name' should be an array of strings; got: string"));
  CHECK_THROWS_WITH(f.gguf.strings("numbers"), Catch::Contains("got: array of i32"));
  CHECK_THROWS_WITH(f.gguf.numbers<int>("words"),
                    Catch::Contains("'words' should be an array of numbers; got: array of string"));
  CHECK_THROWS_AS(f.gguf.numbers<int>("name"), format_error);
  CHECK_THROWS_AS(f.gguf.numbers<std::uint8_t>("numbers"), format_error);
}

TEST_CASE("gguf: tensors of every supported type lie where the file says") {
  const std::vector<std::pair<std::uint32_t, dtype>> types = {
      {0, dtype::f32},   {1, dtype::f16},   {30, dtype::bf16}, {8, dtype::q8_0},  {2, dtype::q4_0},
      {3, dtype::q4_1},  {6, dtype::q5_0},  {7, dtype::q5_1},  {10, dtype::q2_k}, {11, dtype::q3_k},
      {12, dtype::q4_k}, {13, dtype::q5_k}, {14, dtype::q6_k}, {20, dtype::iq4_nl}, {23, dtype::iq4_xs}};
  gguf_writer w;
  for (const auto& [number, type] : types)
    w.tensor({name(type),
              number,
              {256, 3, 2},
              std::string(static_cast<std::size_t>(6 * row_bytes(type, 256)), static_cast<char>('a' + number))});
  const small_file f(w);
  for (const auto& [number, type] : types) {
    INFO(name(type));
    const gguf_tensor* tensor = f.gguf.find_tensor(name(type));
    REQUIRE(tensor != nullptr);
    CHECK(tensor->type == type);
    CHECK(tensor->shape == std::vector<index_t>{256, 3, 2});
    CHECK(tensor->matrix().rows == 6);
    CHECK(tensor->matrix().columns == 256);
    CHECK(tensor->bytes.size() == static_cast<std::size_t>(6 * row_bytes(type, 256)));
    CHECK(static_cast<char>(tensor->bytes.front()) == static_cast<char>('a' + number));
    CHECK(static_cast<char>(tensor->bytes.back()) == static_cast<char>('a' + number));
    CHECK((tensor->bytes.data() - f.memory.span().data()) % 32 == 0);
  }
}

TEST_CASE("gguf: the alignment that the file asks for") {
  gguf_writer w;
  w.number("general.alignment", std::uint32_t{4096})
      .tensor({"t", ggml_f32, {2}, "abcdefgh"})
      .tensor({"u", ggml_f32, {1}, "wxyz"});
  w.alignment = 4096;
  const small_file f(w);
  CHECK(static_cast<char>(f.gguf.find_tensor("t")->bytes[7]) == 'h');
  CHECK(f.gguf.find_tensor("u")->bytes.data() - f.gguf.find_tensor("t")->bytes.data() == 4096);
}

TEST_CASE("gguf: a file without tensors or metadata is a file") {
  const small_file f{gguf_writer{}};
  CHECK(f.gguf.tensors().empty());
  CHECK(f.gguf.metadata().empty());
}

TEST_CASE("gguf: views stay good when the file is moved") {
  gguf_writer w;
  w.string("name", "value").tensor({"t", ggml_f32, {2}, "abcdefgh"});
  const temporary_file place(w.bytes());
  gguf_file first(place.path());
  const auto value = first.string("name");
  const auto bytes = first.find_tensor("t")->bytes;
  const gguf_file second(std::move(first));
  CHECK(value == "value");
  CHECK(static_cast<char>(bytes[0]) == 'a');
  CHECK(second.find_tensor("t")->bytes.data() == bytes.data());
  CHECK(second.path() == place.path().string());
  CHECK(second.size_bytes() == w.bytes().size());
}

TEST_CASE("gguf: memory must be aligned") {
  const exact_memory memory(std::string("12345678"));
  CHECK_THROWS_AS(gguf_file::from_memory(memory.span().subspan(1), "built in"), argument_error);
}
