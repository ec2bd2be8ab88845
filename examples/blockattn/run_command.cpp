// `blockattn run`: a prompt given as blocks, continued by the model.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "blocks_file.hpp"
#include "commands.hpp"
#include "engine.hpp"
#include "json_output.hpp"

namespace blockattn_command {
namespace {

namespace fs = std::filesystem;
using blockattn::cat;

std::vector<blockattn::text_block> make_prompt(const blockattn::model& model, const std::vector<std::string>& texts,
                                               const run_options& options) {
  if (options.chat) {
    if (texts.size() < 2)
      throw blockattn::argument_error(cat("[blocks] ", options.blocks_file,
                                          ": --chat needs at least 2 blocks, the system message and the question; got ",
                                          texts.size()));
    return model.chat().rag(texts.front(), {texts.begin() + 1, texts.end() - 1}, texts.back());
  }
  std::vector<blockattn::text_block> blocks;
  for (const std::string& text : texts) blocks.push_back(blockattn::text_block::raw(text));
  return blocks;
}

/// Whole or not at all: a regular file appears under its name only once it is complete.
void write_logits(const std::vector<float>& logits, const std::string& file) {
  std::error_code unknown;
  const fs::file_status status = fs::status(file, unknown);
  const bool replace = !fs::exists(status) || fs::is_regular_file(status);  // not: a pipe or a device
  const std::string target = replace ? cat(file, ".", ::getpid(), ".part") : file;
  std::ofstream out(target, std::ios::binary);
  out.write(reinterpret_cast<const char*>(logits.data()), static_cast<std::streamsize>(logits.size() * sizeof(float)));
  out.close();
  std::error_code failed;
  if (out && replace) fs::rename(target, file, failed);
  if (out && !failed) return;
  if (replace) fs::remove(target, unknown);
  throw blockattn::io_error(cat("[run] ", file, ": can't write the logits", failed ? cat(": ", failed.message()) : "",
                                ". Check the path and the free space."));
}

void print_summary(const blockattn::generation_result& result) {
  const bool colour = wants_colour(STDERR_FILENO);
  char line[200];
  std::snprintf(
      line, sizeof(line),
      "prompt %lld tokens · blocks: %lld reused, %lld encoded · first token after %.1f ms · %.1f tokens/s · %s",
      static_cast<long long>(result.prompt_tokens), static_cast<long long>(result.blocks.reused),
      static_cast<long long>(result.blocks.encoded), result.ttft_ms, result.tokens_per_second,
      std::string(name(result.reason)).c_str());
  std::cerr << dim(line, colour) << '\n';
}

}  // namespace

void add_run(CLI::App& app, run_options& options) {
  add_model(app, options.model);
  add_tiers(app, options.model);
  app.add_option("--blocks", options.blocks_file, "JSON file {\"blocks\": [\"...\", \"final\"]}; - for standard input")
      ->required()
      ->type_name("FILE");
  add_plan(app, options.plan);
  add_sampling(app, options.sampling);
  app.add_option("--logits", options.logits_file,
                 "Write the logits after the prompt: float32, little-endian, one for each token of the vocabulary")
      ->type_name("FILE");
  app.add_flag("--chat", options.chat,
               "Apply the chat template: the first block is the system message, the last one the user's");
  add_common(app, options.common);
  app.footer("Example:\n  blockattn run -m model.gguf --blocks prompt.json -n 64 --mode block --json");
}

int run_run(const run_options& options) {
  const std::vector<std::string> texts = read_blocks(options.blocks_file);
  return with_threads(options.common.threads, [&] {
    const blockattn::model model = open_model(options.model);
    const auto cache = make_cache(options.model, model);
    const std::vector<blockattn::text_block> prompt = make_prompt(model, texts, options);
    const interrupt_guard guard;
    progress_bar bar("reading the prompt", "tokens", !options.common.json);
    const blockattn::generation_options generation = make_generation(options.plan, options.sampling, bar);
    const bool stream = !options.common.json;
    blockattn::session session(model, cache);
    const blockattn::generation_result result = session.generate(prompt, generation, [&](std::string_view piece) {
      bar.finish();
      if (stream) std::cout << piece << std::flush;
      return !interrupt_guard::interrupted();
    });
    bar.finish();
    // A second session over the same cache: a hit gives the same bits as a miss.
    if (!options.logits_file.empty() && !interrupt_guard::interrupted())
      write_logits(blockattn::session(model, cache).logits(prompt, generation.plan), options.logits_file);
    if (stream) {
      std::cout << std::endl;
      print_summary(result);
    } else {
      json line = to_json(result);
      line["repacked_bytes"] = model.repacked_bytes();
      print_json(line);
    }
    return interrupt_guard::interrupted() ? exit_interrupted : 0;
  });
}

}  // namespace blockattn_command
