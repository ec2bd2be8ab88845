// `blockattn ask`: questions about a folder of documents, from the command line, a terminal or a pipe.
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "assistant.hpp"
#include "engine.hpp"
#include "json_output.hpp"

namespace blockattn_command {
namespace {

const char* name_of(match_kind kind) {
  switch (kind) {
    case match_kind::words: return "words";
    case match_kind::beginnings: return "beginnings";
    default: return "nothing";
  }
}

json answer_json(const answer& a, const assistant& from) {
  json result = {{"question", a.question}};
  result.update(to_json(a.result));
  json sources = json::array();
  for (const passage_hit& hit : a.found.hits)
    sources.push_back(
        {{"file", hit.file}, {"title", hit.text.title}, {"passage", hit.text.body}, {"score", hit.score}});
  result["match"] = name_of(a.found.kind);
  result["sources"] = sources;
  result["adapters"] = from.adapters();
  if (a.full_ttft_ms)
    result["compare"] = {{"full_ttft_ms", *a.full_ttft_ms},
                         {"ttft_ms", a.result.ttft_ms},
                         {"speedup", *a.full_ttft_ms / a.result.ttft_ms}};
  const index_report& index = from.index();
  result["index"] = {{"passages", index.passages}, {"indexed", index.indexed},       {"unchanged", index.unchanged},
                     {"removed", index.removed},   {"unreadable", index.unreadable}, {"replaced", index.replaced},
                     {"rebuilt", index.rebuilt}};
  const blockattn::cache_stats cache = from.cache();
  result["cache"] = {{"blocks", cache.blocks}, {"bytes", cache.bytes},   {"byte_budget", cache.byte_budget},
                     {"hits", cache.hits},     {"misses", cache.misses}, {"evictions", cache.evictions}};
  return result;
}

template <class... Values>
std::string format(const char* pattern, Values... values) {
  char text[240];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

/// What follows an answer: sources, times, and the comparison if there is one.
void print_notes(const answer& a) {
  const bool colour = wants_colour(STDOUT_FILENO);
  const auto& r = a.result;
  std::string sources;
  for (const passage_hit& hit : a.found.hits)
    sources += (sources.empty() ? "" : "\n             ") + hit.file + " (" + hit.text.title + ")";
  std::cout << dim("  sources    " + printable(sources.empty() ? "none" : sources), colour) << '\n';
  std::cout << dim(format("  prompt     %lld tokens, blocks: %lld reused, %lld encoded",
                          static_cast<long long>(r.prompt_tokens), static_cast<long long>(r.blocks.reused),
                          static_cast<long long>(r.blocks.encoded)),
                   colour)
            << '\n';
  std::cout << dim(format("  first token after %.1f ms, then %.1f tokens/s", r.ttft_ms, r.tokens_per_second), colour)
            << '\n';
  if (a.full_ttft_ms)
    std::cout << dim(format("  full attention: first token after %.1f ms, %.1f times as long", *a.full_ttft_ms,
                            *a.full_ttft_ms / r.ttft_ms),
                     colour)
              << '\n';
  if (r.reason == blockattn::finish_reason::cancelled) std::cout << dim("  interrupted", colour) << '\n';
}

void ask_and_print(assistant& documents, const std::string& question, bool as_json) {
  const answer a = documents.ask(question, [as_json](std::string_view piece) {
    if (!as_json) std::cout << printable(piece) << std::flush;
    return true;
  });
  if (as_json) {
    print_json(answer_json(a, documents));
  } else {
    std::cout << "\n\n";
    print_notes(a);
    std::cout << std::endl;
  }
}

int ask_given(assistant& documents, const ask_options& options) {
  for (const std::string& question : options.questions) {
    if (!options.common.json && options.questions.size() > 1)
      std::cout << bold("> " + printable(question), wants_colour(STDOUT_FILENO)) << '\n';
    ask_and_print(documents, question, options.common.json);
    if (interrupt_guard::interrupted()) return exit_interrupted;
  }
  return 0;
}

/// One line of a terminal: an error is shown and the next question may be asked. False to leave.
bool ask_on_terminal(assistant& documents, const std::string& line, bool as_json) {
  if (line == "/quit" || line == "/exit") return false;
  if (line.find_first_not_of(" \t\r") == std::string::npos) return true;
  interrupt_guard::clear();  // a Ctrl-C at the prompt was not meant for this answer
  try {
    ask_and_print(documents, line, as_json);
  } catch (const blockattn::error& e) {
    std::cerr << "blockattn: " << printable(e.what()) << std::endl;
  }
  return true;
}

int converse(assistant& documents, bool as_json) {
  const std::string prompt = bold("> ", wants_colour(STDOUT_FILENO));
  std::cout << documents.index().passages << " passages of " << documents.index().indexed + documents.index().unchanged
            << " files. Ask a question; Ctrl-C ends an answer, /quit or Ctrl-D leaves.\n";
  line_reader lines(STDIN_FILENO);
  std::string line;
  for (;;) {
    interrupt_guard::clear();
    std::cout << prompt << std::flush;
    const read_status status = lines.read_line(line);
    if (status == read_status::end) break;
    if (status == read_status::interrupted)
      std::cout << '\n';
    else if (!ask_on_terminal(documents, line, as_json))
      return 0;
  }
  std::cout << std::endl;
  return 0;
}

/// Questions from a pipe or a file, one a line; empty lines are passed over.
int ask_lines(assistant& documents, bool as_json) {
  line_reader lines(STDIN_FILENO);
  std::string line;
  bool any = false;
  for (;;) {
    const read_status status = lines.read_line(line);
    if (status == read_status::interrupted || interrupt_guard::interrupted()) return exit_interrupted;
    if (status == read_status::end) break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    any = true;
    if (!as_json) std::cout << "> " << printable(line) << '\n';
    ask_and_print(documents, line, as_json);
  }
  if (!any)
    throw blockattn::argument_error(
        "[ask] no question; give it as an argument, one a line on standard input, or run on a terminal");
  return interrupt_guard::interrupted() ? exit_interrupted : 0;
}

}  // namespace

void add_ask(CLI::App& app, ask_options& options) {
  options.system = default_system_message;
  options.sampling.tokens = 96;
  add_model(app, options.model);
  add_tiers(app, options.model);
  app.add_option("--docs", options.documents, "Folder of .txt and .md files")->required()->type_name("DIR");
  app.add_option("question", options.questions, "Questions; without one: interactive, or one a line from a pipe")
      ->type_name("QUESTION");
  app.add_option("-k,--passages", options.passages, "Passages to retrieve")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_flag("--compare", options.compare, "Measure full attention on the same prompt too");
  app.add_option("--passage-tokens", options.passage_tokens,
                 "Most tokens of a passage's body; another number indexes the folder anew")
      ->check(CLI::Range(16, 100000))
      ->capture_default_str();
  app.add_option("--system", options.system, "System message")->type_name("TEXT");
  app.add_option("--cache-dir", options.cache_directory,
                 "Folder of the index (default: ${XDG_CACHE_HOME:-~/.cache}/blockattn/<hash of DIR>)")
      ->type_name("DIR");
  add_plan(app, options.plan);
  add_sampling(app, options.sampling);
  add_common(app, options.common);
  app.footer("Example:\n  blockattn ask -m model.gguf --docs notes/ \"When does the last ferry leave?\" --compare");
}

int run_ask(const ask_options& options) {
  return with_threads(options.common.threads, [&] {
    const interrupt_guard guard;
    assistant documents(options);
    if (!options.questions.empty()) return ask_given(documents, options);
    if (::isatty(STDIN_FILENO) == 1) return converse(documents, options.common.json);
    return ask_lines(documents, options.common.json);
  });
}

}  // namespace blockattn_command
