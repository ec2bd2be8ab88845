#include "arguments.hpp"

#include <oneapi/tbb/info.h>

namespace blockattn_bench {
namespace {

constexpr int most_tokens = 1 << 24;

}  // namespace

int default_threads() { return oneapi::tbb::info::default_concurrency(); }

void add_shared(CLI::App& app, bench_options& options) {
  options.threads = {default_threads()};
  app.add_option("-m,--model", options.model, "Checkpoint in GGUF format")->required()->type_name("FILE");
  app.add_option("-t,--threads", options.threads, "Threads, one row of results for each")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("-r,--repetitions", options.repetitions, "Timed runs of each test")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("-o,--output", options.output, "Form of the results")
      ->check(CLI::IsMember({"md", "json"}))
      ->capture_default_str();
  app.add_option("--precision", options.precision, "Arithmetic of activations")
      ->check(CLI::IsMember({"exact", "fast"}))
      ->capture_default_str();
  app.add_option("--device", options.device, "Where to compute: cpu, or cuda (a GPU)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--gpu-layers", options.gpu_layers, "On a GPU: so many layers keep their weights there, the others' come from host memory for each use (default: all)")
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--kv", options.kv, "Storage of keys and values: f32, f16, bf16, q8_0, q5_h, q4_0, q4_h, or two as KEYS:VALUES")
      ->check([](const std::string& text) -> std::string {
        try {
          if (text != "default") (void)blockattn::parse_kv_types(text);
          return "";
        } catch (const blockattn::argument_error& e) {
          return e.what();
        }
      })
      ->capture_default_str();
}

void add_speed(CLI::App& app, speed_options& options) {
  app.add_option("-p,--n-prompt", options.prompts, "Prompt lengths of the pp tests; 0: none")
      ->delimiter(',')
      ->check(CLI::Range(0, most_tokens))
      ->capture_default_str();
  app.add_option("-n,--n-gen", options.generations, "Tokens of the tg tests; 0: none")
      ->delimiter(',')
      ->check(CLI::Range(0, most_tokens))
      ->capture_default_str();
  app.add_flag("!--no-warmup", options.warm_up, "Leave out the untimed first run of each test");
}

void add_game(CLI::App& app, game_options& options) {
  app.add_option("--objects", options.objects, "Objects of the game's state")->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--changes", options.changes, "Objects that change each frame")->check(CLI::Range(0, 100000))->capture_default_str();
  app.add_option("--block-tokens", options.block_tokens, "Most tokens of a block")->check(CLI::Range(4, 4096))->capture_default_str();
}

void add_ttft(CLI::App& app, ttft_options& options) {
  app.add_option("--lengths", options.lengths, "Tokens of the whole prompt, the query counted")
      ->delimiter(',')
      ->check(CLI::Range(2, most_tokens))
      ->capture_default_str();
  app.add_option("--query", options.query, "Tokens of the final block")
      ->check(CLI::Range(1, most_tokens))
      ->capture_default_str();
  app.add_option("--passage", options.passage, "Tokens of a passage")
      ->check(CLI::Range(1, most_tokens))
      ->capture_default_str();
  app.add_flag("--cold", options.cold, "Time prompts with nothing cached, too");
}

void add_quality(CLI::App& app, quality_options& options) {
  app.add_option("--text", options.text, "Text that is predicted")->required()->type_name("FILE");
  app.add_option("--reference", options.reference, "Precision of what the rest is compared with, whose keys and values are f32 (default: that of the rest)")
      ->check(CLI::IsMember({"exact", "fast"}));
  app.add_option("--types", options.types, "Types of keys and values, each TYPE or KEYS:VALUES")->delimiter(',')->capture_default_str();
  app.add_option("--context", options.context, "Tokens before the scored ones, in passages")
      ->check(CLI::Range(0, most_tokens))
      ->capture_default_str();
  app.add_option("--passage", options.passage, "Tokens of a passage")->check(CLI::Range(1, most_tokens))->capture_default_str();
  app.add_option("--scored", options.scored, "Tokens of the final block")->check(CLI::Range(2, most_tokens))->capture_default_str();
  app.add_option("--prompts", options.prompts, "At most so many prompts")->check(CLI::Range(1, 100000))->capture_default_str();
}

void add_plans(CLI::App& app, plans_options& options) {
  app.add_option("--plan", options.plans, "A plan, NAME[:key=value,...]; may be given several times (default: one of each)");
  app.add_option("--length", options.length, "Tokens of the whole prompt")->check(CLI::Range(2, most_tokens))->capture_default_str();
  app.add_option("--query", options.query, "Tokens of the final block")->check(CLI::Range(1, most_tokens))->capture_default_str();
  app.add_option("--passage", options.passage, "Tokens of a passage")->check(CLI::Range(1, most_tokens))->capture_default_str();
  app.add_option("--shuffled", options.shuffled, "Passages that are put in several orders, for the bytes")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--orders", options.orders, "Orders")->check(CLI::Range(1, 1000))->capture_default_str();
}

blockattn::model open_model(const bench_options& options) {
  blockattn::load_options load;
  load.compute = options.precision == "exact" ? blockattn::precision::exact : blockattn::precision::fast;
  if (options.device == "cuda") load.device = blockattn::compute_device::cuda;
  if (options.gpu_layers >= 0) load.gpu_layers = options.gpu_layers;
  if (options.kv != "default") load.kv = blockattn::parse_kv_types(options.kv);
  return blockattn::model::load(options.model, load);
}

}  // namespace blockattn_bench
