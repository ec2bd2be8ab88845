// The command's flags as plain values, and the functions that add them to a CLI11 application.
//
// Nothing here knows the engine: engine.hpp turns these values into the library's options.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace blockattn_command {

/// Flags of every subcommand.
struct common_options {
  bool json = false;
  int threads = 1;  ///< default: physical cores
};

/// Which checkpoint, and in which precision it is run.
struct model_options {
  std::string path;
  std::string precision = "fast";  ///< exact, fast
  std::string kv = "default";      ///< default, TYPE or KEYS:VALUES; see blockattn::parse_kv_types
  std::string repack = "on";       ///< on, off; see blockattn::load_options
  std::string quantize;            ///< q8_0, q4_0, or empty: as the weights are
  std::string quantized_file;      ///< where the quantised model is written; empty: nowhere
  std::string device = "cpu";      ///< cpu, cuda, auto
  int gpu_layers = -1;             ///< on a GPU: layers whose weights stay there, the first ones; -1: all
  int cache_mb = 512;              ///< byte budget of the block cache, MiB
  int host_mb = 0;                 ///< on a GPU: byte budget of pinned host memory for blocks that leave the device, MiB
  std::vector<std::string> packs;  ///< files that `pack` wrote, asked in this order
  std::string disk_cache;          ///< folder of blocks that survive the program; empty: none
  int disk_mb = 4096;              ///< most MiB of its file
  std::string redis;               ///< redis://[user:password@]host[:port][/database]; empty: none
  std::vector<std::string> lora;   ///< adapters, FILE or FILE:SCALE; "none" alone: no adapter, not by default either
};

/// What a token sees (see docs/command.md).
struct plan_options {
  std::string mode = "block";        ///< full, block
  std::string rotation = "queries";  ///< queries, keys
  int max_blocks = -1;               ///< -1: no limit
  int global_blocks = 1;
  std::string plan;  ///< NAME:key=value,... instead of all of these; see docs/plans.md
};

/// How tokens are chosen, and when to stop.
struct sampling_flags {
  int tokens = 128;
  float temperature = 0;
  int top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repeat_penalty = 1;
  std::uint64_t seed = 0;
  std::vector<std::string> stop;
};

/// Cores of the machine that this process may run on, hyper-threads counted once; at least 1.
[[nodiscard]] int physical_cores();

void add_common(CLI::App& app, common_options& options);
/// -m/--model alone: for subcommands that read the file without running the model.
void add_model_path(CLI::App& app, model_options& options);
/// FILE or FILE:SCALE as file and scale; 1 if there is no number after the last colon.
[[nodiscard]] std::pair<std::string, float> split_adapter(const std::string& text);
/// -m/--model, --lora, --quantize, --save-quantized, --precision, --kv, --cache-mb.
void add_model(CLI::App& app, model_options& options);
/// --pack, --disk-cache, --disk-mb, --redis.
void add_tiers(CLI::App& app, model_options& options);
void add_plan(CLI::App& app, plan_options& options);
void add_sampling(CLI::App& app, sampling_flags& options);

}  // namespace blockattn_command
