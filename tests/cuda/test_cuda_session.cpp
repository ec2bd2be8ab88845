// Sessions whose model computes on a GPU: reuse to the bit, both rotations, the CPU's answers.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/blockattn.hpp"
#include "support/divergence.hpp"
#include "support/gpu.hpp"
#include "support/model_path.hpp"

using namespace blockattn;

namespace {

model load_on(compute_device device) {
  load_options options;
  options.device = device;
  return model::load(blockattn_test::model_path(), options);
}

const model& on_gpu() {
  static const model m = load_on(compute_device::cuda);
  return m;
}
const model& on_cpu() {
  static const model m = load_on(compute_device::cpu);
  return m;
}

const std::vector<std::string> things = {"ferry", "library", "bridge", "garden", "observatory", "kitchen", "harbour", "tower", "market", "school"};
const std::vector<std::string> colours = {"red", "green", "blue", "yellow", "white", "black", "grey", "brown", "orange", "purple"};

/// Question number i over four made-up passages.
std::vector<text_block> question(const model& m, std::size_t i) {
  std::vector<std::string> passages;
  for (std::size_t p = 0; p < 4; ++p) {
    const std::string& thing = things[(i + 3 * p) % 10];
    passages.push_back("The " + thing + " of Brackwater was painted " + colours[(i / 10 + 7 * p + i) % 10] + " in " + std::to_string(1900 + (i * 13 + p * 29) % 100) +
                       ". It opens at " + std::to_string(7 + (i + p) % 5) + " o'clock.\n");
  }
  return m.chat().rag("Answer from the text.", passages, "What colour is the " + things[(i + 9) % 10] + "?");
}

generation_options answer_of(index_t tokens) {
  generation_options options;
  options.max_tokens = tokens;
  return options;
}

}  // namespace

TEST_CASE("On a GPU a hit gives the bits of a miss, and turned keys the logits of turned queries") {
  if (!blockattn_test::have_gpu()) return;
  REQUIRE(on_gpu().on_gpu());
  const auto blocks = question(on_gpu(), 3);
  const auto cache = std::make_shared<block_cache>(std::size_t{256} << 20);
  const std::vector<float> miss = session(on_gpu(), cache).logits(blocks);
  const std::vector<float> hit = session(on_gpu(), cache).logits(blocks);
  CHECK(miss == hit);
  attention_plan keys;
  keys.rotate = rotation::keys;
  CHECK(blockattn_test::kl_divergence(hit, session(on_gpu(), cache).logits(blocks, keys)) < 1e-3);
}

TEST_CASE("A GPU's logits are within the bounds of the CPU's fast path") {
  if (!blockattn_test::have_gpu()) return;
  double full = 0, block = 0;
  constexpr std::size_t prompts = 10;
  for (std::size_t i = 0; i < prompts; ++i) {
    const auto blocks = question(on_cpu(), 7 * i);
    attention_plan plan;
    block += blockattn_test::kl_divergence(session(on_cpu()).logits(blocks, plan), session(on_gpu()).logits(blocks, plan));
    plan.mode = attention_mode::full;
    full += blockattn_test::kl_divergence(session(on_cpu()).logits(blocks, plan), session(on_gpu()).logits(blocks, plan));
  }
  std::printf("mean KL of GPU to CPU over %zu prompts: full %.2e, block %.2e\n", prompts, full / prompts, block / prompts);
  CHECK(full / prompts < 3.5e-3);
  CHECK(block / prompts < 3.5e-3);
}

TEST_CASE("A GPU's greedy text is the CPU's, but for near ties") {
  if (!blockattn_test::have_gpu()) return;
  constexpr std::size_t prompts = 20;
  std::size_t equal = 0;
  for (std::size_t i = 0; i < prompts; ++i) {
    const auto blocks = question(on_cpu(), 5 * i + 1);
    const auto here = session(on_cpu()).generate(blocks, answer_of(32)), there = session(on_gpu()).generate(blocks, answer_of(32));
    if (here.ids == there.ids)
      ++equal;
    else
      std::printf("prompt %zu differs: CPU '%s', GPU '%s'\n", i, here.text.c_str(), there.text.c_str());
  }
  std::printf("%zu of %zu greedy texts equal\n", equal, prompts);
  CHECK(equal >= prompts * 3 / 4);
}

TEST_CASE("A turn on a GPU that doesn't fit leaves the session usable") {
  if (!blockattn_test::have_gpu()) return;
  session s(on_gpu());
  const auto first = s.generate(question(on_gpu(), 2), answer_of(8));
  const index_t position = s.position();
  const std::vector<std::vector<token_id>> long_prompt(1, std::vector<token_id>(static_cast<std::size_t>(on_gpu().config().context_length) + 1, 5));
  CHECK_THROWS_AS(s.logits_of_ids(long_prompt), context_error);
  CHECK(s.position() == position);
  CHECK(!s.generate(question(on_gpu(), 2), answer_of(8)).ids.empty());
}
