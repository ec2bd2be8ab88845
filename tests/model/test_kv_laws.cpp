// The laws of block reuse hold for quantised keys and values too: on the real checkpoint.
#include <catch2/catch.hpp>

#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "support/model_path.hpp"

using namespace blockattn;

namespace {

using block_ids = std::vector<std::vector<token_id>>;

const model& loaded(const kv_types& types) {
  static std::map<std::string, model> models;
  const auto found = models.find(to_string(types));
  if (found != models.end()) return found->second;
  return models.emplace(to_string(types), model::load(blockattn_test::model_path(), {precision::fast, types})).first->second;
}

block_ids some_blocks(const std::vector<index_t>& lengths, unsigned seed) {
  std::mt19937 g(seed);
  std::uniform_int_distribution<token_id> token(300, 20000);
  block_ids blocks;
  for (const index_t n : lengths) {
    blocks.emplace_back();
    for (index_t i = 0; i < n; ++i) blocks.back().push_back(token(g));
  }
  return blocks;
}

std::vector<float> logits_of(const model& m, const block_ids& blocks, const attention_plan& plan = {}, std::shared_ptr<block_cache> cache = nullptr) {
  return session(m, std::move(cache)).logits_of_ids(blocks, plan);
}

/// Root of the mean squared difference, relative to the spread of `a`.
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  const auto [low, high] = std::minmax_element(a.begin(), a.end());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size())) / (*high - *low);
}

const kv_types quantised[] = {dtype::q8_0, dtype::q4_0, {dtype::q8_0, dtype::q4_0}, {dtype::q5_h, dtype::q4_h}, dtype::q4_h};

}  // namespace

TEST_CASE("with quantised keys and values a hit gives the bits of a miss, for one thread and two", "[model][laws][kv]") {
  const block_ids blocks = some_blocks({9, 40, 12}, 1);
  for (const kv_types& types : quantised) {
    INFO(to_string(types));
    const auto cache = std::make_shared<block_cache>(std::size_t{64} << 20);
    std::vector<float> miss, hit, two;
    oneapi::tbb::task_arena(1).execute([&] {
      miss = logits_of(loaded(types), blocks, {}, cache);
      hit = logits_of(loaded(types), blocks, {}, cache);
    });
    oneapi::tbb::task_arena(2).execute([&] { two = logits_of(loaded(types), blocks); });
    CHECK(cache->stats().hits == 2);
    CHECK(miss == hit);
    CHECK(miss == two);
    CHECK(std::isfinite(miss[0]));
  }
}

TEST_CASE("with quantised keys and values one block is full attention", "[model][laws][kv]") {
  const block_ids one = some_blocks({30}, 3);
  attention_plan full;
  full.mode = attention_mode::full;
  for (const kv_types& types : quantised) CHECK(logits_of(loaded(types), one) == logits_of(loaded(types), one, full));
}

TEST_CASE("quantised keys that are moved are quantised once more, and no more than that", "[model][laws][kv]") {
  const block_ids blocks = some_blocks({9, 40, 21, 12}, 5);
  attention_plan keys;
  keys.rotate = rotation::keys;
  for (const kv_types& types : quantised) {
    INFO(to_string(types));
    // A second rounding of the keys costs as much as the first one; what it changes in the next layer then moves values across their type's steps.
    // Where a block is rounded only once it is finished, nothing of it is.
    const double bound = types.keys == dtype::q4_0 ? 1e-1 : types.keys == dtype::q4_h ? 4e-2 : types.keys == dtype::q5_h ? 1e-2 : types.values == dtype::q4_0 ? 3e-2 : 5e-3;
    CHECK(difference(logits_of(loaded(types), blocks), logits_of(loaded(types), blocks, keys)) < bound);
  }
}

TEST_CASE("quantised keys and values stay near float ones, and fingerprints tell the types apart", "[model][laws][kv]") {
  const block_ids blocks = some_blocks({9, 40, 21, 12}, 6);
  const auto expected = logits_of(loaded(dtype::f32), blocks);
  // Levels of 16 lanes sum in another order, which moves other activations across the steps of their 8 bits.
  const bool wide_level = kernels_of(loaded(dtype::q8_0).level()).panel_rows == 32;
  CHECK(difference(expected, logits_of(loaded(dtype::q8_0), blocks)) < (wide_level ? 1e-2 : 5e-3));
  CHECK(difference(expected, logits_of(loaded({dtype::q8_0, dtype::q4_0}), blocks)) < 1e-1);
  CHECK(difference(expected, logits_of(loaded(dtype::q4_0), blocks)) < 1e-1);
  CHECK(difference(expected, logits_of(loaded(dtype::q4_h), blocks)) < 3e-2);
  CHECK(difference(expected, logits_of(loaded({dtype::q5_h, dtype::q4_h}), blocks)) < 2e-2);
  CHECK(loaded(dtype::q4_h).fingerprint() != loaded(dtype::q4_0).fingerprint());
  CHECK(loaded(dtype::q8_0).fingerprint() != loaded(dtype::f32).fingerprint());
  CHECK(loaded(dtype::q8_0).fingerprint() != loaded({dtype::q8_0, dtype::q4_0}).fingerprint());
  CHECK(loaded(dtype::q8_0).kv().token_bytes() * 100 <= loaded(dtype::f16).kv().token_bytes() * 54);
}

TEST_CASE("a block of transformed keys and values is the block of float ones, rounded once", "[model][laws][kv]") {
  const std::vector<token_id> ids = some_blocks({21}, 7)[0];
  const auto exact = loaded(dtype::f16).encode(ids);
  for (const kv_types& types : {kv_types(dtype::q5_h, dtype::q4_h), kv_types(dtype::q4_h)}) {
    const model& m = loaded(types);
    INFO(to_string(types));
    CHECK(m.make_tail().layout().types == kv_types(dtype::f16));
    const auto block = m.encode(ids);
    REQUIRE(block->layout() == m.kv());
    REQUIRE(block->bytes() == 21 * m.kv().token_bytes());
    const auto expected = stored_as(types, exact, kernels());
    CHECK(std::equal(block->data(), block->data() + block->bytes(), expected->data()));
  }
  CHECK(loaded({dtype::q5_h, dtype::q4_h}).kv().token_bytes() * 100 <= loaded(dtype::f16).kv().token_bytes() * 30);
}
