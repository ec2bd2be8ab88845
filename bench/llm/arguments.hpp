// The flags of blockattn_bench. Those that llama-bench has too have its names and its meaning.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "blockattn/model/model.hpp"

namespace blockattn_bench {

/// What both benchmarks share.
struct bench_options {
  std::string model;
  std::vector<int> threads;  ///< each is a row of its own
  int repetitions = 5;
  std::string output = "md";  ///< md, json
  std::string precision = "fast";
  std::string kv = "default";
  std::string device = "cpu";  ///< cpu, cuda
  int gpu_layers = -1;         ///< on a GPU: layers whose weights stay there, the first ones; -1: all
};

/// pp and tg.
struct speed_options {
  std::vector<int> prompts = {512};
  std::vector<int> generations = {128};
  bool warm_up = true;
};

/// Time to first token, full attention against cached passages, and if `cold`, against passages that must be encoded, too.
struct ttft_options {
  std::vector<int> lengths = {512, 1024, 2048, 4096, 8192};
  int query = 50;
  int passage = 150;
  bool cold = false;
};

/// Perplexity and divergence by type of keys and values.
struct quality_options {
  std::string text;
  std::string reference;  ///< precision of the reference; empty: that of the rest
  std::vector<std::string> types = {"f16", "bf16", "q8_0", "q8_0:q4_0", "q5_h:q4_h", "q4_h", "q4_0"};
  int context = 600;
  int passage = 150;
  int scored = 150;
  int prompts = 8;  ///< at most
};

/// Operations, time and bytes of attention plans.
struct plans_options {
  std::vector<std::string> plans = {"full", "block", "local", "prefixed", "promptcache", "promptcache:align=left", "pcw", "superposition", "ape", "epic:k=16", "cacheblend:ratio=0.15", "kvlink:n=1"};
  int length = 8192;
  int query = 50;
  int passage = 150;
  int shuffled = 10;  ///< passages that are put in several orders
  int orders = 10;
};

void add_shared(CLI::App& app, bench_options& options);
void add_speed(CLI::App& app, speed_options& options);
void add_ttft(CLI::App& app, ttft_options& options);
void add_quality(CLI::App& app, quality_options& options);
void add_plans(CLI::App& app, plans_options& options);

/// Options of `game`.
struct game_options {
  int objects = 300;
  int changes = 2;        ///< objects that change each frame
  int block_tokens = 64;  ///< most tokens of a block
};
void add_game(CLI::App& app, game_options& options);

[[nodiscard]] blockattn::model open_model(const bench_options& options);

/// Cores that this process may run on.
[[nodiscard]] int default_threads();

}  // namespace blockattn_bench
