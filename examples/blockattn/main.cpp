// The command `blockattn`. Exit status: 0 done, 1 an error (one line on standard error), 2 wrong usage, 130 ended by
// Ctrl-C.
#include <algorithm>
#include <cstring>
#include <exception>
#include <iostream>
#include <new>

#include "blockattn/core/error.hpp"
#include "blockattn/version.hpp"
#include "commands.hpp"
#include "interrupt.hpp"
#include "json_output.hpp"
#include "terminal.hpp"

namespace {

namespace command = blockattn_command;

/// One line on standard error; with --json also {"error": ...} on standard output.
int report(const std::string& message, bool as_json, int status) {
  std::string line = command::printable(message);
  std::replace(line.begin(), line.end(), '\n', ' ');
  if (as_json) command::print_json(command::error_json(line));
  std::cerr << "blockattn: " << line << std::endl;
  return status;
}

bool has_json_flag(int count, char** arguments) {
  return std::any_of(arguments, arguments + count, [](const char* a) { return std::strcmp(a, "--json") == 0; });
}

int usage_error(const CLI::App& app, const CLI::ParseError& e, int count, char** arguments) {
  if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
  std::cerr << "Run 'blockattn --help' or 'blockattn <subcommand> --help' for the flags and an example.\n";
  std::string message = e.what();
  if (app.get_subcommands().empty() && count > 1 && arguments[1][0] != '-')
    message = std::string("unknown subcommand '") + arguments[1] + "'; allowed: run, tokenize, inspect, ask, eval, pack, cache";
  return report("[usage] " + message, has_json_flag(count, arguments), 2);
}

}  // namespace

int main(int count, char** arguments) {
  CLI::App app("Ask your own documents, offline: a language model with Block-Attention on the CPU.", "blockattn");
  app.set_version_flag("--version", std::string("blockattn ") + blockattn::version_string);
  app.require_subcommand(1);
  app.footer("Example:\n  blockattn ask -m model.gguf --docs notes/ \"When does the last ferry leave?\"");
  command::run_options run;
  command::tokenize_options tokenize;
  command::inspect_options inspect;
  command::ask_options ask;
  command::pack_options pack;
  command::cache_options cache;
  command::eval_options eval;
  CLI::App& run_app = *app.add_subcommand("run", "Continue a prompt given as blocks");
  CLI::App& tokenize_app = *app.add_subcommand("tokenize", "Turn text into token ids");
  CLI::App& inspect_app = *app.add_subcommand("inspect", "Show metadata, tensors and sizes of a checkpoint");
  CLI::App& ask_app = *app.add_subcommand("ask", "Answer questions about a folder of documents");
  CLI::App& pack_app = *app.add_subcommand("pack", "Encode passages once, into a file to be used by run and ask");
  CLI::App& cache_app = *app.add_subcommand("cache", "Show, verify, prune or clear a disk cache or a pack");
  CLI::App& eval_app = *app.add_subcommand("eval", "Measure answers, operations and time under attention plans");
  command::add_run(run_app, run);
  command::add_tokenize(tokenize_app, tokenize);
  command::add_inspect(inspect_app, inspect);
  command::add_ask(ask_app, ask);
  command::add_pack(pack_app, pack);
  command::add_cache(cache_app, cache);
  command::add_eval(eval_app, eval);
  try {
    app.parse(count, arguments);
  } catch (const CLI::ParseError& e) {
    return usage_error(app, e, count, arguments);
  }
  const bool as_json = has_json_flag(count, arguments);
  try {
    int status = 0;
    if (run_app.parsed()) status = command::run_run(run);
    if (tokenize_app.parsed()) status = command::run_tokenize(tokenize);
    if (inspect_app.parsed()) status = command::run_inspect(inspect);
    if (ask_app.parsed()) status = command::run_ask(ask);
    if (pack_app.parsed()) status = command::run_pack(pack);
    if (cache_app.parsed()) status = command::run_cache(cache);
    if (eval_app.parsed()) status = command::run_eval(eval);
    if (!std::cout.flush()) return report("[output] standard output can't be written", false, 1);
    return status;
  } catch (const blockattn::cancelled_error& e) {
    return report(e.what(), as_json, command::exit_interrupted);
  } catch (const std::bad_alloc&) {
    return report("[memory] not enough memory. Use a smaller model, fewer passages or a smaller --cache-mb.", as_json,
                  1);
  } catch (const std::exception& e) {
    return report(e.what(), as_json, 1);
  }
}
