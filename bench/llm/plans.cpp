#include "plans.hpp"

#include <algorithm>
#include <iostream>
#include <ostream>
#include <random>

#include "first_token.hpp"
#include "prompt_text.hpp"
#include "report.hpp"
#include "threads.hpp"

namespace blockattn_bench {
namespace {

using prompt = std::vector<blockattn::text_block>;

std::shared_ptr<blockattn::block_cache> new_cache() { return std::make_shared<blockattn::block_cache>(std::size_t{1} << 40); }

/// Bytes that the cache holds after `orders` orders of the passages: as they are, then shuffled.
std::size_t bytes_of_orders(const blockattn::model& model, prompt blocks, const blockattn::attention_plan& plan, int orders) {
  const auto cache = new_cache();
  std::mt19937 random(7);
  for (int i = 0; i < orders; ++i) {
    if (i > 0) std::shuffle(blocks.begin() + 1, blocks.end() - 1, random);
    (void)first_token(model, cache, blocks, plan);
  }
  return cache->stats().bytes;
}

json measure(const blockattn::model& model, const std::string& text, const bench_options& shared, const plans_options& options) {
  const blockattn::attention_plan plan = blockattn::parse_plan(text);
  const prompt blocks = make_prompt(model.vocabulary(), options.length, options.query, options.passage);
  const auto cache = new_cache();
  const auto cold = first_token(model, cache, blocks, plan);
  std::vector<double> times;
  blockattn::generation_result warm;
  for (int i = 0; i < shared.repetitions; ++i) {
    warm = first_token(model, cache, blocks, plan);
    times.push_back(warm.ttft_ms);
  }
  const prompt few = make_prompt(model.vocabulary(), options.query + options.passage * (options.shuffled + 1), options.query, options.passage);
  json row = common_row(model, shared, shared.threads.front());
  row.update({{"plan", text}, {"n_ctx", options.length}, {"flops_first", cold.operations}, {"ttft_first_ms", cold.ttft_ms}, {"flops", warm.operations},
              {"ttft_ms", summarise(times).mean}, {"ttft_ms_stddev", summarise(times).deviation}, {"samples_ttft_ms", times}, {"n_passages_shuffled", options.shuffled},
              {"n_orders", options.orders}, {"bytes_one_order", bytes_of_orders(model, few, plan, 1)}, {"bytes_all_orders", bytes_of_orders(model, few, plan, options.orders)}});
  return row;
}

std::vector<std::string> cells(const json& row) {
  const auto number = [&](const char* pattern, const char* key, double scale) { return format(pattern, scale * row[key].get<double>()); };
  return {row["plan"].get<std::string>(),           number("%.1f", "flops_first", 1e-9),     number("%.0f", "ttft_first_ms", 1),      number("%.1f", "flops", 1e-9),
          number("%.1f", "ttft_ms", 1) + " \xc2\xb1 " + number("%.1f", "ttft_ms_stddev", 1), number("%.1f", "bytes_one_order", 1e-6), number("%.1f", "bytes_all_orders", 1e-6)};
}

}  // namespace

void run_plans(const bench_options& shared, const plans_options& options, std::ostream& out) {
  const blockattn::model model = open_model(shared);
  json rows = json::array();
  const auto run = [&](const auto& each) {
    for (const std::string& plan : options.plans) {
      try {
        rows.push_back(measure(model, plan, shared, options));
        each(rows.back());
      } catch (const blockattn::context_error& e) {  // some plans repeat parts of a prompt
        rows.push_back({{"plan", plan}, {"error", e.what()}});
        std::cerr << plan << ": " << e.what() << '\n';
      }
    }
    return 0;
  };
  if (shared.output != "md") {
    with_threads(shared.threads.front(), [&] { return run([](const json&) {}); });
    out << rows.dump(2) << std::endl;
    return;
  }
  markdown_table table(out, {"plan", "GFLOP first", "first ms", "GFLOP", "ms", "MB, 1 order", blockattn::cat("MB, ", options.orders, " orders")}, {24, 11, 9, 9, 15, 11, 13},
                       "lrrrrrr");
  with_threads(shared.threads.front(), [&] { return run([&](const json& row) { table.row(cells(row)); }); });
}

}  // namespace blockattn_bench
