// One cache shared by many threads, on a tiny model: fast enough to run in full under ThreadSanitizer.
#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "blockattn/blockattn.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_model.hpp"

using namespace blockattn;

namespace {

constexpr int questions = 200, passages = 12;

/// The blocks of question i: three passages of twelve, and a final block.
std::vector<text_block> blocks_of(int i) {
  const auto passage = [](int n) {
    return text_block::content("passage " + std::to_string(n % passages) + " says something of its own\n");
  };
  return {passage(i), passage(i * 5 + 1), passage(i * 7 + 2), text_block::raw("question " + std::to_string(i % 10))};
}

std::vector<token_id> answer(const model& m, int i, const std::shared_ptr<block_cache>& cache) {
  generation_options options;
  options.max_tokens = 6;
  options.sampling.temperature = 1;
  options.sampling.seed = static_cast<std::uint64_t>(i);
  options.plan.rotate = i % 3 == 0 ? rotation::keys : rotation::queries;
  if (i % 11 == 0) options.plan.mode = attention_mode::full;
  return session(m, cache).generate(blocks_of(i), options).ids;
}

}  // namespace

TEST_CASE("8 threads ask a tiny model 200 questions over one cache of 5 passages", "[session][threads]") {
  const blockattn_test::temporary_file file(blockattn_test::tiny_model().file().bytes());
  const model m = model::load(file.path());

  std::vector<std::vector<token_id>> expected, got(questions);
  const auto alone = std::make_shared<block_cache>(std::size_t{64} << 20);
  oneapi::tbb::task_arena(1).execute([&] {
    for (int i = 0; i < questions; ++i) expected.push_back(answer(m, i, alone));
  });

  const auto one_block = m.encode(m.vocabulary().encode(blocks_of(0).front()));
  const auto shared = std::make_shared<block_cache>(5 * block_cache::cost(*one_block));
  std::atomic<int> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      for (int i = next++; i < questions; i = next++) got[static_cast<std::size_t>(i)] = answer(m, i, shared);
    });
  for (std::thread& t : threads) t.join();

  CHECK(got == expected);
  const cache_stats stats = shared->stats();
  CHECK(stats.bytes <= stats.byte_budget);
  CHECK(stats.evictions > 0);
  CHECK(stats.hits > 0);
}
