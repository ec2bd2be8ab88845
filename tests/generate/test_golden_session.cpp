// Prompts through a whole session (plan, cache, blocks encoded as tasks, zero-copy reading) against the oracle's logits
// at the end of the prompt: it shows that a plan's max_blocks and global_blocks mean what the oracle's mask says.

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "support/golden_compare.hpp"

namespace {

using blockattn_test::golden_case;
using blockattn_test::golden_figures;

std::vector<std::vector<blockattn::token_id>> blocks_of(const golden_case& c) {
  std::vector<std::vector<blockattn::token_id>> blocks;
  auto from = c.ids.begin();
  for (const blockattn::index_t length : c.lengths) {
    blocks.emplace_back(from, from + length);
    from += length;
  }
  return blocks;
}

blockattn::attention_plan plan_of(const golden_case& c, blockattn::rotation rotate) {
  blockattn::attention_plan plan;
  plan.mode = c.full() ? blockattn::attention_mode::full : blockattn::attention_mode::block;
  plan.max_blocks = c.max_blocks;
  plan.global_blocks = c.global_blocks;
  plan.rotate = rotate;
  return plan;
}

/// Every case at the end of its prompt, each in a session of its own over one cache; twice, and the second time (all
/// hits) bit for bit as the first.
golden_figures compare_sessions(blockattn::precision compute, blockattn::rotation rotate) {
  blockattn::load_options options;
  options.compute = compute;
  const auto model = blockattn::model::load(blockattn_test::model_path(), options);
  const auto cache = std::make_shared<blockattn::block_cache>(std::size_t{1} << 30);
  golden_figures sum;
  for (const golden_case& c : blockattn_test::golden().cases) {
    if (c.full() && (c.tokens() > 310 || rotate == blockattn::rotation::keys)) continue;  // they run in full elsewhere
    INFO(c.name);
    const auto plan = plan_of(c, rotate);
    CHECK(plan.reusable(static_cast<blockattn::index_t>(c.lengths.size())) == c.local);
    const auto miss = blockattn::session(model, cache).logits_of_ids(blocks_of(c), plan);
    if (!c.full()) CHECK(blockattn::session(model, cache).logits_of_ids(blocks_of(c), plan) == miss);
    sum += compare(c, [&](const blockattn_test::logits_sink& sink) { sink(c.tokens() - 1, miss); });
  }
  REQUIRE(sum.samples == (rotate == blockattn::rotation::keys ? 12 : 22));
  return sum;
}

}  // namespace

TEST_CASE("golden: sessions, exact", "[golden][slow]") {
  for (const auto rotate : {blockattn::rotation::queries, blockattn::rotation::keys}) {
    const golden_figures f = compare_sessions(blockattn::precision::exact, rotate);
    print(rotate == blockattn::rotation::keys ? "session, exact, keys rotated" : "session, exact, queries rotated", f);
    CHECK(f.mean_kl() <= 1e-4);
    CHECK(f.kl_worst <= 1e-4);
    CHECK(f.equal == f.positions);
  }
}

TEST_CASE("golden: sessions, fast", "[golden][slow]") {
  for (const auto rotate : {blockattn::rotation::queries, blockattn::rotation::keys}) {
    const golden_figures f = compare_sessions(blockattn::precision::fast, rotate);
    print(rotate == blockattn::rotation::keys ? "session, fast, keys rotated" : "session, fast, queries rotated", f);
    CHECK(f.mean_kl() <= f.llama_kl());
  }
}
