// Models quantised at load, in parts, and with weights that can't be.
#include <catch2/catch.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "support/temporary_folder.hpp"
#include "support/tiny_model.hpp"

using namespace blockattn;
using blockattn_test::gguf_writer;
using blockattn_test::temporary_folder;
using blockattn_test::tiny_model;

namespace {

std::vector<float> logits(const model& m) { return session(m).logits_of_ids({{5, 6, 7, 8}, {9, 10, 11}, {12, 13}}); }

}  // namespace

TEST_CASE("a model quantised at load is the model of the file that it writes", "[model][quantize]") {
  const temporary_folder folder;
  const auto path = folder.write("tiny.gguf", tiny_model().file().bytes());
  const model plain = model::load(path);
  for (const dtype type : {dtype::q8_0, dtype::q4_0}) {
    load_options options;
    options.quantize = type;
    std::int64_t seen = 0;
    options.progress = [&](std::int64_t done, std::int64_t) { return seen = done, true; };
    const model in_memory = model::load(path, options);
    CHECK(seen > 0);
    options.quantized_file = folder.path() / "written.gguf";
    const model written = model::load(path, options), again = model::load(options.quantized_file);
    CHECK(written.weights() == in_memory.weights());
    CHECK(again.fingerprint() == in_memory.fingerprint());
    CHECK(again.fingerprint() != plain.fingerprint());
    CHECK(again.file().size_bytes() < plain.file().size_bytes());
    CHECK(logits(again) == logits(in_memory));
    CHECK(again.vocabulary().vocab_size() == plain.vocabulary().vocab_size());
  }
}

TEST_CASE("a model in parts is the whole model", "[model]") {
  const temporary_folder folder;
  const gguf_writer whole = tiny_model().file();
  for (int part = 0; part < 2; ++part) {
    gguf_writer w = part == 0 ? whole : gguf_writer();
    w.tensors().clear();
    w.number("split.no", static_cast<std::uint16_t>(part)).number("split.count", std::uint16_t{2}).number("split.tensors.count", static_cast<std::int32_t>(20));
    gguf_writer source = whole;
    REQUIRE(source.tensors().size() == 20);
    for (std::size_t i = 0; i < 20; ++i)
      if ((i < 7) == (part == 0)) w.tensor(source.tensors()[i]);
    folder.write("tiny-0000" + std::to_string(part + 1) + "-of-00002.gguf", w.bytes());
  }
  const model joined = model::load(folder.path() / "tiny-00002-of-00002.gguf"), one = model::load(folder.write("tiny.gguf", whole.bytes()));
  CHECK(joined.fingerprint() == one.fingerprint());
  CHECK(logits(joined) == logits(one));
}

TEST_CASE("norms that aren't finite are refused when the model is made", "[model][hostile]") {
  const temporary_folder folder;
  gguf_writer file = tiny_model().file();
  const float bad = std::numeric_limits<float>::quiet_NaN();
  file.tensor("blk.1.ffn_norm.weight").data.replace(12, 4, reinterpret_cast<const char*>(&bad), 4);
  CHECK_THROWS_WITH(model::load(folder.write("bad.gguf", file.bytes())), Catch::Contains("'blk.1.ffn_norm.weight'") && Catch::Contains("nan at 3") && Catch::Contains("finite"));
}

TEST_CASE("a RoPE that changes with the prompt's length is refused beyond where it doesn't, and says why", "[model]") {
  const temporary_folder folder;
  gguf_writer file = tiny_model().file();
  file.string("llama.rope.scaling.type", "dynamic").number("llama.rope.scaling.factor", 4.0F);
  std::string warning;
  load_options options;
  options.log = [&](log_level level, std::string_view line) {
    if (level == log_level::warning) warning = line;
  };
  const model m = model::load(folder.write("dynamic.gguf", file.bytes()), options);
  CHECK_THAT(warning, Catch::Contains("dynamic") && Catch::Contains("512"));
  CHECK(m.encode(std::vector<token_id>(512, 5))->tokens() == 512);
  CHECK_THROWS_WITH(m.encode(std::vector<token_id>(513, 5)), Catch::Contains("513") || Catch::Contains("512"));
  CHECK_THROWS_WITH(m.encode(std::vector<token_id>(513, 5)), Catch::Contains("dynamic") && Catch::Contains("cached keys can't"));
}
