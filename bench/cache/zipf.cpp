// Hit ratio and time to first token over a stream of requests whose passages are Zipf-distributed, by byte budget.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "cachebench.hpp"

namespace cachebench {
namespace {

using namespace blockattn;
constexpr int passages_a_request = 3;

/// Passages of every request: distinct ones, rank r with probability proportional to 1 / r^exponent.
std::vector<std::vector<int>> stream(const options& o) {
  std::vector<double> weights;
  for (int r = 1; r <= o.passages; ++r) weights.push_back(1 / std::pow(r, o.exponent));
  std::discrete_distribution<int> rank(weights.begin(), weights.end());
  std::mt19937_64 random(1);
  std::vector<std::vector<int>> requests(static_cast<std::size_t>(o.requests));
  for (auto& request : requests)
    while (request.size() < passages_a_request) {
      const int p = rank(random);
      if (std::find(request.begin(), request.end(), p) == request.end()) request.push_back(p);
    }
  return requests;
}

/// Blocks of a made-up model: 100 bytes a token instead of 23,040, so that many fit; the rest is the real cache.
nlohmann::json simulate(const options& o, const std::vector<std::vector<int>>& requests, double share) {
  constexpr kv_layout layout{1, 1, 25, dtype::bf16};
  std::mt19937 random(2);
  std::vector<index_t> tokens;
  std::size_t total = 0;
  for (int p = 0; p < o.passages; ++p) {
    tokens.push_back(60 + static_cast<index_t>(random() % 140));
    total += block_cache::cost(kv_block(layout, tokens.back(), nullptr));
  }
  block_cache cache(static_cast<std::size_t>(static_cast<double>(total) * share));
  const fingerprint128 model{1, 2};
  for (const auto& request : requests)
    for (const int p : request) {
      auto r = cache.reserve(make_block_key(model, std::vector<token_id>{p}));
      if (r.owner()) r.publish(std::make_shared<kv_block>(layout, tokens[static_cast<std::size_t>(p)]));
    }
  const cache_stats s = cache.stats();
  return {{"budget", share}, {"hit_ratio", static_cast<double>(s.hits) / static_cast<double>(s.hits + s.misses)}, {"evictions", s.evictions}, {"requests", requests.size()}, {"simulated", true}};
}

nlohmann::json measure(const options& o, const model& m, const std::vector<std::vector<int>>& requests, double share) {
  const auto block_bytes = static_cast<double>(m.kv().token_bytes() * o.passage) + block_cache::entry_overhead;
  const auto cache = std::make_shared<block_cache>(static_cast<std::size_t>(block_bytes * o.passages * share));
  std::vector<double> ms;
  for (const auto& request : requests) {
    std::vector<std::vector<token_id>> blocks;
    for (const int p : request) blocks.push_back(passage_ids(m, static_cast<std::uint64_t>(p), o.passage));
    blocks.push_back(passage_ids(m, 1000000, 20));
    session s(m, cache);
    const auto start = std::chrono::steady_clock::now();
    (void)s.logits_of_ids(blocks);
    ms.push_back(1000 * seconds_since(start));
  }
  std::sort(ms.begin(), ms.end());
  const cache_stats s = cache->stats();
  double sum = 0;
  for (const double each : ms) sum += each;
  return {{"budget", share}, {"hit_ratio", static_cast<double>(s.hits) / static_cast<double>(s.hits + s.misses)}, {"evictions", s.evictions}, {"requests", requests.size()}, {"simulated", false},
          {"ttft_ms_mean", sum / static_cast<double>(ms.size())}, {"ttft_ms_median", ms[ms.size() / 2]}};
}

}  // namespace

int run_zipf(const options& o) {
  const auto requests = stream(o);
  std::optional<model> m;
  if (!o.model.empty()) m = open_model(o);
  for (const double share : {0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0}) {
    if (m && share != 0.05 && share != 0.2 && share != 1.0) continue;  // real encodings take long
    std::cout << (m ? measure(o, *m, requests, share) : simulate(o, requests, share)).dump() << std::endl;
  }
  return 0;
}

}  // namespace cachebench
