// Files that are good GGUF but no good model: each is refused with a message that names the fault.
#include <catch2/catch.hpp>

#include <string>
#include <vector>

#include "blockattn/model/model.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_model.hpp"

using namespace blockattn;
using blockattn_test::gguf_writer;
using blockattn_test::temporary_file;
using blockattn_test::tiny_model;

namespace {

void refused(const gguf_writer& file, const std::vector<std::string>& parts) {
  const temporary_file on_disk(file.bytes());
  std::string message = "nothing was thrown";
  try {
    (void)model::load(on_disk.path());
  } catch (const format_error& e) {
    message = e.what();
  }
  for (const std::string& part : parts) CHECK_THAT(message, Catch::Contains(part));
}

gguf_writer with_number(const std::string& key, std::uint32_t value) { return tiny_model().file().number(key, value); }

}  // namespace

TEST_CASE("the tiny model itself loads", "[model][hostile]") {
  const temporary_file file(tiny_model().file().bytes());
  const model m = model::load(file.path());
  CHECK(m.config().layers == 2);
  CHECK(m.config().head_dim == 16);
  CHECK(m.encode(std::vector<token_id>{5, 6, 7})->tokens() == 3);
  CHECK_THROWS_AS(m.encode({}), argument_error);
  CHECK_THROWS_AS(m.encode(std::vector<token_id>(513, 5)), context_error);
  CHECK_THROWS_WITH(m.encode(std::vector<token_id>{5, 100000}), Catch::Contains("100000"));
  CHECK_THROWS_WITH(model::load(file.path(), {precision::fast, dtype::q8_0}), Catch::Contains("q8_0") && Catch::Contains("bf16"));
}

TEST_CASE("an unknown or missing architecture is named with what is supported", "[model][hostile]") {
  refused(tiny_model().file().string("general.architecture", "mamba"), {"mamba", "supported: llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, smollm3, olmo2"});
  gguf_writer none = tiny_model().file();
  none.remove("general.architecture");
  refused(none, {"general.architecture"});
}

TEST_CASE("absurd or missing numbers are named with what is allowed", "[model][hostile]") {
  refused(with_number("llama.block_count", 0), {"llama.block_count", "is 0", "1 to 1024"});
  refused(with_number("llama.block_count", 4000000000U), {"llama.block_count", "4000000000"});
  refused(with_number("llama.embedding_length", 0), {"llama.embedding_length"});
  refused(with_number("llama.attention.head_count", 0), {"llama.attention.head_count"});
  refused(with_number("llama.attention.head_count_kv", 3), {"4 heads", "3"});
  refused(with_number("llama.attention.head_count_kv", 0), {"head_count_kv"});
  refused(with_number("llama.attention.key_length", 24), {"24"});
  refused(with_number("llama.attention.key_length", 1U << 30), {"key_length"});
  refused(with_number("llama.rope.dimension_count", 7), {"rope.dimension_count", "7", "even"});
  refused(with_number("llama.rope.dimension_count", 18), {"rope.dimension_count", "18", "16"});
  refused(with_number("llama.attention.value_length", 32), {"value_length", "32", "16"});
  refused(tiny_model().file().string("llama.rope.scaling.type", "warp"), {"warp", "yarn"});
  refused(tiny_model().file().string("llama.rope.scaling.type", "linear").number("llama.rope.scaling.factor", 0.0F), {"scaling.factor", "0"});
  refused(tiny_model().file().string("llama.rope.scaling.type", "longrope"), {"original_context_length"});
  refused(tiny_model().file().tensor("rope_freqs.weight", {4}, std::vector<float>(4, 1)), {"rope_freqs.weight", "4", "[8]"});
  refused(tiny_model().file().tensor("rope_freqs.weight", {8}, std::vector<float>(8, 0)), {"rope_freqs.weight", "above 0"});
  refused(tiny_model().file().number("llama.attn_logit_softcapping", -1.0F), {"softcapping", "-1"});
  refused(tiny_model().file().number("llama.attention.sliding_window", 8U).numbers("llama.attention.sliding_window_pattern", std::vector<std::uint8_t>{1}), {"pattern", "2 layers"});
  refused(tiny_model().file().number("llama.rope.freq_base", -1.0F), {"freq_base"});
  refused(tiny_model().file().number("llama.attention.layer_norm_rms_epsilon", 0.0F), {"epsilon"});
  gguf_writer missing = tiny_model().file();
  missing.remove("llama.feed_forward_length");
  refused(missing, {"llama.feed_forward_length", "missing"});
}

TEST_CASE("missing and misshapen tensors are named with both shapes", "[model][hostile]") {
  for (const char* name : {"token_embd.weight", "output_norm.weight", "blk.1.attn_k.weight", "blk.0.ffn_down.weight", "blk.1.ffn_norm.weight"}) {
    gguf_writer missing = tiny_model().file();
    std::erase_if(missing.tensors(), [&](const auto& t) { return t.name == name; });
    refused(missing, {name, "missing"});
    gguf_writer misshapen = tiny_model().file();
    auto& t = misshapen.tensor(name);
    t.shape[0] *= 2;
    t.data += t.data;
    refused(misshapen, {name, "expected"});
  }
  refused(with_number("llama.feed_forward_length", 128), {"ffn_gate", "[96, 64]", "[128, 64]"});
}

TEST_CASE("a tensor of a layer that isn't computed is refused", "[model][hostile]") {
  refused(tiny_model().file().tensor("blk.1.ffn_gate_inp.weight", {64, 4}, std::vector<float>(256)), {"blk.1.ffn_gate_inp.weight", "llama"});
  refused(tiny_model().file().tensor("blk.2.attn_norm.weight", {64}, std::vector<float>(64)), {"blk.2.attn_norm.weight", "2 layers"});
}

TEST_CASE("a vocabulary of another size than the embedding is refused with both numbers", "[model][hostile]") {
  tiny_model model;
  auto& embedding = model.tensors.at("token_embd.weight");
  embedding.rows += 1;
  embedding.values.resize(static_cast<std::size_t>(embedding.rows * embedding.columns));
  refused(model.file(), {std::to_string(embedding.rows), std::to_string(embedding.rows - 1)});
}
