// blockattn_cachebench: what the tiers of the cache cost and bring.
//   zipf   hit ratio over a Zipf-distributed stream of requests, by budget (simulated blocks, or real ones)
//   ttft   time to the first token of a new process over a disk cache, against blocks in memory
//   kv     bytes, encoding rate, perplexity and answers by type of keys and values
#include <oneapi/tbb/global_control.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

#include "cachebench.hpp"

namespace cachebench {

blockattn::model open_model(const options& o) {
  blockattn::load_options load;
  load.kv = blockattn::parse_kv_types(o.kv);
  if (!o.lora.empty()) load.adapters.push_back({o.lora, 1});
  return blockattn::model::load(o.model, load);
}

std::vector<blockattn::token_id> passage_ids(const blockattn::model& m, std::uint64_t number, int tokens) {
  std::vector<blockattn::token_id> ids;
  std::uint64_t state = number * 0x9e3779b97f4a7c15U + 1;
  const auto most = static_cast<std::uint64_t>(m.vocabulary().vocab_size() - 2000);
  for (int t = 0; t < tokens; ++t) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    ids.push_back(static_cast<blockattn::token_id>(1000 + (state >> 33) % most));
  }
  return ids;
}

}  // namespace cachebench

int main(int count, char** arguments) {
  using namespace cachebench;
  CLI::App app("What the tiers of the cache cost and bring. Prints JSON lines.", "blockattn_cachebench");
  app.require_subcommand(1);
  options o;
  const auto common = [&](CLI::App* sub, bool model) {
    auto* m = sub->add_option("-m,--model", o.model, "Checkpoint (GGUF)");
    if (model) m->required();
    sub->add_option("-t,--threads", o.threads, "Threads")->check(CLI::Range(1, 1024));
    sub->add_option("--lora", o.lora, "Adapter");
    return sub;
  };
  CLI::App* zipf = common(app.add_subcommand("zipf", "Hit ratio by budget"), false);
  zipf->add_option("--requests", o.requests, "Requests")->check(CLI::Range(1, 10000000));
  zipf->add_option("--passages", o.passages, "Passages")->check(CLI::Range(10, 1000000));
  zipf->add_option("--exponent", o.exponent, "Of the distribution");
  zipf->add_option("--passage", o.passage, "Tokens of a passage (with a model)");
  CLI::App* ttft = common(app.add_subcommand("ttft", "Time to first token over memory and over a disk cache"), true);
  ttft->add_option("--disk", o.disk, "Folder of the disk cache")->required();
  ttft->add_option("--tokens", o.tokens, "Tokens of the prompt");
  ttft->add_option("--passage", o.passage, "Tokens of a passage");
  ttft->add_option("--query", o.query, "Tokens of the question");
  ttft->add_option("--kv", o.kv, "Type of keys and values");
  ttft->add_option("-r", o.runs, "Runs");
  CLI::App* kv = common(app.add_subcommand("kv", "Types of keys and values compared"), true);
  kv->add_option("--questions", o.questions, "JSON lines {question, answers, title, text}")->required();
  kv->add_option("--kv", o.kvs, "Types of keys and values; may be given several times")->capture_default_str();
  kv->add_option("--count", o.count, "Questions");
  kv->add_option("--passages", o.passages, "Passages of a prompt")->default_val(5);
  CLI11_PARSE(app, count, arguments);
  const oneapi::tbb::global_control limit(oneapi::tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(o.threads));
  try {
    if (zipf->parsed()) return run_zipf(o);
    if (ttft->parsed()) return run_ttft(o);
    return run_kv(o);
  } catch (const std::exception& e) {
    std::cerr << "blockattn_cachebench: " << e.what() << '\n';
    return 1;
  }
}
