#include "game.hpp"

#include <algorithm>
#include <chrono>
#include <ostream>
#include <random>

#include "blockattn/generate/session.hpp"
#include "blockattn/text/segment_json.hpp"
#include "report.hpp"
#include "threads.hpp"

namespace blockattn_bench {
namespace {

using blockattn::cat;
using blockattn::index_t;
using blockattn::token_id;
using prompt_ids = std::vector<std::vector<token_id>>;

struct game {
  std::vector<int> health;
  std::mt19937 random{7};

  explicit game(int objects) : health(static_cast<std::size_t>(objects), 90) {}

  void next_frame(int changes) {
    for (int i = 0; i < changes; ++i) health[random() % health.size()] = 10 + static_cast<int>(random() % 80);
  }

  [[nodiscard]] std::string state() const {
    std::string text = "{\"objects\": [\n";
    for (std::size_t i = 0; i < health.size(); ++i)
      text += cat("  {\"id\": ", i, ", \"kind\": \"", i % 3 == 0 ? "guard" : "trader", "\", \"at\": [", i % 20, ", ", i / 20, "], \"health\": ", health[i], "}", i + 1 < health.size() ? ",\n" : "\n");
    return text + "]}\n";
  }
};

prompt_ids prompt_of(const blockattn::model& model, const game& g, int block_tokens) {
  prompt_ids result;
  const std::string state = g.state();
  for (const std::string_view block : blockattn::json_blocks(state, model.vocabulary(), block_tokens).blocks) result.push_back(model.vocabulary().encode(block, false));
  result.push_back(model.vocabulary().encode("Which guard has the least health? Answer with its id: "));
  return result;
}

std::vector<token_id> joined(const prompt_ids& blocks) {
  std::vector<token_id> result;
  for (const auto& block : blocks) result.insert(result.end(), block.begin(), block.end());
  return result;
}

template <class Work>
double milliseconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// Full attention that keeps the keys and values of the prefix that two frames share.
class prefix_cache {
 public:
  explicit prefix_cache(const blockattn::model& model) : model_(&model), tail_(model.make_tail()) {}

  void run(const std::vector<token_id>& ids) {
    const auto [end, other] = std::mismatch(ids_.begin(), ids_.end(), ids.begin(), ids.end());
    const auto shared = std::min<index_t>(end - ids_.begin(), static_cast<index_t>(ids.size()) - 1);
    tail_.truncate(shared);
    const auto rest = std::span(ids).subspan(static_cast<std::size_t>(shared));
    (void)model_->logits(model_->forward({rest, shared, {}, blockattn::hidden_rows::last}, tail_));
    ids_ = ids;
  }

 private:
  const blockattn::model* model_;
  blockattn::kv_tail tail_;
  std::vector<token_id> ids_;
};

void compare_answers(const blockattn::model& model, const std::shared_ptr<blockattn::block_cache>& cache, const prompt_ids& blocks) {
  (void)blockattn::session(model, cache).logits_of_ids(blocks);
  if (blockattn::session(model, cache).logits_of_ids(blocks) != blockattn::session(model, std::make_shared<blockattn::block_cache>(std::size_t{0})).logits_of_ids(blocks))
    throw blockattn::error("[game] the logits over cached blocks aren't those over blocks encoded anew: the times would mean nothing");
}

json measure(const blockattn::model& model, const bench_options& shared, const game_options& options, int threads) {
  game g(options.objects);
  const auto cache = std::make_shared<blockattn::block_cache>(std::size_t{2} << 30);
  const prompt_ids first = prompt_of(model, g, options.block_tokens);
  compare_answers(model, cache, first);
  prefix_cache prefix(model);
  prefix.run(joined(first));
  std::vector<double> full, by_prefix, block;
  index_t encoded = 0, blocks = 0;
  for (int i = 0; i < shared.repetitions; ++i) {
    g.next_frame(options.changes);
    const prompt_ids frame = prompt_of(model, g, options.block_tokens);
    blockattn::generation_result result;
    block.push_back(milliseconds([&] { (void)blockattn::session(model, cache).logits_of_ids(frame, {}, &result); }));
    by_prefix.push_back(milliseconds([&] { prefix.run(joined(frame)); }));
    full.push_back(milliseconds([&] { (void)blockattn::session(model).logits_of_ids(frame, blockattn::parse_plan("full")); }));
    encoded += result.blocks.encoded;
    blocks = result.blocks.total;
  }
  json row = common_row(model, shared, threads);
  row.update({{"n_ctx", joined(first).size()}, {"blocks", blocks}, {"blocks_encoded", static_cast<double>(encoded) / shared.repetitions}, {"full_ms", summarise(full).mean},
              {"prefix_ms", summarise(by_prefix).mean}, {"block_ms", summarise(block).mean}, {"samples_full_ms", full}, {"samples_prefix_ms", by_prefix}, {"samples_block_ms", block}});
  return row;
}

}  // namespace

void run_game(const bench_options& shared, const game_options& options, std::ostream& out) {
  const blockattn::model model = open_model(shared);
  (void)model.fingerprint();  // reads the weights
  json rows = json::array();
  for (const int threads : shared.threads) rows.push_back(with_threads(threads, [&] { return measure(model, shared, options, threads); }));
  if (shared.output != "md") {
    out << rows.dump(2) << std::endl;
    return;
  }
  for (const json& row : rows)
    out << cat(row["n_ctx"].dump(), " tokens, ", row["blocks"].dump(), " blocks, ", row["blocks_encoded"].dump(), " encoded a frame, ", row["n_threads"].dump(), " threads: full ",
               format("%.1f", row["full_ms"].get<double>()), " ms, prefix cache ", format("%.1f", row["prefix_ms"].get<double>()), " ms, block ", format("%.1f", row["block_ms"].get<double>()), " ms")
        << std::endl;
}

}  // namespace blockattn_bench
