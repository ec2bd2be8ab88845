// The subcommands. Each add_*() describes its flags to CLI11; each run_*() does the work and returns the exit status.
// Errors are exceptions: main() prints them.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "options.hpp"

namespace blockattn_command {

/// What `ask` tells the model, and what `pack` therefore packs.
inline constexpr const char* default_system =
    "You answer questions about the passages below. Answer in one short sentence, only with facts from the passages.";

/// `run`: a prompt given as blocks.
struct run_options {
  common_options common;
  model_options model;
  plan_options plan;
  sampling_flags sampling;
  std::string blocks_file;  ///< "-": standard input
  std::string logits_file;  ///< empty: none
  bool chat = false;
};
void add_run(CLI::App& app, run_options& options);
int run_run(const run_options& options);

/// `pack`: passages encoded once, into a file.
struct pack_options {
  common_options common;
  model_options model;
  std::string documents;      ///< a folder, as for ask; or
  std::string passages_file;  ///< JSON lines {"title", "text"}; "-": standard input
  std::string output;
  std::string system;
  int passage_tokens = 192;
};
void add_pack(CLI::App& app, pack_options& options);
int run_pack(const pack_options& options);

/// `cache`: what a disk cache or a pack holds.
struct cache_options {
  common_options common;
  std::string action;  ///< stats, verify, prune, clear
  std::string path;
  std::string model;  ///< fingerprint of the model whose blocks are meant; empty: all
  int most_mb = 0;    ///< prune: what may stay
};
void add_cache(CLI::App& app, cache_options& options);
int run_cache(const cache_options& options);

/// `tokenize`: text to token ids.
struct tokenize_options {
  common_options common;
  model_options model;
  bool jsonl = false;
  bool content = false;  ///< control tokens are ordinary text
  std::vector<std::string> text;
};
void add_tokenize(CLI::App& app, tokenize_options& options);
int run_tokenize(const tokenize_options& options);

/// `inspect`: what a checkpoint holds, or what the processor has.
struct inspect_options {
  common_options common;
  bool fingerprint = false;
  bool cpu = false;
  bool check = false;
  std::string path;
};
void add_inspect(CLI::App& app, inspect_options& options);
int run_inspect(const inspect_options& options);

/// `ask`: questions about a folder of documents.
struct ask_options {
  common_options common;
  model_options model;
  plan_options plan;
  sampling_flags sampling;
  std::string documents;
  std::string cache_directory;  ///< empty: default_cache_directory()
  std::string system;
  int passages = 3;
  int passage_tokens = 192;
  bool compare = false;
  std::vector<std::string> questions;
};
void add_ask(CLI::App& app, ask_options& options);
int run_ask(const ask_options& options);

/// The system message of `ask`, and of `eval`.
inline constexpr const char* default_system_message =
    "You answer questions about the passages below. Answer in one short sentence, only with facts from the passages.";

/// `eval`: a question set over plans.
struct eval_options {
  common_options common;
  model_options model;
  std::string questions, pool, state, svg, chat_template;
  std::string system = default_system_message;
  std::vector<std::string> plans, kv_types, adapters, stop;
  std::vector<int> passages = {10}, global_blocks = {1};
  int limit = 0;
  int tokens = 32;
  std::uint64_t seed = 1;
  bool check = false;
};
void add_eval(CLI::App& app, eval_options& options);
int run_eval(const eval_options& options);

}  // namespace blockattn_command
