// Sessions over tiers: a block that was encoded by an earlier process is reused, and the answer is the same to the bit.
#include <catch2/catch.hpp>

#include "blockattn/cache/lmdb_tier.hpp"
#include "blockattn/generate/precompute.hpp"
#include "blockattn/generate/session.hpp"
#include "support/model_path.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_model.hpp"
#include "tier_blocks.hpp"

using namespace blockattn;
using namespace blockattn_test;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;

/// Six passages of 30 tokens and a question.
std::vector<std::vector<token_id>> prompt() {
  std::vector<std::vector<token_id>> blocks;
  for (token_id b = 0; b < 7; ++b) {
    std::vector<token_id> ids;
    for (token_id t = 0; t < 30; ++t) ids.push_back(3 + (b * 37 + t * t * 11) % 250);
    blocks.push_back(std::move(ids));
  }
  return blocks;
}

std::vector<text_block> texts() { return {text_block::raw("The ferry leaves at nine. "), text_block::raw("The hut is closed in winter. "), text_block::raw("When does the ferry")}; }

std::shared_ptr<block_cache> cache_on(const scratch_folder& folder, std::size_t budget = 64 * MiB, log_sink log = {}) {
  return std::make_shared<block_cache>(64 * MiB, log, tier_list{std::make_shared<lmdb_tier>(lmdb_options{folder.path(), budget, 64 * MiB, log})});
}

}  // namespace

TEST_CASE("session over tiers: reused from disk, to the bit", "[cache][session]") {
  const temporary_file file(tiny_model(5).file().bytes());
  const model m = model::load(file.path());
  const scratch_folder folder;
  const auto expected = session(m).logits_of_ids(prompt());
  generation_options options;
  options.max_tokens = 8;
  const auto answer = session(m).generate(texts(), options);
  {
    session first(m, cache_on(folder));
    CHECK(first.logits_of_ids(prompt()) == expected);
    const auto result = session(m, cache_on(folder)).generate(texts(), options);
    CHECK(result.blocks.encoded == 2);
    CHECK(result.ids == answer.ids);
  }
  const auto cache = cache_on(folder);
  session later(m, cache);
  CHECK(later.logits_of_ids(prompt()) == expected);
  CHECK(cache->stats().fetched == 6);
  const auto result = session(m, cache).generate(texts(), options);
  CHECK(result.blocks.encoded == 0);
  CHECK(result.blocks.reused == 2);
  CHECK(result.ids == answer.ids);
  CHECK(cache->tiers().front()->stats().damaged == 0);
}

TEST_CASE("session over tiers: another precision's blocks are misses", "[cache][session]") {
  const temporary_file file(tiny_model(5).file().bytes());
  const scratch_folder folder;
  (void)session(model::load(file.path()), cache_on(folder)).logits_of_ids(prompt());
  const model exact = model::load(file.path(), {precision::exact, {}, {}, {}});
  log_book log;
  const auto cache = cache_on(folder, 64 * MiB, log.sink());
  CHECK(session(exact, cache).logits_of_ids(prompt()) == session(exact).logits_of_ids(prompt()));
  CHECK(cache->stats().fetched == 0);
  CHECK(log.count(log_level::info, "arithmetic: fast there, f32 here") == 1);
}

TEST_CASE("session over tiers: transformed keys and values from disk, to the bit, and never another type's", "[cache][session]") {
  const auto loaded = [](kv_types types) { return model::load(model_path(), {precision::fast, types}); };
  const model m = loaded({dtype::q5_h, dtype::q4_h});
  const scratch_folder folder;
  auto blocks = prompt();
  blocks.erase(blocks.begin() + 2, blocks.end() - 1);
  const auto expected = session(m).logits_of_ids(blocks);
  CHECK(session(m, cache_on(folder)).logits_of_ids(blocks) == expected);
  const auto cache = cache_on(folder);
  CHECK(session(m, cache).logits_of_ids(blocks) == expected);
  CHECK(cache->stats().fetched == 2);
  CHECK(cache->tiers().front()->stats().damaged == 0);
  log_book log;
  const auto other = cache_on(folder, 64 * MiB, log.sink());
  CHECK(session(loaded(dtype::q4_h), other).logits_of_ids(blocks) != expected);
  CHECK(other->stats().fetched == 0);
  CHECK(log.count(log_level::info, "kv: q5_h:q4_h there, q4_h here") == 1);
}

TEST_CASE("session over tiers: precomputed blocks", "[cache][session]") {
  const temporary_file file(tiny_model(5).file().bytes());
  const model m = model::load(file.path());
  const scratch_folder folder;
  auto blocks = prompt();
  blocks.pop_back();
  const auto first = precompute(m, *cache_on(folder), blocks);
  CHECK(first.encoded == 6);
  const auto cache = cache_on(folder);
  const auto second = precompute(m, *cache, blocks);
  CHECK(second.encoded == 0);
  CHECK(second.found == 6);
  (void)session(m, cache).logits_of_ids(prompt());
  CHECK(cache->stats().fetched == 12);
  index_t seen = 0;
  const auto until_three = [&](index_t done, index_t) { return (seen = done) < 3; };
  const scratch_folder other;
  const auto interrupted = cache_on(other);
  CHECK_THROWS_AS(precompute(m, *interrupted, blocks, {until_three, {}}), cancelled_error);
  CHECK(seen == 3);
  CHECK(precompute(m, *interrupted, blocks).encoded == 3);
}
