// Sessions over models with sliding windows: blocks are reused as without one, and what no window reaches changes nothing. Tiny models with hashed weights.
#include <catch2/catch.hpp>

#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "support/hashed_model.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_vocabulary.hpp"

using namespace blockattn;
using blockattn_test::family_case;
using blockattn_test::temporary_file;
using nlohmann::json;

namespace {

/// A case of families.json with a vocabulary, as a file.
model loaded(json description, precision compute, std::optional<kv_types> kv = {}, log_sink log = {}) {
  const blockattn_test::tiny_vocabulary vocabulary;
  for (json& t : description["tensors"])
    if (t[0] == "token_embd.weight" || t[0] == "output.weight") t[1][1] = vocabulary.tokens.size();
  auto file = blockattn_test::hashed_model(description);
  vocabulary.write(file);
  const temporary_file on_disk(file.bytes());
  return model::load(on_disk.path(), {compute, kv, std::move(log)});
}

/// The same with heads of another size.
json with_heads_of(json description, std::uint64_t size) {
  json& metadata = description["metadata"];
  const auto before = metadata.at("attention.key_length").get<std::uint64_t>();
  metadata["attention.key_length"] = metadata["attention.value_length"] = size;
  metadata.erase("rope.dimension_count");
  for (json& t : description["tensors"]) {
    const std::string name = t[0];
    if (name.find(".attn_q.") == std::string::npos && name.find(".attn_k.") == std::string::npos && name.find(".attn_v.") == std::string::npos &&
        name.find(".attn_output.") == std::string::npos)
      continue;
    json& changed = t[1][name.find(".attn_output.") == std::string::npos ? t[1].size() - 1 : 0];
    changed = changed.get<std::uint64_t>() / before * size;
  }
  return description;
}

/// Blocks of ordinary tokens of the given lengths, the last one the same for every seed.
std::vector<std::vector<token_id>> blocks_of(const std::vector<index_t>& lengths, index_t seed) {
  std::vector<std::vector<token_id>> blocks;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    blocks.emplace_back();
    const index_t own = b + 1 < lengths.size() ? seed : 1;
    for (index_t i = 0; i < lengths[b]; ++i) blocks.back().push_back(static_cast<token_id>(3 + (own * 71 + static_cast<index_t>(b) * 29 + i * i * 37) % 250));
  }
  return blocks;
}

std::vector<float> logits_of(const model& m, const std::vector<std::vector<token_id>>& blocks, rotation rotate = rotation::queries, std::shared_ptr<block_cache> cache = nullptr) {
  attention_plan plan;
  plan.rotate = rotate;
  return session(m, std::move(cache)).logits_of_ids(blocks, plan);
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

}  // namespace

TEST_CASE("blocks under a window are reused to the bit, and both rotations agree", "[families][laws]") {
  const auto blocks = blocks_of({20, 70, 15, 12}, 1);
  for (const char* name : {"gemma3", "gemma2", "smollm3", "phi3"})
    for (const precision p : {precision::exact, precision::fast}) {
      const model m = loaded(family_case(name), p);
      INFO(name << (p == precision::exact ? " exact" : " fast"));
      const auto cache = std::make_shared<block_cache>(std::size_t{1} << 24);
      std::vector<float> miss, hit, two;
      oneapi::tbb::task_arena(1).execute([&] {
        miss = logits_of(m, blocks, rotation::queries, cache);
        hit = logits_of(m, blocks, rotation::queries, cache);
      });
      oneapi::tbb::task_arena(2).execute([&] { two = logits_of(m, blocks); });
      CHECK(cache->stats().hits == 3);
      CHECK(hit == miss);
      CHECK(two == miss);
      CHECK(difference(miss, logits_of(m, blocks, rotation::keys)) < (p == precision::exact ? 1e-4 : 0.2));
    }
}

TEST_CASE("passages that no window reaches change nothing, to the bit; near ones do", "[families][laws]") {
  // Two layers, each seeing 12 positions: the last token of a final block of 30 depends on its last 23 tokens alone.
  for (const precision p : {precision::exact, precision::fast}) {
    const model m = loaded(family_case("mistral"), p);
    CHECK(logits_of(m, blocks_of({40, 33, 30}, 1)) == logits_of(m, blocks_of({40, 33, 30}, 2)));
    CHECK(difference(logits_of(m, blocks_of({40, 33, 5}, 1)), logits_of(m, blocks_of({40, 33, 5}, 2))) > 1e-3);
  }
}

TEST_CASE("a window over quantised keys and values: reuse to the bit, and nothing from beyond it", "[families][laws][kv]") {
  for (const kv_types& types : {kv_types(dtype::q8_0), kv_types(dtype::q8_0, dtype::q4_0), kv_types(dtype::q4_0), kv_types(dtype::q5_h, dtype::q4_h), kv_types(dtype::q4_h)}) {
    INFO(to_string(types));
    const json description = with_heads_of(family_case("mistral"), 64);  // whole blocks of the types
    const model m = loaded(description, precision::exact, types), plain = loaded(description, precision::exact);
    const auto blocks = blocks_of({40, 33, 30}, 1);
    const auto cache = std::make_shared<block_cache>(std::size_t{1} << 24);
    const auto miss = logits_of(m, blocks, rotation::queries, cache);
    CHECK(logits_of(m, blocks, rotation::queries, cache) == miss);
    CHECK(cache->stats().hits == 2);
    CHECK(logits_of(m, blocks_of({40, 33, 30}, 2)) == miss);
    CHECK(difference(logits_of(m, blocks_of({40, 33, 5}, 1)), logits_of(m, blocks_of({40, 33, 5}, 2))) > 1e-3);
    const auto near = blocks_of({40, 33, 5}, 1);  // what the window reaches of blocks is quantised, whatever the tail's types are
    const auto expected = logits_of(plain, near), got = logits_of(m, near);
    const double range = *std::max_element(expected.begin(), expected.end()) - *std::min_element(expected.begin(), expected.end());
    CHECK(difference(expected, got) > 0);
    CHECK(difference(expected, got) < (types == kv_types(dtype::q8_0) ? 0.02 : 0.25) * range);
  }
}

TEST_CASE("keys with biases in 5 or 4 bits are a warning", "[families][kv]") {
  const auto warnings = [](const char* family, kv_types types) {
    std::string lines;
    (void)loaded(with_heads_of(family_case(family), 64), precision::fast, types, [&](log_level level, std::string_view line) { lines += level == log_level::warning ? line : ""; });
    return lines;
  };
  CHECK_THAT(warnings("qwen2", {dtype::q5_h, dtype::q4_h}), Catch::Contains("q5_h") && Catch::Contains("biases") && Catch::Contains("q8_0:q4_h"));
  CHECK(warnings("qwen2", {dtype::q8_0, dtype::q4_h}).empty());
  CHECK(warnings("mistral", {dtype::q5_h, dtype::q4_h}).empty());
}

TEST_CASE("the fingerprint tells windows, caps, scales and RoPE apart", "[families]") {
  const auto fingerprint = [](const json& description) { return loaded(description, precision::exact).fingerprint(); };
  const json& base = family_case("gemma3");
  CHECK(fingerprint(base) == fingerprint(base));
  const std::vector<std::pair<std::string, json>> changes = {{"attention.sliding_window", 8}, {"rope.freq_base_swa", 20000.0}, {"rope.freq_base", 20000.0},
                                                             {"attention.scale", 0.5},        {"attn_logit_softcapping", 9.0}, {"rope.dimension_count", 128}};
  for (const auto& [key, value] : changes) {
    json changed = base;
    changed["metadata"][key] = value;
    INFO(key);
    CHECK(fingerprint(changed) != fingerprint(base));
  }
}
