// Sessions whose model computes on a GPU: reuse to the bit, both rotations, the CPU's answers.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/blockattn.hpp"
#include "blockattn/cache/host_tier.hpp"
#include "support/divergence.hpp"
#include "support/gpu.hpp"
#include "support/gpu_prompts.hpp"
#include "support/model_path.hpp"

using namespace blockattn;
using blockattn_test::made_up_question;

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

generation_options answer_of(index_t tokens) {
  generation_options options;
  options.max_tokens = tokens;
  return options;
}

}  // namespace

TEST_CASE("On a GPU a hit gives the bits of a miss, and turned keys the logits of turned queries") {
  if (!blockattn_test::have_gpu()) return;
  REQUIRE(on_gpu().on_gpu());
  const auto blocks = made_up_question(on_gpu(), 3);
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
    const auto blocks = made_up_question(on_cpu(), 7 * i);
    attention_plan plan;
    block += blockattn_test::kl_divergence(session(on_cpu()).logits(blocks, plan), session(on_gpu()).logits(blocks, plan));
    plan.mode = attention_mode::full;
    full += blockattn_test::kl_divergence(session(on_cpu()).logits(blocks, plan), session(on_gpu()).logits(blocks, plan));
  }
  std::printf("mean KL of GPU to CPU over %zu prompts: full %.2e, block %.2e\n", prompts, full / prompts, block / prompts);
  CHECK(full / prompts < 3.5e-3);
  CHECK(block / prompts < 3.5e-3);
}

TEST_CASE("A turn on a GPU that doesn't fit leaves the session usable") {
  if (!blockattn_test::have_gpu()) return;
  session s(on_gpu());
  const auto first = s.generate(made_up_question(on_gpu(), 2), answer_of(8));
  const index_t position = s.position();
  const std::vector<std::vector<token_id>> long_prompt(1, std::vector<token_id>(static_cast<std::size_t>(on_gpu().config().context_length) + 1, 5));
  CHECK_THROWS_AS(s.logits_of_ids(long_prompt), context_error);
  CHECK(s.position() == position);
  CHECK(!s.generate(made_up_question(on_gpu(), 2), answer_of(8)).ids.empty());
}

TEST_CASE("Every plan runs on a GPU, within the bounds of the CPU's") {
  if (!blockattn_test::have_gpu()) return;
  const auto here = std::make_shared<block_cache>(std::size_t{256} << 20), there = std::make_shared<block_cache>(std::size_t{256} << 20);
  for (const char* name : {"full", "block", "superposition", "promptcache", "pcw", "ape", "epic", "kvlink", "cacheblend", "prefixed", "local"}) {
    attention_plan plan;
    try {
      plan = parse_plan(name);
    } catch (const argument_error&) {
      continue;  // a name that needs settings of its own
    }
    double sum = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const auto blocks = made_up_question(on_cpu(), 11 * i);
      const std::vector<float> gpu = session(on_gpu(), there).logits(blocks, plan);
      CHECK(gpu == session(on_gpu(), there).logits(blocks, plan));
      sum += blockattn_test::kl_divergence(session(on_cpu(), here).logits(blocks, plan), gpu);
    }
    std::printf("plan %s: mean KL of GPU to CPU %.2e\n", name, sum / 3);
    CHECK(sum / 3 < 3.5e-3);
  }
}

TEST_CASE("A GPU's sessions count the operations that the CPU's count") {
  if (!blockattn_test::have_gpu()) return;
  const auto blocks = made_up_question(on_cpu(), 5);
  for (const char* name : {"full", "block", "epic:k=4", "ape"}) {
    generation_options options = answer_of(1);
    options.plan = parse_plan(name);
    const auto here = std::make_shared<block_cache>(std::size_t{256} << 20), there = std::make_shared<block_cache>(std::size_t{256} << 20);
    for (int again = 0; again < 2; ++again) {
      const index_t counted = session(on_gpu(), there).generate(blocks, options).operations;
      CHECK(counted > 0);
      CHECK(counted == session(on_cpu(), here).generate(blocks, options).operations);
    }
  }
}

TEST_CASE("Blocks that a GPU's cache let go of come back from pinned host memory with their bits") {
  if (!blockattn_test::have_gpu()) return;
  const auto host = std::make_shared<host_tier>(on_gpu().memory(), std::size_t{256} << 20);
  const auto cache = std::make_shared<block_cache>(std::size_t{4} << 20, log_sink{}, tier_list{host});  // less than one prompt's blocks
  std::vector<std::vector<float>> first;
  for (std::size_t i = 0; i < 8; ++i) first.push_back(session(on_gpu(), cache).logits(made_up_question(on_gpu(), i)));
  cache->flush();
  CHECK(host->stats().writes > 0);
  CHECK(cache->stats().bytes <= std::size_t{4} << 20);
  const auto before = cache->stats();
  for (std::size_t i = 0; i < 8; ++i) CHECK(session(on_gpu(), cache).logits(made_up_question(on_gpu(), i)) == first[i]);
  const auto after = cache->stats();
  CHECK(after.misses - before.misses == after.fetched - before.fetched);  // nothing was encoded again
  CHECK(after.fetched > before.fetched);
  CHECK(host->stats().errors == 0);
}

TEST_CASE("Sampled text on a GPU is the host sampler's on the same logits") {
  if (!blockattn_test::have_gpu()) return;
  generation_options options = answer_of(24);
  for (const int top_k : {0, 30}) {  // 0: greedy
    if (top_k > 0) options.sampling.temperature = 0.9F, options.sampling.top_k = top_k, options.sampling.top_p = 0.95F, options.sampling.seed = 5;
    options.sampling.repetition_penalty = 1.2F;
    const auto blocks = made_up_question(on_gpu(), 5);
    const auto text = session(on_gpu()).generate(blocks, options);
    std::vector<std::vector<token_id>> ids;
    std::vector<token_id> history;
    for (const text_block& b : blocks) ids.push_back(on_gpu().vocabulary().encode(b));
    for (const auto& b : ids) history.insert(history.end(), b.begin(), b.end());
    session s(on_gpu());
    std::vector<float> logits = s.logits(blocks);
    sampler pick(options.sampling);
    for (const token_id id : text.ids) {  // every logit of every step in host memory
      const token_id expected = pick.sample(logits, history);
      CHECK(id == expected);
      history.push_back(id);
      attention_plan full;
      full.mode = attention_mode::full;
      logits = s.logits_of_ids({{id}}, full);
    }
  }
}

TEST_CASE("A GPU without room: cached blocks go first, then an error says what to do, and the session goes on") {
  if (!blockattn_test::have_gpu()) return;
  const index_t weights = [] {
    load_options options;
    options.device = compute_device::cuda, options.gpu_bytes = 1 << 20;
    try {
      (void)model::load(blockattn_test::model_path(), options);
      FAIL("no error");
    } catch (const cuda_memory_error& e) {
      CHECK(std::string(e.what()).find("the model's weights needs") != std::string::npos);
      CHECK(std::string(e.what()).find("are free. Take a smaller quantisation") != std::string::npos);
    }
    options.device = compute_device::automatic;
    CHECK(!model::load(blockattn_test::model_path(), options).on_gpu());
    return static_cast<index_t>(std::filesystem::file_size(blockattn_test::model_path()));
  }();
  load_options options;
  options.device = compute_device::cuda, options.gpu_bytes = 2 * weights;
  const model m = model::load(blockattn_test::model_path(), options);
  const auto cache = std::make_shared<block_cache>(std::size_t{1} << 40);
  for (std::size_t i = 0; i < 40; ++i) (void)session(m, cache).logits(made_up_question(m, i));
  session s(m, cache);
  const auto first = s.generate(made_up_question(m, 0), answer_of(8));
  const index_t position = s.position();
  std::vector<std::vector<token_id>> blocks(1, std::vector<token_id>(2000, 5));
  attention_plan full;
  full.mode = attention_mode::full;
  (void)session(m, cache).logits_of_ids(blocks, full);  // fits once blocks are gone
  std::printf("evicted for a long prompt: %llu blocks\n", static_cast<unsigned long long>(cache->stats().evictions));
  CHECK(cache->stats().evictions > 0);
  blocks[0].resize(8000, 7);
  try {
    (void)s.logits_of_ids(blocks, full);
    FAIL("no error");
  } catch (const cuda_memory_error& e) {
    CHECK(std::string(e.what()).find("Lower the cache's budget") != std::string::npos);
  }
  CHECK(s.position() == position);
  CHECK(!s.generate(made_up_question(m, 1), answer_of(8)).ids.empty());
}
