// LoRA adapters: applied at run time they are the merged weights; several at once, scaled, told apart by the cache; hostile ones are refused.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "support/temporary_file.hpp"
#include "support/tiny_model.hpp"

using namespace blockattn;
using blockattn_test::gguf_writer;
using blockattn_test::temporary_file;
using blockattn_test::tiny_model;

namespace {

/// A random adapter of rank r over some weights of the tiny model, its alpha, and what it changes.
struct tiny_adapter {
  float alpha;
  std::int64_t rank;
  std::map<std::string, std::pair<std::vector<float>, std::vector<float>>> matrices;  ///< name → A [r, K], B [N, r]

  tiny_adapter(const tiny_model& base, const std::vector<std::string>& names, std::int64_t r, float a, unsigned seed) : alpha(a), rank(r) {
    std::mt19937 g(seed);
    std::normal_distribution<float> normal(0, 0.2F);
    for (const std::string& name : names) {
      auto& [first, second] = matrices[name];
      const auto& t = base.tensors.at(name);
      for (std::int64_t i = 0; i < r * t.columns; ++i) first.push_back(normal(g));
      for (std::int64_t i = 0; i < r * t.rows; ++i) second.push_back(normal(g));
    }
  }

  [[nodiscard]] gguf_writer file(const tiny_model& base) const {
    gguf_writer out;
    out.string("general.architecture", "llama").string("general.type", "adapter").string("adapter.type", "lora").number("adapter.lora.alpha", alpha);
    const auto r = static_cast<std::uint64_t>(rank);
    for (const auto& [name, m] : matrices) {
      const auto& t = base.tensors.at(name);
      out.tensor(name + ".lora_a", {static_cast<std::uint64_t>(t.columns), r}, m.first);
      out.tensor(name + ".lora_b", {r, static_cast<std::uint64_t>(t.rows)}, m.second);
    }
    return out;
  }

  /// W += scale * alpha / r * B * A
  void merge_into(tiny_model& m, double scale) const {
    for (const auto& [name, ab] : matrices) {
      auto& t = m.tensors.at(name);
      for (std::int64_t n = 0; n < t.rows; ++n)
        for (std::int64_t k = 0; k < t.columns; ++k) {
          double change = 0;
          for (std::int64_t r = 0; r < rank; ++r)
            change += static_cast<double>(ab.second[static_cast<std::size_t>(n * rank + r)]) * ab.first[static_cast<std::size_t>(r * t.columns + k)];
          t.values[static_cast<std::size_t>(n * t.columns + k)] += static_cast<float>(scale * alpha / static_cast<double>(rank) * change);
        }
    }
  }
};

const std::vector<std::string> all_names = {"blk.0.attn_q.weight",   "blk.0.attn_k.weight", "blk.0.attn_v.weight",   "blk.0.attn_output.weight",
                                            "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.1.ffn_down.weight", "blk.1.attn_v.weight"};

std::vector<std::vector<token_id>> prompt() {
  std::vector<std::vector<token_id>> blocks(3);
  for (token_id i = 0; i < 60; ++i) blocks[static_cast<std::size_t>(i / 20)].push_back(3 + (i * 37) % 250);
  return blocks;
}

std::vector<float> logits(const model& m) { return session(m).logits_of_ids(prompt()); }

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

}  // namespace

TEST_CASE("an adapter applied at run time is the model with merged weights", "[lora]") {
  const tiny_model base;
  const tiny_adapter one(base, all_names, 8, 16, 2);
  const tiny_adapter two(base, {"blk.0.attn_q.weight", "blk.1.ffn_up.weight"}, 4, 0.5F, 3);
  const temporary_file base_file(base.file().bytes()), one_file(one.file(base).bytes()), two_file(two.file(base).bytes());
  tiny_model merged = base;
  one.merge_into(merged, 0.75);
  two.merge_into(merged, -1.5);
  const temporary_file merged_file(merged.file().bytes());
  const model plain = model::load(base_file.path(), {precision::exact});
  const model adapted = plain.with_adapters({{one_file.path(), 0.75F}, {two_file.path(), -1.5F}});
  const auto expected = logits(model::load(merged_file.path(), {precision::exact}));
  CHECK(difference(expected, logits(adapted)) < 2e-4);
  CHECK(difference(expected, logits(plain)) > 0.1);
  // The streaming path, one token at a time.
  session steps(adapted);
  std::vector<float> last;
  attention_plan full;
  full.mode = attention_mode::full;
  for (const auto& block : prompt())
    for (const token_id id : block) last = steps.logits_of_ids({{id}}, full);
  CHECK(difference(last, session(adapted).logits_of_ids(prompt(), full)) < 2e-4);
  // The fast path rounds, but to the same model.
  const model fast = model::load(merged_file.path());
  CHECK(difference(logits(fast), logits(model::load(base_file.path(), {precision::fast, {}, {}, {{one_file.path(), 0.75F}, {two_file.path(), -1.5F}}}))) < 0.5);
}

TEST_CASE("the cache tells adapters and their scales apart", "[lora]") {
  const tiny_model base;
  const tiny_adapter adapter(base, all_names, 8, 16, 2);
  const temporary_file base_file(base.file().bytes()), adapter_file(adapter.file(base).bytes());
  const model plain = model::load(base_file.path());
  const model whole = plain.with_adapters({{adapter_file.path(), 1}});
  const model half = plain.with_adapters({{adapter_file.path(), 0.5F}});
  CHECK(plain.fingerprint() != whole.fingerprint());
  CHECK(half.fingerprint() != whole.fingerprint());
  CHECK(plain.with_adapters({}).fingerprint() == plain.fingerprint());
  CHECK(model::load(base_file.path(), {precision::fast, {}, {}, {{adapter_file.path(), 1}}}).fingerprint() == whole.fingerprint());
  const auto cache = std::make_shared<block_cache>(std::size_t{1} << 24);
  const auto expected = logits(whole);
  (void)session(plain, cache).logits_of_ids(prompt());
  CHECK(session(whole, cache).logits_of_ids(prompt()) == expected);
  CHECK(cache->stats().hits == 0);
  CHECK(cache->stats().misses == 4);
}

TEST_CASE("adapters that don't fit are refused and named", "[lora]") {
  const tiny_model base;
  const tiny_adapter good(base, {"blk.0.attn_q.weight"}, 8, 16, 2);
  const temporary_file base_file(base.file().bytes());
  const model plain = model::load(base_file.path());
  const auto refused = [&](gguf_writer file, const std::string& what) {
    const temporary_file adapter(file.bytes());
    CHECK_THROWS_WITH(plain.with_adapters({{adapter.path(), 1}}), Catch::Contains(what) && Catch::Contains(adapter.path().filename().string()));
  };
  refused(base.file(), "general.type");
  gguf_writer other = good.file(base);
  other.string("general.architecture", "qwen2");
  refused(other, "qwen2");
  gguf_writer kind = good.file(base);
  kind.string("adapter.type", "dora");
  refused(kind, "dora");
  gguf_writer lonely = good.file(base);
  lonely.tensors().pop_back();
  refused(lonely, "lora_b");
  gguf_writer foreign = good.file(base);
  foreign.tensor("blk.7.attn_q.weight.lora_a", {64, 8}, std::vector<float>(512)).tensor("blk.7.attn_q.weight.lora_b", {8, 64}, std::vector<float>(512));
  refused(foreign, "blk.7.attn_q.weight");
  gguf_writer misshapen = good.file(base);
  misshapen.tensor("blk.0.attn_k.weight.lora_a", {64, 8}, std::vector<float>(512)).tensor("blk.0.attn_k.weight.lora_b", {8, 64}, std::vector<float>(512));
  refused(misshapen, "[32, 64]");
  gguf_writer named = good.file(base);
  named.tensor("blk.0.attn_k.bias", {32, 1}, std::vector<float>(32));
  refused(named, "blk.0.attn_k.bias");
  gguf_writer empty = good.file(base);
  empty.tensors().clear();
  refused(empty, "no matrices");
  const temporary_file fine(good.file(base).bytes());
  CHECK_THROWS_AS(plain.with_adapters({{fine.path(), std::nanf("")}}), argument_error);
}
