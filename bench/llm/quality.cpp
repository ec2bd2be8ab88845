#include "quality.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <ostream>
#include <sstream>

#include "report.hpp"
#include "threads.hpp"

namespace blockattn_bench {
namespace {

using blockattn::cat;
using blockattn::index_t;
using blockattn::token_id;

/// Tokens of the text in prompts of that length.
std::vector<std::vector<token_id>> prompts_of(const blockattn::tokenizer& tokenizer, const quality_options& options) {
  std::ifstream in(options.text, std::ios::binary);
  if (!in) throw blockattn::io_error(cat("[quality] can't read '", options.text, "'"));
  std::stringstream text;
  text << in.rdbuf();
  const std::vector<token_id> ids = tokenizer.encode(text.str(), false);
  const auto length = static_cast<std::size_t>(options.context + options.scored);
  std::vector<std::vector<token_id>> result;
  for (std::size_t at = 0; at + length <= ids.size() && result.size() < static_cast<std::size_t>(options.prompts); at += length)
    result.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(at), ids.begin() + static_cast<std::ptrdiff_t>(at + length));
  if (result.empty())
    throw blockattn::error(cat("[quality] '", options.text, "' has ", ids.size(), " tokens; one prompt needs ", length));
  return result;
}

/// Logits [scored, V] of the final block of one prompt.
std::vector<float> final_logits(const blockattn::model& model, const std::vector<token_id>& ids, const quality_options& options) {
  const std::span<const token_id> all(ids);
  std::vector<blockattn::placed_block> placed;
  for (index_t at = 0; at < options.context; at += options.passage) {
    const auto size = static_cast<std::size_t>(std::min<index_t>(options.passage, options.context - at));
    placed.push_back({model.encode(all.subspan(static_cast<std::size_t>(at), size)), at, false});
  }
  blockattn::kv_tail tail = model.make_tail();
  const auto last = all.subspan(static_cast<std::size_t>(options.context));
  return model.logits(model.forward({last, options.context, placed, blockattn::hidden_rows::all}, tail));
}

double log_sum(const float* logits, std::size_t n) {
  const double top = *std::max_element(logits, logits + n);
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) total += std::exp(static_cast<double>(logits[i]) - top);
  return top + std::log(total);
}

/// Sums over the scored tokens of all prompts.
struct quality_sums {
  double surprise = 0;    ///< -log p of the text
  double divergence = 0;  ///< from the reference
  double square = 0;      ///< of differences of surprise from the reference's, for the error of the ratio
  double reference = 0;   ///< surprise of the reference
  index_t tokens = 0;

  void add(const std::vector<token_id>& ids, index_t context, const std::vector<float>& expected, const std::vector<float>& logits, index_t vocabulary) {
    const auto v = static_cast<std::size_t>(vocabulary);
    for (std::size_t row = 0; (row + 1) * v < logits.size(); ++row) {
      const float* p = expected.data() + row * v;
      const float* q = logits.data() + row * v;
      const double log_p = log_sum(p, v), log_q = log_sum(q, v);
      for (std::size_t i = 0; i < v; ++i) divergence += std::exp(p[i] - log_p) * ((p[i] - log_p) - (q[i] - log_q));
      const auto next = static_cast<std::size_t>(ids[static_cast<std::size_t>(context) + row + 1]);
      const double before = log_p - p[next], now = log_q - q[next];
      reference += before;
      surprise += now;
      square += (now - before) * (now - before);
      ++tokens;
    }
  }
};

json row_of(const blockattn::model& model, const bench_options& options, const quality_sums& sums) {
  const auto n = static_cast<double>(sums.tokens);
  const double change = (sums.surprise - sums.reference) / n;
  json row = common_row(model, options, options.threads.front());
  row.update({{"kv", to_string(model.kv().types)},
              {"kv_bytes_per_token", model.kv().token_bytes()},
              {"n_scored", sums.tokens},
              {"perplexity", std::exp(sums.surprise / n)},
              {"perplexity_reference", std::exp(sums.reference / n)},
              {"perplexity_change", std::expm1(change)},
              {"perplexity_change_error", std::sqrt(std::max(sums.square / n - change * change, 0.0) / n)},
              {"mean_kl", sums.divergence / n}});
  return row;
}

/// One storage of keys and values that is measured.
struct candidate {
  bench_options options;
  blockattn::model model;
  quality_sums sums = {};
};

}  // namespace

void run_quality(const bench_options& shared, const quality_options& options, std::ostream& out) {
  bench_options with_f32 = shared;
  with_f32.kv = "f32";
  if (!options.reference.empty()) with_f32.precision = options.reference;
  const blockattn::model reference = open_model(with_f32);
  const auto prompts = prompts_of(reference.vocabulary(), options);
  std::vector<candidate> candidates;
  for (const std::string& type : options.types) {
    bench_options with_type = shared;
    with_type.kv = type;
    candidates.push_back({with_type, open_model(with_type)});
  }
  with_threads(shared.threads.front(), [&] {
    for (const auto& ids : prompts) {
      const std::vector<float> expected = final_logits(reference, ids, options);
      for (candidate& each : candidates) each.sums.add(ids, options.context, expected, final_logits(each.model, ids, options), reference.config().vocabulary);
    }
    return 0;
  });
  json rows = json::array();
  for (const candidate& each : candidates) rows.push_back(row_of(each.model, each.options, each.sums));
  if (shared.output != "md") {
    out << rows.dump(2) << std::endl;
    return;
  }
  markdown_table table(out, {"model", "isa", "kv", "bytes/token", "perplexity", "change", "mean KL"}, {30, 12, 12, 11, 10, 18, 9}, "lllrrrr");
  for (const json& row : rows)
    table.row({row["model"].get<std::string>(), row["isa"].get<std::string>(), row["kv"].get<std::string>(), row["kv_bytes_per_token"].dump(),
               format("%.3f", row["perplexity"].get<double>()),
               format("%+.2f \xc2\xb1 %.2f %%", 100 * row["perplexity_change"].get<double>(), 100 * row["perplexity_change_error"].get<double>()),
               format("%.6f", row["mean_kl"].get<double>())});
}

}  // namespace blockattn_bench
