#include "assistant.hpp"

#include <utility>

#include "blockattn/text/segmenter.hpp"
#include "blockattn/text/utf8.hpp"
#include "engine.hpp"

namespace blockattn_command {
namespace {

using blockattn::cat;

std::filesystem::path index_file(const ask_options& options) {
  const std::filesystem::path folder = options.cache_directory.empty() ? default_cache_directory(options.documents)
                                                                       : std::filesystem::path(options.cache_directory);
  return folder / "index.sqlite";
}

/// Names what the split of a document depends on besides the document.
std::string index_format(const blockattn::model& model, const ask_options& options) {
  return cat("sections1;", model.file().string("tokenizer.ggml.pre").value_or("?"), '/',
             model.vocabulary().vocab_size(), ';', options.passage_tokens);
}

/// Valid UTF-8 without white space at its ends.
std::string cleaned(const std::string& question) {
  constexpr const char* blanks = " \t\r\n\v\f";
  std::string text = blockattn::to_valid_utf8(question).text;
  text.erase(0, std::min(text.find_first_not_of(blanks), text.size()));
  text.erase(text.find_last_not_of(blanks) + 1);
  return text;
}

}  // namespace

assistant::assistant(const ask_options& options)
    : options_(options),
      opened_(open_adapted_model(options.model)),
      cache_(make_cache(options.model, opened_.model)),
      index_(index_file(options), index_format(model_, options)) {
  update_index();
  if (make_plan(options_.plan).mode == blockattn::attention_mode::block)
    (void)model_.fingerprint();  // reads the weights once, before any question is timed
}

void assistant::update_index() {
  progress_bar bar("indexing", "files", !options_.common.json);
  const auto split = [this](std::string_view body) {
    return blockattn::paragraph_blocks(body, model_.vocabulary(), options_.passage_tokens);
  };
  report_ = index_.update(options_.documents, split, [&](std::int64_t done, std::int64_t total) {
    bar.update(done, total);
    return !interrupt_guard::interrupted();
  });
  bar.finish();
  for (const std::string& line : report_.warnings) warn(line);
}

answer assistant::ask(const std::string& question, const blockattn::text_callback& on_text) {
  answer result;
  result.question = cleaned(question);
  if (result.question.empty())
    throw blockattn::argument_error("[ask] the question is empty; ask something about the documents");
  result.found = index_.search(result.question, options_.passages);
  if (result.found.kind == match_kind::beginnings)
    warn("[ask] no passage has a word of the question; passages with words that begin alike are used");
  if (result.found.kind == match_kind::nothing)
    warn("[ask] no passage has a word of the question; the model answers without the documents");
  if (std::exchange(adapter_is_news_, false))
    note(cat("using ", std::filesystem::path(adapters().front()).filename().string(),
             ", made for this model and block mode; --lora none: without it"));
  std::vector<std::string> passages;
  for (auto hit = result.found.hits.rbegin(); hit != result.found.hits.rend(); ++hit)
    passages.push_back(passage_text(hit->text));  // best last
  progress_bar bar("reading the passages", "tokens", !options_.common.json);
  blockattn::session conversation(model_, cache_);
  result.result = conversation.ask(options_.system, passages, result.question,
                                   make_generation(options_.plan, options_.sampling, bar), [&](std::string_view piece) {
                                     bar.finish();
                                     return on_text(piece) && !interrupt_guard::interrupted();
                                   });
  bar.finish();
  if (options_.compare && result.result.reason != blockattn::finish_reason::cancelled)
    result.full_ttft_ms = measure_full(passages, result.question);
  return result;
}

double assistant::measure_full(const std::vector<std::string>& passages, const std::string& question) {
  progress_bar bar("the same with full attention", "tokens", !options_.common.json);
  blockattn::generation_options generation = make_generation(options_.plan, options_.sampling, bar);
  generation.plan = blockattn::parse_plan("full");
  generation.max_tokens = 1;
  blockattn::session cold(model_, std::make_shared<blockattn::block_cache>(std::size_t{0}));
  const auto result = cold.ask(options_.system, passages, question, generation);
  if (result.reason == blockattn::finish_reason::cancelled)
    throw blockattn::cancelled_error("[ask] the comparison was cancelled");
  return result.ttft_ms;
}

}  // namespace blockattn_command
