// `blockattn tokenize`: text to token ids, with the checkpoint's own tokenizer. The weights aren't touched.
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "blockattn/core/error.hpp"
#include "blockattn/io/open_checkpoint.hpp"
#include "blockattn/text/tokenizer.hpp"
#include "blockattn/text/utf8.hpp"
#include "commands.hpp"
#include "engine.hpp"
#include "json_output.hpp"

namespace blockattn_command {
namespace {

using blockattn::cat;

std::vector<blockattn::token_id> ids_of(const blockattn::tokenizer& tokenizer, const std::string& text,
                                        const tokenize_options& options) {
  return tokenizer.encode(text, !options.content);
}

/// One JSON string a line in, one array of ids a line out.
void tokenize_lines(const blockattn::tokenizer& tokenizer, const tokenize_options& options) {
  std::string line;
  for (std::int64_t number = 1; std::getline(std::cin, line); ++number) {
    const json text = json::parse(line, nullptr, false);
    if (!text.is_string())
      throw blockattn::format_error(
          cat("[tokenize] line ", number, ": not a JSON string; --jsonl takes one JSON string a line"));
    std::cout << json(ids_of(tokenizer, text.get<std::string>(), options)).dump() << '\n';
  }
  std::cout << std::flush;
}

std::string given_text(const tokenize_options& options) {
  std::string text;
  for (const std::string& word : options.text) text += (text.empty() ? "" : " ") + word;
  if (options.text.empty()) text.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  const blockattn::utf8_result valid = blockattn::to_valid_utf8(text);
  if (valid.replaced > 0)
    warn(cat("[tokenize] ", valid.replaced, " invalid UTF-8 sequence", valid.replaced == 1 ? "" : "s",
             " replaced by U+FFFD"));
  return valid.text;
}

void tokenize_text(const blockattn::tokenizer& tokenizer, const tokenize_options& options) {
  const std::vector<blockattn::token_id> ids = ids_of(tokenizer, given_text(options), options);
  if (!options.common.json) {
    for (std::size_t i = 0; i < ids.size(); ++i) std::cout << (i == 0 ? "" : " ") << ids[i];
    std::cout << std::endl;
    return;
  }
  json pieces = json::array();
  for (const blockattn::token_id id : ids) pieces.push_back(std::string(tokenizer.bytes(id)));
  print_json({{"token_ids", ids}, {"tokens", pieces}, {"count", ids.size()}});
}

}  // namespace

void add_tokenize(CLI::App& app, tokenize_options& options) {
  add_model_path(app, options.model);
  app.add_flag("--jsonl", options.jsonl,
               "Read one JSON string a line from standard input, print one array of ids a line");
  app.add_flag("--content", options.content, "Treat control tokens such as <|im_end|> in the text as ordinary text");
  app.add_option("text", options.text, "Text; standard input, whole and as it is, if none is given")->type_name("TEXT");
  add_common(app, options.common);
  app.footer(
      "Example:\n  blockattn tokenize -m model.gguf \"Hello, world\"\n  echo '\"Hello, world\"' | blockattn tokenize "
      "-m model.gguf --jsonl");
}

int run_tokenize(const tokenize_options& options) {
  if (options.jsonl && !options.text.empty())
    throw blockattn::argument_error("[tokenize] --jsonl reads standard input; give either --jsonl or TEXT");
  const blockattn::checkpoint file = blockattn::open_checkpoint(options.model.path);
  const auto tokenizer = blockattn::tokenizer::from_gguf(file);
  if (options.jsonl)
    tokenize_lines(tokenizer, options);
  else
    tokenize_text(tokenizer, options);
  return 0;
}

}  // namespace blockattn_command
