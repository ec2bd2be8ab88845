// The subcommands. Each add_*() describes its flags to CLI11; each run_*() does the work and returns the exit status.
// Errors are exceptions: main() prints them.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "options.hpp"

namespace blockattn_command {

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

}  // namespace blockattn_command
