// What must hold for every model and every prompt, whatever the values: on the real checkpoint.
#include <catch2/catch.hpp>

#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "support/model_path.hpp"

using namespace blockattn;

namespace {

using block_ids = std::vector<std::vector<token_id>>;

const model& loaded(precision compute) {
  static const model exact = model::load(blockattn_test::model_path(), {precision::exact, std::nullopt, {}});
  static const model fast = model::load(blockattn_test::model_path());
  return compute == precision::exact ? exact : fast;
}

/// Blocks of the given lengths, of ordinary tokens (no control tokens, which are the first 17).
block_ids some_blocks(std::vector<index_t> lengths, unsigned seed) {
  std::mt19937 g(seed);
  std::uniform_int_distribution<token_id> token(300, 20000);
  block_ids blocks;
  for (const index_t n : lengths) {
    blocks.emplace_back();
    for (index_t i = 0; i < n; ++i) blocks.back().push_back(token(g));
  }
  return blocks;
}

std::shared_ptr<block_cache> new_cache() { return std::make_shared<block_cache>(std::size_t{256} << 20); }

std::vector<float> logits_of(const model& m, const block_ids& blocks, const attention_plan& plan, std::shared_ptr<block_cache> cache = new_cache()) {
  return session(m, std::move(cache)).logits_of_ids(blocks, plan);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Largest difference, relative to the range of `a`.
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  const auto [low, high] = std::minmax_element(a.begin(), a.end());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most / (*high - *low);
}

constexpr precision both[] = {precision::exact, precision::fast};

}  // namespace

TEST_CASE("a hit gives the bits of a miss, for one thread and two", "[model][laws]") {
  const block_ids blocks = some_blocks({9, 70, 1, 33, 20}, 1);
  for (const precision p : both) {
    const auto cache = new_cache();
    std::vector<float> miss, hit, two;
    oneapi::tbb::task_arena(1).execute([&] {
      miss = logits_of(loaded(p), blocks, {}, cache);
      hit = logits_of(loaded(p), blocks, {}, cache);
    });
    oneapi::tbb::task_arena(2).execute([&] { two = logits_of(loaded(p), blocks, {}); });
    CHECK(cache->stats().hits == 4);
    CHECK(same_bits(miss, hit));
    CHECK(same_bits(miss, two));
    CHECK(std::isfinite(miss[0]));
  }
}

TEST_CASE("permuting passages reuses every one of them and changes their offsets only", "[model][laws]") {
  const block_ids blocks = some_blocks({9, 70, 41, 33, 20}, 2);
  const block_ids permuted = {blocks[0], blocks[3], blocks[1], blocks[2], blocks[4]};
  for (const precision p : both) {
    const auto cache = new_cache();
    const auto before = logits_of(loaded(p), blocks, {}, cache);
    const auto reused = logits_of(loaded(p), permuted, {}, cache);
    CHECK(cache->stats().hits == 4);
    CHECK(cache->stats().misses == 4);
    CHECK(same_bits(reused, logits_of(loaded(p), permuted, {})));
    CHECK_FALSE(same_bits(before, reused));  // the offsets did change
  }
}

TEST_CASE("one block is full attention, and so are the limits of max_blocks and global_blocks", "[model][laws]") {
  const block_ids one = some_blocks({50}, 3);
  const block_ids blocks = some_blocks({9, 30, 41, 20}, 4);
  attention_plan full;
  full.mode = attention_mode::full;
  attention_plan none, all_global, no_limit;
  none.max_blocks = 0;
  all_global.global_blocks = 4;
  no_limit.max_blocks = 3;
  for (const precision p : both) {
    CHECK(same_bits(logits_of(loaded(p), one, {}), logits_of(loaded(p), one, full)));
    const auto expected = logits_of(loaded(p), blocks, full);
    CHECK(same_bits(expected, logits_of(loaded(p), blocks, none)));
    CHECK(same_bits(expected, logits_of(loaded(p), blocks, all_global)));
    const auto block = logits_of(loaded(p), blocks, {});
    CHECK(same_bits(block, logits_of(loaded(p), blocks, no_limit)));
    CHECK(difference(expected, block) > 1e-3);  // blocks don't see each other: that is no full attention
    attention_plan first_two;
    first_two.max_blocks = 2;
    attention_plan last_two;
    last_two.global_blocks = 2;
    CHECK(same_bits(logits_of(loaded(p), blocks, first_two), logits_of(loaded(p), blocks, last_two)));
    CHECK(difference(block, logits_of(loaded(p), blocks, last_two)) > 1e-3);
  }
}

TEST_CASE("rotating queries and rotating keys give the same logits", "[model][laws]") {
  const block_ids blocks = some_blocks({9, 170, 41, 133, 20}, 5);
  attention_plan keys;
  keys.rotate = rotation::keys;
  CHECK(difference(logits_of(loaded(precision::exact), blocks, {}), logits_of(loaded(precision::exact), blocks, keys)) < 1e-4);
  // Here the moved keys are rounded to bfloat16 a second time.
  CHECK(difference(logits_of(loaded(precision::fast), blocks, {}), logits_of(loaded(precision::fast), blocks, keys)) < 2e-2);
}

TEST_CASE("a moved block is the block encoded at its new place", "[model][laws]") {
  const model& m = loaded(precision::exact);
  const auto ids = some_blocks({40}, 6)[0];
  const auto local = m.encode(ids);
  for (const index_t offset : {1, 63, 4095}) {
    const auto moved = m.moved(*local, offset);
    kv_tail there(m.kv(), 40);
    (void)m.forward({ids, offset, {}, hidden_rows::none}, there);
    const auto expected = there.finish();
    const auto* a = reinterpret_cast<const float*>(moved->data());
    const auto* b = reinterpret_cast<const float*>(expected->data());
    float most = 0;
    float size = 0;
    for (index_t i = 0; i < moved->bytes() / 4; ++i) {
      most = std::max(most, std::abs(a[i] - b[i]));
      size = std::max(size, std::abs(b[i]));
    }
    CHECK(most < 2e-5f * size);
  }
}

TEST_CASE("a prompt in two turns is the prompt in one", "[model][laws]") {
  const block_ids blocks = some_blocks({30, 25}, 7);
  attention_plan full;
  full.mode = attention_mode::full;
  for (const precision p : both) {
    session turns(loaded(p));
    (void)turns.logits_of_ids({blocks[0]}, full);
    const auto second = turns.logits_of_ids({blocks[1]}, full);
    CHECK(turns.position() == 55);
    CHECK(difference(logits_of(loaded(p), blocks, full), second) < (p == precision::exact ? 1e-5 : 1e-6));
  }
}

TEST_CASE("blocks placed in a later turn see nothing else and are seen by what follows", "[model][laws]") {
  const block_ids blocks = some_blocks({12, 30, 25, 20}, 8);
  const model& m = loaded(precision::exact);
  // Turn 1: block, final. Turn 2: block, final. The same as one run over [b0, final0, b2, final3] with b2 encoded on its own.
  session turns(m);
  (void)turns.logits_of_ids({blocks[0], blocks[1]});
  const auto got = turns.logits_of_ids({blocks[2], blocks[3]});
  kv_tail tail(m.kv());
  std::vector<placed_block> placed = {{m.encode(blocks[0]), 0, false}};
  (void)m.forward({blocks[1], 12, placed, hidden_rows::none}, tail);
  placed.push_back({m.encode(blocks[2]), 42, false});
  const auto expected = m.logits(m.forward({blocks[3], 67, placed, hidden_rows::last}, tail));
  CHECK(same_bits(expected, got));
}

TEST_CASE("a long prompt goes in pieces without a seam", "[model][laws]") {
  const auto ids = some_blocks({forward_chunk + 37}, 9)[0];
  const model& m = loaded(precision::exact);
  kv_tail whole(m.kv());
  const auto expected = m.logits(m.forward({ids, 0, {}, hidden_rows::last}, whole));
  kv_tail pieces(m.kv());
  const auto span = std::span<const token_id>(ids);
  (void)m.forward({span.first(100), 0, {}, hidden_rows::none}, pieces);
  const auto got = m.logits(m.forward({span.subspan(100), 100, {}, hidden_rows::last}, pieces));
  CHECK(difference(expected, got) < 1e-5);
}

TEST_CASE("a cancelled or failed prefill leaves session and cache as they were", "[model][laws]") {
  const block_ids blocks = some_blocks({12, 30, 25}, 10);
  const auto cache = new_cache();
  session s(loaded(precision::fast), cache);
  (void)s.logits_of_ids({blocks[0]});
  const auto position = s.position();
  CHECK_THROWS_AS(s.logits_of_ids({blocks[1], {}}), argument_error);
  CHECK_THROWS_AS(s.logits_of_ids({}), argument_error);
  CHECK_THROWS_AS(s.logits_of_ids({blocks[1], {-1}}), argument_error);
  CHECK_THROWS_WITH(s.logits_of_ids(some_blocks({9000}, 1)), Catch::Contains("9000") && Catch::Contains("8192"));
  CHECK(s.position() == position);
  session fresh(loaded(precision::fast), cache);
  (void)fresh.logits_of_ids({blocks[0]});
  CHECK(same_bits(fresh.logits_of_ids({blocks[1], blocks[2]}), s.logits_of_ids({blocks[1], blocks[2]})));
}

TEST_CASE("blocks encoded together have the bits that each has alone", "[model][laws]") {
  const block_ids blocks = some_blocks({100, 1, 3, forward_chunk + 5, 24}, 11);
  const index_t tokens = 100 + 1 + 3 + forward_chunk + 5 + 24;
  const model& m = loaded(precision::fast);
  const std::vector<std::span<const token_id>> all(blocks.begin(), blocks.end());
  std::vector<std::size_t> order;
  std::int64_t seen = 0;
  forward_control control;
  control.progress = [&](std::int64_t done, std::int64_t total) {
    CHECK(done >= seen);
    CHECK(total == tokens);
    seen = done;
    return true;
  };
  const auto compare = [&](std::size_t i, const std::shared_ptr<const kv_block>& block) {
    order.push_back(i);
    const auto alone = m.encode(blocks[i]);
    REQUIRE(block->tokens() == static_cast<index_t>(blocks[i].size()));
    CHECK(std::memcmp(block->data(), alone->data(), static_cast<std::size_t>(block->bytes())) == 0);
  };
  m.encode(all, compare, control);
  CHECK(order == std::vector<std::size_t>{0, 1, 2, 3, 4});
  CHECK(seen == tokens);
}

TEST_CASE("runs side by side give what each gives alone", "[model][laws]") {
  const block_ids blocks = some_blocks({40, 9, 25, 70}, 12);
  for (const precision p : both) {
    const model& m = loaded(p);
    const std::vector<placed_block> context = {{m.encode(blocks[0]), 3, false}};
    const auto run = [&](const std::vector<int>& which) {
      std::vector<kv_tail> tails(3, kv_tail(m.kv()));
      const forward_request requests[] = {{blocks[1], 50, context, hidden_rows::all}, {blocks[2], 0, {}, hidden_rows::last}, {blocks[3], 43, context, hidden_rows::none}};
      std::vector<forward_run> runs;
      for (const int i : which) {
        tails[static_cast<std::size_t>(i)] = kv_tail(m.kv());
        runs.push_back({requests[i], &tails[static_cast<std::size_t>(i)]});
      }
      const auto hidden = m.forward(runs);
      CHECK(tails[static_cast<std::size_t>(which[0])].tokens() == static_cast<index_t>(requests[which[0]].ids.size()));
      return hidden;
    };
    const auto together = run({0, 1, 2});
    CHECK(together[0].rows() == 9);
    CHECK(together[1].rows() == 1);
    CHECK(together[2].rows() == 0);
    CHECK(together[0] == run({0})[0]);
    CHECK(together[1] == run({1})[0]);
    kv_tail tail(m.kv());
    const matrix single = m.forward({blocks[2], 0, {}, hidden_rows::last}, tail);
    CHECK((single - together[1]).cwiseAbs().maxCoeff() < 0.05f * single.cwiseAbs().maxCoeff());
  }
}

TEST_CASE("RoPE may place tokens at any real positions", "[model][laws]") {
  const model& m = loaded(precision::exact);
  const block_ids blocks = some_blocks({30, 20}, 13);
  const std::vector<placed_block> context = {{m.encode(blocks[0]), 0, false}};
  const auto logits = [&](double shift, const std::vector<placed_block>& placed) {
    std::vector<double> rotations;
    for (int t = 0; t < 20; ++t) rotations.push_back(shift + 30 + t);
    kv_tail tail(m.kv());
    return m.logits(m.forward({blocks[1], 30, placed, hidden_rows::last, rotations}, tail));
  };
  kv_tail tail(m.kv());
  const auto plain = m.logits(m.forward({blocks[1], 30, context, hidden_rows::last}, tail));
  CHECK(same_bits(plain, logits(0, context)));
  // Scores depend on distances alone: everything moved by the same amount changes nothing but rounding.
  std::vector<placed_block> moved = context;
  moved[0].rotation = 7.25;
  CHECK(difference(plain, logits(7.25, moved)) < 1e-4);
  CHECK(difference(plain, logits(7.25, context)) > 1e-4);
  kv_tail other(m.kv());
  const std::vector<double> few(19);
  CHECK_THROWS_AS(m.forward({blocks[1], 30, context, hidden_rows::last, few}, other), argument_error);
  const std::vector<double> beyond(20, 1e9);
  CHECK_THROWS_AS(m.forward({blocks[1], 30, context, hidden_rows::last, beyond}, other), context_error);
}

TEST_CASE("tokens that take places of a tail see and are seen as if they had been there", "[model][laws]") {
  const block_ids blocks = some_blocks({90, 20}, 15);
  const std::vector<index_t> places = {2, 3, 4, 17, 40, 41, 63, 64, 65, 66, 80, 89};
  std::vector<token_id> again;
  for (const index_t place : places) again.push_back(blocks[0][static_cast<std::size_t>(place)]);
  for (const precision p : both) {
    const model& m = loaded(p);
    // Another block's keys and values, moved nowhere: what is computed again must differ from them.
    const auto others = m.encode(some_blocks({90}, 16)[0]);
    const auto replaced = [&](std::span<const index_t> at, std::span<const token_id> ids) {
      kv_tail tail = m.tail_from(others, 110);
      const std::array runs = {forward_run{{ids, 0, {}, hidden_rows::none, {}, at}, &tail}, forward_run{{blocks[1], 90, {}, hidden_rows::last}, &tail}};
      return m.logits(m.forward(runs).back());
    };
    // By hand: the others' pieces as placed blocks, the tokens between them as runs of their own.
    std::vector<placed_block> placed;
    kv_tail tail = m.make_tail();
    std::vector<std::vector<token_id>> ids;
    std::vector<forward_run> runs;
    ids.reserve(90);
    for (index_t first = 0, last = 0; first < 90; first = last) {
      const auto chosen = [&](index_t i) { return std::find(places.begin(), places.end(), i) != places.end(); };
      for (last = first; last < 90 && chosen(last) == chosen(first); ++last) continue;
      if (!chosen(first)) placed.push_back({others, first, true, {}, first, last - first});
    }
    for (std::size_t i = 0; i < places.size(); ++i) {
      ids.push_back({again[i]});
      runs.push_back({{ids.back(), places[i], placed, hidden_rows::none}, &tail});
    }
    runs.push_back({{blocks[1], 90, placed, hidden_rows::last}, &tail});
    const auto by_hand = m.logits(m.forward(runs).back()), in_place = replaced(places, again);
    CHECK(difference(by_hand, in_place) < (p == precision::exact ? 1e-5 : 3e-2));  // by hand each is a run of few rows, in another arithmetic
    CHECK(difference(in_place, replaced({}, {})) > 5e-2);
    // All of them: nothing of the others is left.
    std::vector<index_t> all(90);
    std::iota(all.begin(), all.end(), index_t{0});
    kv_tail whole = m.make_tail();
    const std::array plain = {forward_run{{blocks[0], 0, {}, hidden_rows::none}, &whole}, forward_run{{blocks[1], 90, {}, hidden_rows::last}, &whole}};
    CHECK(same_bits(m.logits(m.forward(plain).back()), replaced(all, blocks[0])));
  }
  const model& m = loaded(precision::fast);
  const std::vector<token_id> two = {300, 301};
  for (const std::vector<index_t>& at : {std::vector<index_t>{1}, {3, 3}, {4, 2}, {-1, 2}, {2, 90}, {2, index_t{1} << 40}}) {
    kv_tail tail = m.tail_from(m.encode(blocks[0]), 0);
    CHECK_THROWS_AS(m.forward({two, 0, {}, hidden_rows::none, {}, at}, tail), argument_error);
    CHECK(tail.tokens() == 90);
  }
  kv_tail begun = m.tail_from(m.encode(blocks[0]), 0);
  CHECK_THROWS_AS(begun.begin_with(*m.encode(blocks[1])), argument_error);
}

TEST_CASE("runs that fail leave their tails as they were", "[model][laws]") {
  const model& m = loaded(precision::fast);
  const block_ids good = some_blocks({700, 20}, 14);
  std::vector<kv_tail> tails(2, kv_tail(m.kv()));
  const std::vector<token_id> bad = {5, 1 << 30};
  const std::array unknown = {forward_run{{good[1], 0, {}, hidden_rows::none}, &tails[0]}, forward_run{{bad, 0, {}, hidden_rows::none}, &tails[1]}};
  CHECK_THROWS_AS(m.forward(unknown), argument_error);
  CHECK(tails[0].tokens() == 0);
  const std::array runs = {forward_run{{good[0], 0, {}, hidden_rows::none}, &tails[0]}, forward_run{{good[1], 0, {}, hidden_rows::none}, &tails[1]}};
  int calls = 0;
  forward_control control;
  control.cancelled = [&] { return ++calls > 40; };  // in the second batch
  CHECK_THROWS_AS(m.forward(runs, control), cancelled_error);
  CHECK(tails[0].tokens() == 0);
  CHECK(tails[1].tokens() == 0);
}
