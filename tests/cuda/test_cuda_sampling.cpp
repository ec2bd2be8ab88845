// What a GPU picks out of a row of logits is what the host's sampler finds in all of them.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "blockattn/cuda/engine.hpp"
#include "blockattn/generate/sampler.hpp"
#include "support/gpu.hpp"

using namespace blockattn;

namespace {

constexpr index_t width = 64;

/// No layers: an output matrix of random bfloat16 numbers is all that these tests need.
cuda::network_facts network(index_t vocabulary) {
  cuda::network_facts f;
  f.synthetic = true;
  f.width = width, f.heads = 1, f.kv_heads = 1, f.head_dim = 64, f.feed_forward = 64, f.vocabulary = vocabulary;
  f.embedding = f.head = {dtype::bf16, nullptr, vocabulary, width};
  return f;
}

std::vector<float> hidden_state(int seed) {
  std::vector<float> x(width);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 10 * std::sin(static_cast<float>(seed * 131 + static_cast<int>(i) * 17));
  return x;
}

std::vector<float> logits_of(cuda::engine& e, const std::vector<float>& hidden, index_t vocabulary) {
  std::vector<float> logits(static_cast<std::size_t>(vocabulary));
  e.project(hidden.data(), 1, logits.data());
  return logits;
}

std::vector<token_candidate> sorted(const std::vector<float>& logits, const candidate_request& r) {
  std::vector<float> l = logits;
  for (const token_id id : r.penalised) {
    float& x = l[static_cast<std::size_t>(id)];
    x = x > 0 ? x / r.penalty : x * r.penalty;
  }
  std::vector<token_candidate> all;
  for (std::size_t i = 0; i < l.size(); ++i)
    if (l[i] > -std::numeric_limits<float>::infinity()) all.push_back({l[i], static_cast<token_id>(i)});
  std::sort(all.begin(), all.end(), [](const token_candidate& a, const token_candidate& b) { return before(a, b); });
  all.resize(std::min(all.size(), static_cast<std::size_t>(r.count)));
  return all;
}

void check_equal(const std::vector<token_candidate>& got, const std::vector<token_candidate>& expected) {
  REQUIRE(got.size() == expected.size());
  std::size_t same = 0;
  for (std::size_t i = 0; i < got.size(); ++i) same += got[i].id == expected[i].id && got[i].logit == expected[i].logit ? 1 : 0;
  CHECK(same == got.size());
}

}  // namespace

TEST_CASE("The highest logits found on a GPU are those of a sorted row, penalties included") {
  if (!blockattn_test::have_gpu()) return;
  for (const index_t vocabulary : {1, 7, 4096, 4097, 49152, 151936, 262144}) {
    cuda::engine e(network(vocabulary), {0, arithmetic::fast, dtype::bf16});
    for (int seed = 0; seed < 3; ++seed) {
      const std::vector<float> hidden = hidden_state(seed), logits = logits_of(e, hidden, vocabulary);
      std::vector<token_id> penalised;
      for (index_t i = 0; i < std::min<index_t>(vocabulary, 300); ++i) penalised.push_back(static_cast<token_id>(i * (vocabulary / 300 + 1) % vocabulary));
      std::sort(penalised.begin(), penalised.end());
      penalised.erase(std::unique(penalised.begin(), penalised.end()), penalised.end());
      for (const index_t count : {1, 2, 40, 129, 1000, 2048}) {
        INFO(vocabulary << " tokens, the highest " << count);
        check_equal(e.highest(hidden.data(), {count}), sorted(logits, {count}));
        check_equal(e.highest(hidden.data(), {count, penalised, 1.3F}), sorted(logits, {count, penalised, 1.3F}));
      }
    }
  }
}

TEST_CASE("Equal logits and none: a GPU gives the lowest ids, and nothing") {
  if (!blockattn_test::have_gpu()) return;
  cuda::engine e(network(50000), {0, arithmetic::fast, dtype::bf16});
  std::vector<float> hidden(width, 0);
  std::vector<token_candidate> expected;
  for (token_id i = 0; i < 100; ++i) expected.push_back({0, i});
  check_equal(e.highest(hidden.data(), {100}), expected);  // all are zeros of either sign
  hidden[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK(e.highest(hidden.data(), {100}).empty());
}

TEST_CASE("A sampler draws the same tokens from a GPU's candidates as from all logits") {
  if (!blockattn_test::have_gpu()) return;
  constexpr index_t vocabulary = 49152;
  cuda::engine e(network(vocabulary), {0, arithmetic::fast, dtype::bf16});
  std::vector<sampling_options> settings(6);
  for (std::size_t i = 1; i < settings.size(); ++i) settings[i].temperature = 0.7F, settings[i].top_k = 40, settings[i].seed = i;
  settings[2].top_p = 0.9F, settings[3].min_p = 0.1F, settings[4].repetition_penalty = 1.4F, settings[5].top_k = 2000;
  settings[5].top_p = 0.95F, settings[5].repetition_penalty = 1.1F;
  for (const sampling_options& options : settings) {
    sampler all(options), few(options);
    std::vector<token_id> recent, drawn;
    for (int step = 0; step < 40; ++step) {
      const std::vector<float> hidden = hidden_state(step % 7);
      std::vector<float> logits = logits_of(e, hidden, vocabulary);
      const auto request = few.request(recent, vocabulary);
      REQUIRE(request.has_value());
      const token_id expected = all.sample(logits, recent);

      CHECK(few.sample_from(e.highest(hidden.data(), *request), vocabulary) == expected);
      recent.push_back(expected);
    }
  }
}
