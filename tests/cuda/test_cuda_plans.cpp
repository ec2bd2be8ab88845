// Attention plans on a GPU in float32 against the CPU's in the same precision, on a tiny random model: a prompt, and tokens after it.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/blockattn.hpp"
#include "support/gpu.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_model.hpp"

using namespace blockattn;

namespace {

model tiny_on(compute_device device) {
  const blockattn_test::temporary_file file(blockattn_test::tiny_model(1).file().bytes());
  load_options options;
  options.compute = precision::exact, options.device = device;
  return model::load(file.path(), options);
}

/// Logits after the prompt and after each of some tokens behind it.
std::vector<float> logits(const model& m, const std::string& plan, const std::shared_ptr<block_cache>& cache) {
  std::vector<std::vector<token_id>> blocks;
  for (const index_t length : {9, 21, 14, 130, 12}) {
    blocks.emplace_back();
    for (index_t i = 0; i < length; ++i) blocks.back().push_back(static_cast<token_id>(3 + (static_cast<index_t>(blocks.size()) * 29 + i * i * 37) % 250));
  }
  session s(m, cache);
  std::vector<float> all = s.logits_of_ids(blocks, parse_plan(plan));
  for (const token_id next : {7, 70, 170, 7}) {
    const std::vector<float> more = s.logits_of_ids({{next}});
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

}  // namespace

TEST_CASE("Plans on a GPU in float32 give the CPU's logits, and hits the bits of misses") {
  if (!blockattn_test::have_gpu()) return;
  const model cpu = tiny_on(compute_device::cpu), gpu = tiny_on(compute_device::cuda);
  REQUIRE(gpu.on_gpu());
  const auto here = std::make_shared<block_cache>(std::size_t{16} << 20), there = std::make_shared<block_cache>(std::size_t{16} << 20);
  std::vector<float> unscaled;
  for (const char* plan : {"full", "block", "local", "prefixed", "promptcache:align=left", "pcw", "superposition:k=0,span=20", "epic:k=5", "kvlink:n=3,token=7", "ape:T=1,S=1", "ape", "ape:T=0.5,S=1.2",
                           "ape:T=2,S=0.4", "ape:T=0.3,S=0.1"}) {
    INFO(plan);
    const std::vector<float> expected = logits(cpu, plan, here), got = logits(gpu, plan, there);
    CHECK(logits(gpu, plan, there) == got);
    REQUIRE(got.size() == expected.size());
    double most = 0;
    for (std::size_t i = 0; i < got.size(); ++i) most = std::max(most, std::abs(static_cast<double>(got[i]) - expected[i]));
    CHECK(most < 1e-3);
    if (std::string(plan) == "ape:T=1,S=1") unscaled = expected;
    if (std::string(plan) == "ape:T=0.5,S=1.2") CHECK(expected != unscaled);
  }
}
