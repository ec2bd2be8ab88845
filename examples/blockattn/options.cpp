#include "options.hpp"

#include "blockattn/core/kv.hpp"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

namespace blockattn_command {
namespace {

/// One number of /sys/devices/system/cpu/cpuN/topology, or -1.
int topology(int cpu, const char* what) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/" + what);
  int value = -1;
  file >> value;
  return file ? value : -1;
}

constexpr int most_threads = 1024;

}  // namespace

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  std::set<std::pair<int, int>> cores;
  int logical = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    ++logical;
    const int core = topology(cpu, "core_id");
    if (core >= 0) cores.emplace(topology(cpu, "physical_package_id"), core);
  }
  return std::clamp(cores.empty() ? logical : static_cast<int>(cores.size()), 1, most_threads);
}

void add_common(CLI::App& app, common_options& options) {
  options.threads = physical_cores();
  app.add_flag("--json", options.json, "Print the result as one line of JSON");
  app.add_option("-t,--threads", options.threads, "Threads to compute with (default: physical cores)")
      ->check(CLI::Range(1, most_threads))
      ->capture_default_str();
}

void add_model_path(CLI::App& app, model_options& options) {
  app.add_option("-m,--model", options.path, "Checkpoint: a GGUF file, or a folder with safetensors files")
      ->required()
      ->type_name("MODEL");
}

std::pair<std::string, float> split_adapter(const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon + 1 == text.size()) return {text, 1.0F};
  std::istringstream number(text.substr(colon + 1));
  float scale = 1;
  if (!(number >> scale) || !number.eof()) return {text, 1.0F};
  return {text.substr(0, colon), scale};
}

void add_model(CLI::App& app, model_options& options) {
  add_model_path(app, options);
  app.add_option(
         "--lora", options.lora,
         "LoRA adapter in GGUF format and how strongly it is applied (1 as trained); several may be given; none: not "
         "even the one that ask takes by itself")
      ->type_name("FILE[:SCALE]")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  CLI::Option* quantize = app.add_option("--quantize", options.quantize, "Quantise float weights at load")
                              ->check(CLI::IsMember({"q8_0", "q4_0"}));
  app.add_option("--save-quantized", options.quantized_file,
                 "Also write the quantised model there, as a GGUF file to be given as MODEL next time")
      ->needs(quantize)
      ->type_name("FILE");
  app.add_option("--precision", options.precision, "Arithmetic of activations: exact is float32 throughout")
      ->check(CLI::IsMember({"exact", "fast"}))
      ->capture_default_str();
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
  app.add_option("--repack", options.repack,
                 "Keep a copy of quantised weights in the order of the kernels: faster, for as much memory as the file takes")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app.add_option("--device", options.device, "Where to compute: cpu, cuda (a GPU), or auto (a GPU if there is one)")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->capture_default_str();
  app.add_option("--gpu-layers", options.gpu_layers,
                 "On a GPU: so many layers, the first ones, keep their weights there, the others' come from host memory for each use (default: all)")
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--cache-mb", options.cache_mb, "Most memory that cached blocks may take, in MiB; 0: no cache")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  app.add_option("--host-mb", options.host_mb, "On a GPU: most host memory for blocks that find no room on the device any more, in MiB; 0: none")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
}

void add_tiers(CLI::App& app, model_options& options) {
  app.add_option("--pack", options.packs, "Passages that 'blockattn pack' has encoded; several may be given")
      ->type_name("FILE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--disk-cache", options.disk_cache, "Folder in which encoded blocks are kept for later calls")
      ->type_name("DIR");
  app.add_option("--disk-mb", options.disk_mb, "Most MiB that the disk cache may take")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--redis", options.redis,
                 "Redis server that keeps encoded blocks for many machines: redis://[user:password@]host[:port][/db]")
      ->type_name("URL");
}

void add_plan(CLI::App& app, plan_options& options) {
  app.add_option("--mode", options.mode,
                 "full: every token sees all before it; block: passages see themselves alone and are reused")
      ->check(CLI::IsMember({"full", "block"}))
      ->capture_default_str();
  app.add_option("--rotation", options.rotation,
                 "How cached keys are moved: rotate the queries (nothing is copied) or the keys")
      ->check(CLI::IsMember({"queries", "keys"}))
      ->capture_default_str();
  app.add_option("--max-blocks", options.max_blocks,
                 "Only the first N blocks are reusable, the rest joins the final block; -1: no limit")
      ->check(CLI::Range(-1, 1 << 30))
      ->capture_default_str();
  app.add_option("--global-blocks", options.global_blocks, "The last N blocks see everything before them")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  CLI::Option* plan = app.add_option("--plan", options.plan, "Attention plan: NAME or NAME:key=value,... (docs/plans.md), instead of the flags above");
  for (const char* other : {"--mode", "--rotation", "--max-blocks", "--global-blocks"}) plan->excludes(other);
}

void add_sampling(CLI::App& app, sampling_flags& options) {
  app.add_option("-n,--tokens", options.tokens, "Most tokens to generate")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--temp", options.temperature, "Temperature; 0 takes the most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-k", options.top_k, "Sample from the K most likely tokens; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--top-p", options.top_p, "Sample from the most likely tokens that together have probability P")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--min-p", options.min_p, "Drop tokens less likely than P times the most likely one")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--repeat-penalty", options.repeat_penalty, "Divide the logits of recent tokens; 1: off")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Seed of the sampling; the same seed gives the same text")
      ->capture_default_str();
  app.add_option("--stop", options.stop, "End the answer before this text; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
}

}  // namespace blockattn_command
