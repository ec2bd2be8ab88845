#include "ttft.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <ostream>

#include "first_token.hpp"
#include "prompt_text.hpp"
#include "report.hpp"
#include "threads.hpp"

namespace blockattn_bench {
namespace {

using blockattn::cat;
using prompt = std::vector<blockattn::text_block>;

blockattn::attention_plan plan_of(blockattn::attention_mode mode) {
  blockattn::attention_plan plan;
  plan.mode = mode;
  return plan;
}

/// Fills the cache and compares. Gives the time that the first run took, encoding included.
double compare_answers(const blockattn::model& model, const std::shared_ptr<blockattn::block_cache>& cache,
                       const prompt& blocks) {
  const auto cold = first_token(model, cache, blocks, plan_of(blockattn::attention_mode::block));
  const auto plan = plan_of(blockattn::attention_mode::block);
  const std::vector<float> miss =
      blockattn::session(model, std::make_shared<blockattn::block_cache>(std::size_t{0})).logits(blocks, plan);
  const std::vector<float> hit = blockattn::session(model, cache).logits(blocks, plan);
  if (miss.size() != hit.size() || std::memcmp(miss.data(), hit.data(), miss.size() * sizeof(float)) != 0)
    throw blockattn::error(
        "[ttft] the logits over cached passages aren't those over passages encoded anew: the times would mean nothing");
  return cold.ttft_ms;
}

struct samples {
  std::vector<double> full, block, cold;
  blockattn::block_counts counts;
};

samples time_both(const blockattn::model& model, const std::shared_ptr<blockattn::block_cache>& cache,
                  const prompt& blocks, int repetitions, bool cold) {
  samples result;
  for (int i = 0; i < repetitions; ++i) {
    result.full.push_back(first_token(model, cache, blocks, plan_of(blockattn::attention_mode::full)).ttft_ms);
    const auto block = first_token(model, cache, blocks, plan_of(blockattn::attention_mode::block));
    result.block.push_back(block.ttft_ms);
    result.counts = block.blocks;
    if (block.blocks.encoded != 0)
      throw blockattn::error(cat("[ttft] ", block.blocks.encoded, " of ", block.blocks.total,
                                 " passages were encoded again; the cache should have had all"));
    if (cold) {
      const auto empty = std::make_shared<blockattn::block_cache>(std::size_t{1} << 40);
      result.cold.push_back(first_token(model, empty, blocks, plan_of(blockattn::attention_mode::block)).ttft_ms);
    }
  }
  return result;
}

json measure(const blockattn::model& model, int length, const bench_options& shared, const ttft_options& options,
             int threads) {
  const prompt blocks = make_prompt(model.vocabulary(), length, options.query, options.passage);
  const auto bytes = static_cast<std::size_t>(model.kv().token_bytes()) * static_cast<std::size_t>(length);
  const auto cache = std::make_shared<blockattn::block_cache>(2 * bytes + (std::size_t{64} << 20));
  const double first = compare_answers(model, cache, blocks);
  const samples times = time_both(model, cache, blocks, shared.repetitions, options.cold);
  const statistic full = summarise(times.full);
  const statistic block = summarise(times.block);
  json row = common_row(model, shared, threads);
  row.update({{"n_ctx", length},
              {"n_query", options.query},
              {"n_passages", blocks.size() - 1},
              {"blocks_reused", times.counts.reused},
              {"blocks_encoded", times.counts.encoded},
              {"cache_bytes", cache->stats().bytes},
              {"full_ms", full.mean},
              {"full_ms_stddev", full.deviation},
              {"block_ms", block.mean},
              {"block_ms_stddev", block.deviation},
              {"block_first_ms", first},
              {"ratio", block.mean / full.mean},
              {"samples_full_ms", times.full},
              {"samples_block_ms", times.block},
              {"hit_equals_miss", true}});
  if (options.cold) {
    const statistic cold = summarise(times.cold);
    row.update({{"cold_ms", cold.mean}, {"cold_ms_stddev", cold.deviation}, {"cold_ratio", cold.mean / full.mean}, {"samples_cold_ms", times.cold}});
  }
  return row;
}

std::vector<std::string> cells(const json& row) {
  const auto times = [&](const char* mean, const char* deviation) {
    return format("%.1f \xc2\xb1 %.1f", row[mean].get<double>(), row[deviation].get<double>());
  };
  return {row["model"].get<std::string>(),
          row["backend"].get<std::string>() + " " + row["isa"].get<std::string>(),
          row["n_threads"].dump(),
          row["n_ctx"].dump(),
          times("full_ms", "full_ms_stddev"),
          times("block_ms", "block_ms_stddev"),
          format("%.2f %%", 100 * row["ratio"].get<double>()),
          row.contains("cold_ms") ? times("cold_ms", "cold_ms_stddev") : "",
          row["blocks_reused"].dump() + "/" + row["n_passages"].dump()};
}

}  // namespace

void run_ttft(const bench_options& shared, const ttft_options& options, std::ostream& out) {
  const blockattn::model model = open_model(shared);
  (void)model.fingerprint();  // reads the weights
  json rows = json::array();
  std::optional<markdown_table> table;
  if (shared.output == "md")
    table.emplace(
        out, std::vector<std::string>{"model", "backend", "threads", "n_ctx", "full ms", "block ms", "ratio", "cold ms", "reused"},
        std::vector<int>{30, 16, 7, 7, 18, 14, 8, 18, 9}, "llrrrrrrr");
  for (const int threads : shared.threads) {
    for (const int length : options.lengths) {
      const json row = with_threads(threads, [&] { return measure(model, length, shared, options, threads); });
      if (table) table->row(cells(row));
      rows.push_back(row);
    }
  }
  if (!table) out << rows.dump(2) << std::endl;
}

}  // namespace blockattn_bench
