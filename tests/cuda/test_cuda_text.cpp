// Greedy text on a GPU against the CPU's: 64 tokens after each of 100 prompts (BLOCKATTN_TEST_PROMPTS: so many), in full and in block mode.
//
// The CPU runs the prompt and the GPU's answer at once; its own greedy text parts from the GPU's at the first token that it doesn't find the most probable. Where its logit of
// the GPU's token is within `tie` of its highest one, the rounding of either processor decides: a tie, printed by name. In `exact` both round to float32. In `fast` the CPU rounds
// activations to 8 bits and the GPU to bfloat16, so that about every other text meets a token for which two logits are nearer than that.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockattn/blockattn.hpp"
#include "support/gpu.hpp"
#include "support/gpu_prompts.hpp"
#include "support/model_path.hpp"

using namespace blockattn;

namespace {

/// How many prompts; at least 1.
std::size_t prompts() {
  const char* given = std::getenv("BLOCKATTN_TEST_PROMPTS");
  return given != nullptr ? static_cast<std::size_t>(std::max(1, std::atoi(given))) : 100;
}
constexpr index_t tokens = 64;

model load_on(compute_device device, precision compute) {
  load_options options;
  options.device = device, options.compute = compute;
  return model::load(blockattn_test::model_path(), options);
}

struct parting {
  std::size_t token;  ///< of the answer
  token_id cpu, gpu;
  float gap;  ///< of their logits on the CPU
};

/// Token ids of the blocks as a session makes them.
std::vector<std::vector<token_id>> ids_of(const model& m, std::size_t i) {
  std::vector<std::vector<token_id>> ids;
  for (const text_block& b : blockattn_test::made_up_question(m, i)) ids.push_back(m.vocabulary().encode(b));
  return ids;
}

/// Where the CPU's greedy text after the prompt parts from `answer`.
std::optional<parting> compare(const model& cpu, std::vector<std::vector<token_id>> blocks, bool block_mode, const std::vector<token_id>& answer) {
  std::vector<placed_block> placed;
  std::vector<token_id> rest;
  index_t offset = 0;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    if (block_mode && b + 1 < blocks.size()) {
      placed.push_back({cpu.encode(blocks[b]), offset});
      offset += placed.back().block->tokens();
    } else {
      rest.insert(rest.end(), blocks[b].begin(), blocks[b].end());
    }
  }
  const auto count = static_cast<index_t>(answer.size());
  const auto before = static_cast<index_t>(rest.size());
  rest.insert(rest.end(), answer.begin(), answer.end() - 1);
  kv_tail tail = cpu.make_tail();
  const matrix hidden = cpu.forward({rest, offset, placed, hidden_rows::all}, tail);
  const matrix last = hidden.middleRows(before - 1, count);
  const std::vector<float> logits = cpu.logits(last);
  const auto size = static_cast<std::size_t>(cpu.config().vocabulary);
  for (std::size_t t = 0; t < answer.size(); ++t) {
    const auto row = std::span(logits).subspan(t * size, size);
    const auto best = static_cast<token_id>(std::max_element(row.begin(), row.end()) - row.begin());
    if (best != answer[t]) return parting{t, best, answer[t], row[static_cast<std::size_t>(best)] - row[static_cast<std::size_t>(answer[t])]};
  }
  return std::nullopt;
}

/// Prints the texts that part, and returns the share of those that are equal or part at a tie.
double equal_texts(precision compute, bool block_mode, float tie) {
  const model cpu = load_on(compute_device::cpu, compute), gpu = load_on(compute_device::cuda, compute);
  const auto cache = std::make_shared<block_cache>(std::size_t{1} << 30);
  std::size_t equal = 0, ties = 0;
  for (std::size_t i = 0; i < prompts(); ++i) {
    attention_plan plan;
    if (!block_mode) plan.mode = attention_mode::full;
    const auto blocks = ids_of(gpu, i);
    session s(gpu, cache);
    std::vector<float> logits = s.logits_of_ids(blocks, plan);
    attention_plan full;
    full.mode = attention_mode::full;
    std::vector<token_id> answer;
    sampler greedy;
    while (static_cast<index_t>(answer.size()) < tokens && (answer.empty() || !gpu.vocabulary().ends_generation(answer.back()))) {
      if (!answer.empty()) logits = s.logits_of_ids({{answer.back()}}, full);
      answer.push_back(greedy.sample(logits));
    }
    const auto parted = compare(cpu, blocks, block_mode, answer);
    if (!parted) {
      ++equal;
      continue;
    }
    const bool near = parted->gap < tie;
    ties += near ? 1 : 0;
    std::printf("  prompt %zu, token %zu: CPU %d, GPU %d, %.3f apart on the CPU%s\n", i, parted->token, parted->cpu, parted->gpu, parted->gap, near ? ": a tie" : "");
  }
  std::printf("%s, %s: %zu of %zu texts of %d tokens equal, %zu part at a tie\n", compute == precision::exact ? "exact" : "fast", block_mode ? "block" : "full", equal, prompts(),
              static_cast<int>(tokens), ties);
  return static_cast<double>(equal + ties) / static_cast<double>(prompts());
}

}  // namespace

TEST_CASE("Greedy text of 64 tokens on a GPU is the CPU's in exact full mode") {
  if (blockattn_test::have_gpu()) CHECK(equal_texts(precision::exact, false, 1e-3F) >= 0.99);
}
TEST_CASE("Greedy text of 64 tokens on a GPU is the CPU's in exact block mode") {
  if (blockattn_test::have_gpu()) CHECK(equal_texts(precision::exact, true, 1e-3F) >= 0.99);
}
TEST_CASE("Greedy text of 64 tokens on a GPU is the CPU's in fast block mode") {
  if (blockattn_test::have_gpu()) CHECK(equal_texts(precision::fast, true, 0.25F) >= 0.99);
}
