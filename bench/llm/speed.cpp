#include "speed.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <optional>
#include <ostream>
#include <random>
#include <span>

#include "report.hpp"
#include "threads.hpp"

namespace blockattn_bench {
namespace {

using blockattn::token_id;
using clock = std::chrono::steady_clock;

/// Ordinary tokens, the same in every run.
std::vector<token_id> random_tokens(const blockattn::model& model, int count) {
  std::mt19937 random(1);
  std::vector<token_id> ids;
  if (count > 0 && model.vocabulary().adds_bos() && model.vocabulary().bos()) ids.push_back(*model.vocabulary().bos());  // as llama-bench does
  while (static_cast<int>(ids.size()) < count) {
    const auto id = static_cast<token_id>(random() % static_cast<std::uint32_t>(model.config().vocabulary));
    if (!model.vocabulary().is_control(id)) ids.push_back(id);
  }
  return ids;
}

std::vector<float> logits_at_once(const blockattn::model& model, std::span<const token_id> ids) {
  blockattn::kv_tail tail = model.make_tail(static_cast<blockattn::index_t>(ids.size()));
  return blockattn::with_team([&] { return model.logits(model.forward({ids, 0, {}, blockattn::hidden_rows::last}, tail)); });
}

std::vector<float> logits_by_steps(const blockattn::model& model, std::span<const token_id> ids) {
  blockattn::kv_tail tail = model.make_tail(static_cast<blockattn::index_t>(ids.size()));
  std::vector<float> last;
  for (std::size_t i = 0; i < ids.size(); ++i)
    last = blockattn::with_team([&] {
      return model.logits(model.forward({ids.subspan(i, 1), static_cast<blockattn::index_t>(i), {}, blockattn::hidden_rows::last}, tail));
    });
  return last;
}

/// A prompt and the same tokens one by one must give the same logits, but for rounding: 5 % of their range. Throws
/// blockattn::error if not.
void check_answers(const blockattn::model& model) {
  const std::vector<token_id> ids =
      random_tokens(model, static_cast<int>(std::min<blockattn::index_t>(24, model.config().context_length)));
  const std::vector<float> prompt = logits_at_once(model, ids);
  const std::vector<float> steps = logits_by_steps(model, ids);
  const auto [low, high] = std::minmax_element(prompt.begin(), prompt.end());
  const float allowed = 0.05F * (*high - *low);
  for (std::size_t i = 0; i < prompt.size(); ++i)
    if (!(std::abs(prompt[i] - steps[i]) <= allowed))
      throw blockattn::error(blockattn::cat("[bench] logit ", i, " is ", prompt[i], " after a prompt and ", steps[i],
                                            " after the same tokens one by one; allowed difference: ", allowed));
}

/// Nanoseconds of each repetition.
std::vector<double> time_runs(int repetitions, const std::function<void()>& run) {
  std::vector<double> samples;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = clock::now();
    run();
    samples.push_back(std::chrono::duration<double, std::nano>(clock::now() - start).count());
  }
  return samples;
}

struct speed_test {
  int prompt = 0;
  int generation = 0;
  [[nodiscard]] std::string name() const { return prompt > 0 ? format("pp%d", prompt) : format("tg%d", generation); }
};

json measure(const blockattn::model& model, const speed_test& test, const bench_options& shared, bool warm_up,
             int threads) {
  const int tokens = test.prompt + test.generation;
  const std::vector<token_id> ids = random_tokens(model, tokens);
  const auto work = [&] { (void)(test.prompt > 0 ? logits_at_once(model, ids) : logits_by_steps(model, ids)); };
  if (warm_up) {  // one run as it is for a prompt, one step for generation
    if (test.prompt > 0)
      work();
    else
      (void)logits_by_steps(model, std::span(ids).first(1));
  }
  const std::vector<double> times = time_runs(shared.repetitions, work);
  std::vector<double> speeds;
  for (const double t : times) speeds.push_back(1e9 * tokens / t);
  const statistic time = summarise(times);
  const statistic speed = summarise(speeds);
  json row = common_row(model, shared, threads);
  row.update({{"n_prompt", test.prompt},
              {"n_gen", test.generation},
              {"avg_ns", time.mean},
              {"stddev_ns", time.deviation},
              {"avg_ts", speed.mean},
              {"stddev_ts", speed.deviation},
              {"samples_ns", times},
              {"samples_ts", speeds}});
  return row;
}

std::vector<std::string> cells(const json& row, const speed_test& test) {
  return {row["model"].get<std::string>(),
          format("%.2f MiB", row["model_size"].get<double>() / (1 << 20)),
          format("%.2f M", row["model_n_params"].get<double>() / 1e6),
          row["backend"].get<std::string>() + " " + row["isa"].get<std::string>(),
          row["n_threads"].dump(),
          test.name(),
          format("%.2f \xc2\xb1 %.2f", row["avg_ts"].get<double>(), row["stddev_ts"].get<double>())};
}

}  // namespace

void run_speed(const bench_options& shared, const speed_options& options, std::ostream& out) {
  std::vector<speed_test> tests;
  for (const int prompt : options.prompts)
    if (prompt > 0) tests.push_back({prompt, 0});
  for (const int generation : options.generations)
    if (generation > 0) tests.push_back({0, generation});
  const blockattn::model model = open_model(shared);
  with_threads(shared.threads.front(), [&] { check_answers(model); });
  json rows = json::array();
  std::optional<markdown_table> table;
  if (shared.output == "md")
    table.emplace(out, std::vector<std::string>{"model", "size", "params", "backend", "threads", "test", "t/s"},
                  std::vector<int>{30, 10, 10, 16, 7, 13, 20}, "lrrlrrr");
  for (const int threads : shared.threads) {
    for (const speed_test& test : tests) {
      const json row = with_threads(threads, [&] { return measure(model, test, shared, options.warm_up, threads); });
      if (table) table->row(cells(row, test));
      rows.push_back(row);
    }
  }
  if (!table) out << rows.dump(2) << std::endl;
}

}  // namespace blockattn_bench
