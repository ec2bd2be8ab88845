// generate/sampler.hpp: filters by hand, a double-precision reference that sorts everything, and frequencies of many
// draws.
#include "blockattn/generate/sampler.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

using namespace blockattn;
using Catch::Matchers::Contains;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

using floats = std::vector<float>;
using ids = std::vector<token_id>;

/// Probabilities that the documented rules give, in double precision, by sorting all: index = token id.
std::vector<double> reference(const floats& logits, const sampling_options& o, const ids& recent = {}) {
  struct item {
    double l;
    std::size_t id;
  };
  std::vector<item> items;
  const auto window =
      o.repetition_window < 0 ? recent.size() : std::min(recent.size(), static_cast<std::size_t>(o.repetition_window));
  const std::set<token_id> seen(recent.end() - static_cast<std::ptrdiff_t>(window), recent.end());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    float l = logits[i];
    if (seen.count(static_cast<token_id>(i)) != 0) l = l > 0 ? l / o.repetition_penalty : l * o.repetition_penalty;
    if (!std::isnan(l) && l > -inf) items.push_back({static_cast<double>(l), i});
  }
  std::stable_sort(items.begin(), items.end(), [](const item& a, const item& b) { return a.l > b.l; });
  const auto mass = [&](double temperature) {
    double sum = 0;
    for (const item& i : items) sum += std::exp((i.l - items[0].l) / temperature);
    return sum;
  };
  if (o.top_k > 0 && items.size() > static_cast<std::size_t>(o.top_k)) items.resize(static_cast<std::size_t>(o.top_k));
  if (o.top_p < 1) {
    const double enough = static_cast<double>(o.top_p) * mass(1);
    double sum = 0;
    std::size_t n = 0;
    while (n < items.size() && sum < enough) sum += std::exp(items[n++].l - items[0].l);
    items.resize(n);
  }
  if (o.min_p > 0) {
    const double top = items[0].l;
    items.erase(std::remove_if(items.begin(), items.end(),
                               [&](const item& i) { return std::exp(i.l - top) < static_cast<double>(o.min_p); }),
                items.end());
  }
  std::vector<double> result(logits.size(), 0);
  const double temperature = static_cast<double>(o.temperature);
  const double total = mass(temperature);
  for (const item& i : items) result[i.id] = std::exp((i.l - items[0].l) / temperature) / total;
  return result;
}

std::vector<int> frequencies(const floats& logits, const sampling_options& o, int draws, const ids& recent = {}) {
  sampler s(o);
  std::vector<int> count(logits.size(), 0);
  for (int i = 0; i < draws; ++i) {
    floats copy = logits;
    ++count[static_cast<std::size_t>(s.sample(copy, recent))];
  }
  return count;
}

/// The set of tokens that are ever drawn.
ids support(const floats& logits, const sampling_options& o, int draws = 3000, const ids& recent = {}) {
  const auto count = frequencies(logits, o, draws, recent);
  ids result;
  for (std::size_t i = 0; i < count.size(); ++i)
    if (count[i] > 0) result.push_back(static_cast<token_id>(i));
  return result;
}

/// Logits whose softmax is `p`.
floats logits_of(const std::vector<double>& p) {
  floats result;
  for (const double value : p) result.push_back(static_cast<float>(std::log(value)));
  return result;
}

/// Chi-square of observed counts, and its degrees of freedom: a fair sampler stays below dof + 4 sqrt(2 dof) + 8
/// (beyond 1 in 10^5).
void check_fit(const std::vector<int>& count, const std::vector<double>& p) {
  const double draws = std::accumulate(count.begin(), count.end(), 0.0);
  double chi = 0, rare_expected = 0, rare_seen = 0;
  int cells = 0;
  const auto add = [&](double seen, double expected) {
    chi += (seen - expected) * (seen - expected) / expected;
    ++cells;
  };
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      REQUIRE(count[i] == 0);
    } else if (p[i] * draws < 10) {
      rare_expected += p[i] * draws;
      rare_seen += count[i];
    } else {
      add(count[i], p[i] * draws);
    }
  }
  if (rare_expected >= 5) add(rare_seen, rare_expected);
  const double dof = std::max(cells - 1, 0);
  CHECK(chi <= dof + 4 * std::sqrt(2 * dof) + 8);
}

floats random_logits(std::size_t n, std::uint64_t seed, float spread) {
  std::mt19937_64 random(seed);
  floats result(n);
  for (float& l : result) {
    float sum = 0;
    for (int i = 0; i < 6; ++i) sum += static_cast<float>(random() >> 40) * 0x1p-24f - 0.5f;
    l = sum * spread;
  }
  return result;
}

token_id one(floats logits, const sampling_options& o = {}, const ids& recent = {}) {
  return sampler(o).sample(logits, recent);
}

}  // namespace

TEST_CASE("sampler: greedy takes the highest, of equal ones the lowest id", "[generate][sampler]") {
  CHECK(one({1, 3, 2}) == 1);
  CHECK(one({3, 1, 3, 3}) == 0);
  CHECK(one({-5, -2, -2}) == 1);
  CHECK(one({0.0f}) == 0);
  CHECK(one({nan_value, -1, nan_value}) == 1);
  CHECK(one({1, inf, inf}) == 1);
  CHECK(one({-inf, -std::numeric_limits<float>::max()}) == 1);
  CHECK(one({1, 2, 3}, {.top_k = 1, .top_p = 0.1f, .min_p = 0.5f}) == 2);
}

TEST_CASE("sampler: greedy over a large vocabulary", "[generate][sampler]") {
  floats logits = random_logits(262144, 3, 4);
  const auto expected = std::max_element(logits.begin(), logits.end()) - logits.begin();
  CHECK(one(logits) == expected);
  logits.back() = 1e9f;
  CHECK(one(logits) == 262143);
}

TEST_CASE("sampler: no candidate is an error", "[generate][sampler]") {
  for (const float temperature : {0.0f, 1.0f}) {
    for (const floats& logits : {floats{}, floats{nan_value, nan_value}, floats{-inf, -inf}, floats{nan_value, -inf}}) {
      CHECK_THROWS_AS(one(logits, {.temperature = temperature}), argument_error);
      CHECK_THROWS_WITH(one(logits, {.temperature = temperature}),
                        Contains("none of the " + std::to_string(logits.size()) + " logits"));
    }
  }
}

TEST_CASE("sampler: NaN and -infinity are never drawn, +infinity always", "[generate][sampler]") {
  for (const int top_k : {0, 3}) {
    for (const float top_p : {1.0f, 0.99f}) {
      const sampling_options o{.temperature = 1, .top_k = top_k, .top_p = top_p};
      CHECK(support({nan_value, 1, -inf, 1, nan_value}, o) == ids{1, 3});
      CHECK(support({nan_value, inf, 100, inf, -inf}, o) == ids{1, 3});
      CHECK(support({5, nan_value}, o) == ids{0});
    }
  }
}

TEST_CASE("sampler: repetition penalty divides positive logits and multiplies negative ones, once a token",
          "[generate][sampler]") {
  const sampling_options o{.repetition_penalty = 2};
  floats logits{4, -4, 3, 0, 8};
  CHECK(sampler(o).sample(logits, ids{0, 1, 1, 0, 3}) == 4);
  CHECK(logits == floats{2, -8, 3, 0, 8});
  CHECK(one({4, 3, 1}, o, {0}) == 1);
  CHECK(one({-1, -1.5f}, o, {0}) == 1);
  CHECK(one({4, 3, 1}, {.repetition_penalty = 1}, {0}) == 0);
  CHECK(one({4, 3, 1}, {.repetition_penalty = 0.5f}, {1}) == 1);  // less than 1 favours repetition
  CHECK(one({nan_value, 3, 1}, o, {0}) == 1);
}

TEST_CASE("sampler: the window of the repetition penalty", "[generate][sampler]") {
  const auto changed = [](int window) {
    floats logits{2, 2, 2, 2};
    (void)sampler({.repetition_penalty = 2, .repetition_window = window}).sample(logits, ids{0, 1, 2, 1});
    return logits;
  };
  CHECK(changed(0) == floats{2, 2, 2, 2});
  CHECK(changed(1) == floats{2, 1, 2, 2});
  CHECK(changed(2) == floats{2, 1, 1, 2});
  CHECK(changed(3) == floats{2, 1, 1, 2});
  CHECK(changed(4) == floats{1, 1, 1, 2});
  CHECK(changed(1000) == floats{1, 1, 1, 2});
  CHECK(changed(-1) == floats{1, 1, 1, 2});
  ids many(100, 0);
  many.front() = 1;
  floats logits{2, 2};
  (void)sampler({.repetition_penalty = 2}).sample(logits, many);  // the default looks 64 back
  CHECK(logits == floats{1, 2});
}

TEST_CASE("sampler: a recent token outside of the vocabulary is an error, if it matters", "[generate][sampler]") {
  CHECK_THROWS_WITH(one({1, 2}, {.repetition_penalty = 2}, {0, 2}), Contains("got 2") && Contains("0 to 1"));
  CHECK_THROWS_WITH(one({1, 2}, {.repetition_penalty = 2}, {-7}), Contains("got -7"));
  CHECK(one({1, 2}, {}, {99}) == 1);
}

TEST_CASE("sampler: top-k, by hand", "[generate][sampler]") {
  const floats logits{1, 5, 3, 4, 2};
  CHECK(support(logits, {.temperature = 5, .top_k = 1}) == ids{1});
  CHECK(support(logits, {.temperature = 5, .top_k = 2}) == ids{1, 3});
  CHECK(support(logits, {.temperature = 5, .top_k = 4}) == ids{1, 2, 3, 4});
  CHECK(support(logits, {.temperature = 5, .top_k = 99}) == ids{0, 1, 2, 3, 4});
  CHECK(support({2, 2, 2, 2}, {.temperature = 1, .top_k = 2}) == ids{0, 1});  // equal ones: the lowest ids
}

TEST_CASE("sampler: top-p, by hand", "[generate][sampler]") {
  const floats logits = logits_of({0.1, 0.4, 0.3, 0.2});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.01f}) == ids{1});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.39f}) == ids{1});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.41f}) == ids{1, 2});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.71f}) == ids{1, 2, 3});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.91f}) == ids{0, 1, 2, 3});
  CHECK(support({0, 0, 0, 0}, {.temperature = 1, .top_p = 0.5f}) == ids{0, 1});  // reaching it exactly is enough
}

TEST_CASE("sampler: min-p, by hand", "[generate][sampler]") {
  const floats logits = logits_of({0.05, 0.5, 0.25, 0.2});
  CHECK(support(logits, {.temperature = 1, .min_p = 0.09f}) == ids{0, 1, 2, 3});
  CHECK(support(logits, {.temperature = 1, .min_p = 0.11f}) == ids{1, 2, 3});
  CHECK(support(logits, {.temperature = 1, .min_p = 0.41f}) == ids{1, 2});
  CHECK(support(logits, {.temperature = 1, .min_p = 0.51f}) == ids{1});
  CHECK(support({1, 2, 2}, {.temperature = 1, .min_p = 1}) == ids{1, 2});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.9f, .min_p = 0.41f}) == ids{1, 2});  // the path that sorts
  CHECK(support(logits, {.temperature = 1, .top_k = 4, .min_p = 0.41f}) == ids{1, 2});
}

TEST_CASE("sampler: the filters' order", "[generate][sampler]") {
  const floats logits = logits_of({0.4, 0.3, 0.2, 0.1});
  // top-p counts what top-k left: of {4/7, 3/7}, the first reaches 0.5; of all, it takes two.
  CHECK(support(logits, {.temperature = 1, .top_k = 2, .top_p = 0.5f}) == ids{0});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.5f}) == ids{0, 1});
  // filters see the distribution before temperature: a hot one lets no others in, a cold one shuts none out.
  CHECK(support(logits, {.temperature = 50, .top_p = 0.65f}) == ids{0, 1});
  CHECK(support(logits, {.temperature = 50, .min_p = 0.6f}) == ids{0, 1});
  CHECK(support(logits, {.temperature = 0.5f, .min_p = 0.2f}, 5000) == ids{0, 1, 2, 3});
  // the penalty comes before all.
  CHECK(support({4, 3, 2, 1}, {.temperature = 1, .top_k = 1, .repetition_penalty = 2}, 100, {0}) == ids{1});
}

TEST_CASE("sampler: draws follow the exact distribution", "[generate][sampler]") {
  const floats logits{0.3f, -1.2f, 2.0f, 0.0f, 1.1f, -0.4f, 1.9f, -3.0f, 0.7f, 0.7f};
  const ids recent{2, 4, 1};
  const sampling_options all[] = {
      {.temperature = 1},
      {.temperature = 0.5f},
      {.temperature = 2},
      {.temperature = 1, .top_k = 4},
      {.temperature = 0.8f, .top_p = 0.8f},
      {.temperature = 1.5f, .min_p = 0.2f},
      {.temperature = 0.9f, .top_k = 7, .top_p = 0.9f, .min_p = 0.05f},
      {.temperature = 0.7f, .top_k = 8, .top_p = 0.95f, .repetition_penalty = 1.3f},
      {.temperature = 1, .repetition_penalty = 1.5f, .repetition_window = 2},
  };
  std::uint64_t seed = 1;
  for (sampling_options o : all) {
    o.seed = seed++;
    CAPTURE(o.temperature, o.top_k, o.top_p, o.min_p, o.repetition_penalty);
    check_fit(frequencies(logits, o, 60000, recent), reference(logits, o, recent));
  }
}

TEST_CASE("sampler: the test of fit can fail", "[generate][sampler]") {
  const floats logits{0.3f, -1.2f, 2.0f, 0.0f, 1.1f};
  const auto count = frequencies(logits, {.temperature = 1}, 60000);
  const auto p = reference(logits, {.temperature = 1.05f});
  double chi = 0;
  for (std::size_t i = 0; i < p.size(); ++i) chi += std::pow(count[i] - 60000 * p[i], 2) / (60000 * p[i]);
  CHECK(chi > 4 + 4 * std::sqrt(8.0) + 8);
}

TEST_CASE("sampler: what is kept agrees with the reference, for random logits, sizes and options",
          "[generate][sampler]") {
  std::mt19937_64 random(99);
  for (int round = 0; round < 300; ++round) {
    const std::size_t size = 1 + random() % (round % 10 == 0 ? 3000 : 40);
    floats logits = random_logits(size, random(), static_cast<float>(1 + random() % 8));
    if (round % 3 == 0)
      for (float& l : logits) l = std::round(l);  // many equal ones
    if (round % 5 == 0) logits[random() % size] = nan_value;
    if (round % 7 == 0) logits[random() % size] = -inf;
    if (std::none_of(logits.begin(), logits.end(), [](float l) { return l > -inf; })) continue;
    sampling_options o{.temperature = 100, .seed = random()};  // nearly even: all that is kept gets drawn
    if (random() % 2 == 0) o.top_k = static_cast<int>(1 + random() % (size + 3));
    if (random() % 2 == 0) o.top_p = 0.05f + 0.9f * static_cast<float>(random() % 1000) / 1000.0f;
    if (random() % 2 == 0) o.min_p = 0.3f * static_cast<float>(random() % 1000) / 1000.0f;
    const auto p = reference(logits, o);
    const auto kept = std::count_if(p.begin(), p.end(), [](double v) { return v > 0; });
    CAPTURE(round, size, o.top_k, o.top_p, o.min_p, kept);
    const auto count = frequencies(logits, o, static_cast<int>(std::min<std::ptrdiff_t>(20 * kept + 50, 4000)));
    for (std::size_t i = 0; i < size; ++i)
      if (p[i] == 0) REQUIRE(count[i] == 0);
    if (kept <= 150)  // each is missed with a probability of about exp(-20)
      REQUIRE(std::count_if(count.begin(), count.end(), [](int c) { return c > 0; }) == kept);
  }
}

TEST_CASE("sampler: large vocabularies, flat and peaked", "[generate][sampler]") {
  for (const float spread : {0.01f, 3.0f, 12.0f}) {
    const floats logits = random_logits(49152, 5, spread);
    for (sampling_options o :
         {sampling_options{.temperature = 1, .top_k = 40}, sampling_options{.temperature = 1, .top_p = 0.9f},
          sampling_options{.temperature = 1, .min_p = 0.05f},
          sampling_options{.temperature = 1, .top_k = 5000, .top_p = 0.5f}}) {
      const auto p = reference(logits, o);
      sampler s(o);
      for (int i = 0; i < 30; ++i) {
        floats copy = logits;
        const token_id id = s.sample(copy);
        REQUIRE(p[static_cast<std::size_t>(id)] > 0);
      }
    }
  }
}

TEST_CASE("sampler: a seed gives one sequence", "[generate][sampler]") {
  const floats logits = random_logits(1000, 1, 2);
  const auto sequence = [&](std::uint64_t seed) {
    sampler s({.temperature = 1, .top_k = 50, .seed = seed});
    ids result;
    for (int i = 0; i < 50; ++i) {
      floats copy = logits;
      result.push_back(s.sample(copy));
    }
    return result;
  };
  CHECK(sequence(1) == sequence(1));
  CHECK(sequence(1) != sequence(2));
  CHECK(sequence(0) == sequence(0));

  // By hand from the documented rule. The standard fixes mt19937_64: its 10000th number from the default seed 5489 is
  // 9981545732273789042.
  std::mt19937_64 random(5489);
  random.discard(9999);
  CHECK(random() == 9981545732273789042U);
  random.seed(5489);
  sampler s({.temperature = 1, .seed = 5489});
  for (int i = 0; i < 100; ++i) {
    floats even(4096, 0.0f);  // all weights 1: the token is floor(u * 4096), the top 12 bits
    REQUIRE(s.sample(even) == static_cast<token_id>(random() >> 52));
  }
}

TEST_CASE("sampler: greedy choices take no random numbers", "[generate][sampler]") {
  floats logits{1, 2, 3};
  sampler s({.temperature = 0, .seed = 4});
  for (int i = 0; i < 10; ++i) CHECK(s.sample(logits) == 2);
  CHECK(logits == floats{1, 2, 3});  // and without a penalty nothing is changed
}

TEST_CASE("sampler: extreme temperatures", "[generate][sampler]") {
  CHECK(support({1, 2, 3}, {.temperature = 1e-30f}) == ids{2});
  CHECK(support({1, 2, 3}, {.temperature = std::numeric_limits<float>::denorm_min()}) == ids{2});
  CHECK(support({1, 2, 3}, {.temperature = std::numeric_limits<float>::max()}) == ids{0, 1, 2});
}

TEST_CASE("sampler: options out of range are named with what was got and what is allowed", "[generate][sampler]") {
  const auto rejects = [](const sampling_options& o, const char* name, const char* got) {
    CHECK_THROWS_AS(sampler(o), argument_error);
    CHECK_THROWS_WITH(sampler(o), Contains("[sampler]") && Contains(name) && Contains(std::string("got ") + got) &&
                                      Contains("allowed: "));
  };
  rejects({.temperature = -0.5f}, "temperature", "-0.5");
  rejects({.temperature = nan_value}, "temperature", "nan");
  rejects({.temperature = inf}, "temperature", "inf");
  rejects({.top_k = -1}, "top_k", "-1");
  rejects({.top_p = 0}, "top_p", "0");
  rejects({.top_p = 1.5f}, "top_p", "1.5");
  rejects({.top_p = nan_value}, "top_p", "nan");
  rejects({.min_p = -0.1f}, "min_p", "-0.1");
  rejects({.min_p = 1.1f}, "min_p", "1.1");
  rejects({.repetition_penalty = 0}, "repetition_penalty", "0");
  rejects({.repetition_penalty = -1}, "repetition_penalty", "-1");
  rejects({.repetition_penalty = inf}, "repetition_penalty", "inf");
  rejects({.repetition_window = -2}, "repetition_window", "-2");
  CHECK_NOTHROW(sampler(
      {.temperature = 2, .top_k = 1, .top_p = 1, .min_p = 1, .repetition_penalty = 0.1f, .repetition_window = -1}));
}

TEST_CASE("sampler: the candidates that it asks for give the token that all logits give", "[generate][sampler]") {
  std::vector<sampling_options> settings = {{},
                                            {.repetition_penalty = 1.5f},
                                            {.temperature = 1, .top_k = 20, .seed = 3},
                                            {.temperature = 0.8f, .top_k = 50, .top_p = 0.9f, .seed = 4},
                                            {.temperature = 1.5f, .top_k = 7, .min_p = 0.2f, .repetition_penalty = 1.2f, .repetition_window = 5, .seed = 5},
                                            {.temperature = 1, .top_k = 5000, .top_p = 0.99f, .min_p = 0.01f, .seed = 6}};
  for (const sampling_options& o : settings) {
    sampler all(o), few(o);
    ids recent;
    for (std::uint64_t step = 0; step < 50; ++step) {
      floats logits = random_logits(1000, step, 3);
      for (std::size_t i = 0; i < 100; ++i) logits[i * 10] = logits[(i * 37) % 1000];  // equal ones
      logits[5] = nan_value, logits[6] = -inf, logits[7] = -0.0f, logits[8] = 0;
      const auto request = few.request(recent, 1000);
      REQUIRE(request.has_value());
      std::vector<token_candidate> highest;
      for (std::size_t i = 0; i < logits.size(); ++i)
        if (logits[i] > -inf) highest.push_back({logits[i], static_cast<token_id>(i)});
      for (token_candidate& c : highest)
        if (std::find(request->penalised.begin(), request->penalised.end(), c.id) != request->penalised.end())
          c.logit = c.logit > 0 ? c.logit / request->penalty : c.logit * request->penalty;
      std::sort(highest.begin(), highest.end(), [](const token_candidate& a, const token_candidate& b) { return before(a, b); });
      highest.resize(std::min(highest.size(), static_cast<std::size_t>(request->count)));
      const token_id expected = all.sample(logits, recent);
      CHECK(few.sample_from(highest, 1000) == expected);
      recent.push_back(expected);
    }
  }
  CHECK(!sampler({.temperature = 1, .top_p = 0.9f}).request({}, 1000).has_value());
  CHECK(!sampler({.temperature = 1, .min_p = 0.1f}).request({}, 1000).has_value());
  CHECK_THROWS_AS(sampler().sample_from({}, 1000), argument_error);
  const ids outside = {1000};
  CHECK_THROWS_AS(sampler({.repetition_penalty = 2}).request(outside, 1000), argument_error);
}
