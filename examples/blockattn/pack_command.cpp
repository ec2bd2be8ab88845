// `blockattn pack`: encodes the passages of a corpus once, as `ask` would, into one file. May be interrupted and goes on.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <set>

#include "blockattn/cache/pack_writer.hpp"
#include "blockattn/ops/parallel.hpp"
#include "blockattn/text/segmenter.hpp"
#include "commands.hpp"
#include "documents.hpp"
#include "engine.hpp"
#include "json_output.hpp"
#include "passages.hpp"
#include "passages_file.hpp"

namespace blockattn_command {
namespace {

namespace fs = std::filesystem;
using blockattn::cat;
using clock = std::chrono::steady_clock;

/// A block to encode.
struct corpus_block {
  blockattn::block_key key;
  std::vector<blockattn::token_id> ids;
};

/// All passages of the folder, as the index of `ask` has them.
std::vector<passage> passages_of_folder(const blockattn::model& model, const pack_options& options) {
  const folder_listing listing = list_documents(options.documents);
  for (const std::string& line : listing.warnings) warn(line);
  const auto split = [&](std::string_view body) { return blockattn::paragraph_blocks(body, model.vocabulary(), options.passage_tokens); };
  std::vector<passage> passages;
  for (const document_file& document : listing.files) {
    if (interrupt_guard::interrupted()) throw blockattn::cancelled_error("[pack] interrupted; nothing was written");
    const document_text text = to_text(read_bytes(document.path));
    for (passage& p : split_document(text.text, document.name, split)) passages.push_back(std::move(p));
  }
  if (passages.empty()) throw blockattn::argument_error(cat("[documents] ", options.documents, ": no .txt or .md file with text"));
  return passages;
}

/// Token ids of a block, the first of a prompt with BOS where a session sets it.
std::vector<blockattn::token_id> ids_of(const blockattn::model& model, const blockattn::text_block& block, bool first) {
  auto ids = model.vocabulary().encode(block);
  const auto bos = model.vocabulary().bos();
  if (first && model.vocabulary().adds_bos() && bos && (ids.empty() || ids.front() != *bos)) ids.insert(ids.begin(), *bos);
  return ids;
}

/// The blocks that prompts over these passages have but for their last one: the system's and each passage's, once each. A
/// passage's block is the same in any prompt, so they are built some at a time.
std::vector<corpus_block> corpus_blocks(const blockattn::model& model, const std::vector<passage>& passages, const pack_options& options) {
  constexpr std::size_t group = 16;
  std::vector<corpus_block> result;
  std::set<blockattn::block_key> seen;
  for (std::size_t first = 0; first < passages.size(); first += group) {
    std::vector<std::string> texts;
    for (std::size_t i = first; i < std::min(first + group, passages.size()); ++i)
      texts.push_back(passages[i].title.empty() ? passages[i].body : passage_text(passages[i]));
    auto blocks = model.chat().rag(options.system, texts, "?");
    blocks.pop_back();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      auto ids = ids_of(model, blocks[i], i == 0);
      const auto key = blockattn::make_block_key(model.fingerprint(), ids);
      if (seen.insert(key).second) result.push_back({key, std::move(ids)});
    }
  }
  if (result.empty()) throw blockattn::format_error("[pack] this model's chat template can't be cut into blocks: nothing of a prompt can be reused");
  return result;
}

struct pack_report {
  std::int64_t tokens = 0, encoded = 0, encoded_tokens = 0;
  double seconds = 0;
};

/// Shows how far it is and when it will be done: a bar on a terminal, a line now and then elsewhere.
class pack_progress {
 public:
  pack_progress(std::int64_t total_tokens, bool quiet) : bar_("packing", "tokens", !quiet), quiet_(quiet), total_(total_tokens) {}

  void done(std::int64_t tokens) {
    done_ += tokens;
    const double seconds = std::chrono::duration<double>(clock::now() - start_).count();
    const auto left = static_cast<long long>(static_cast<double>(total_ - done_) * seconds / static_cast<double>(std::max<std::int64_t>(done_, 1)));
    char label[64];
    std::snprintf(label, sizeof(label), "packing, %lld:%02lld left", left / 60, left % 60);
    bar_.relabel(label);
    bar_.update(done_, total_);
    if (quiet_ || clock::now() < next_ || ::isatty(STDERR_FILENO) == 1) return;
    next_ = clock::now() + std::chrono::seconds(10);
    note(cat(label, ", ", done_, " of ", total_, " tokens"));
  }
  void finish() { bar_.finish(); }

 private:
  progress_bar bar_;
  bool quiet_;
  std::int64_t total_, done_ = 0;
  clock::time_point start_ = clock::now(), next_ = start_ + std::chrono::seconds(10);
};

/// Encodes what the pack lacks, some blocks at a time, and writes each group before the next.
pack_report encode_missing(const blockattn::model& model, const std::vector<corpus_block>& blocks, blockattn::pack_writer& writer, bool quiet) {
  constexpr std::size_t group = 16;
  pack_report report;
  std::vector<const corpus_block*> missing;
  for (const corpus_block& block : blocks) {
    report.tokens += static_cast<std::int64_t>(block.ids.size());
    if (writer.contains(block.key)) continue;
    missing.push_back(&block);
    report.encoded_tokens += static_cast<std::int64_t>(block.ids.size());
  }
  pack_progress progress(report.encoded_tokens, quiet);
  const auto start = clock::now();
  for (std::size_t first = 0; first < missing.size(); first += group) {
    const std::size_t count = std::min(group, missing.size() - first);
    std::vector<std::span<const blockattn::token_id>> ids;
    for (std::size_t i = 0; i < count; ++i) ids.emplace_back(missing[first + i]->ids);
    std::vector<std::shared_ptr<const blockattn::kv_block>> encoded(count);
    const auto keep = [&](std::size_t i, std::shared_ptr<const blockattn::kv_block> block) { encoded[i] = std::move(block); };
    blockattn::with_team([&] { model.encode(ids, keep, {{}, [] { return interrupt_guard::interrupted(); }}); });
    for (std::size_t i = 0; i < count; ++i) {
      writer.add(missing[first + i]->key, *encoded[i]);
      progress.done(static_cast<std::int64_t>(missing[first + i]->ids.size()));
      ++report.encoded;
    }
  }
  progress.finish();
  report.seconds = std::chrono::duration<double>(clock::now() - start).count();
  return report;
}

void print_report(const pack_options& options, const adapted_model& opened, const std::vector<passage>& passages, const blockattn::pack_writer& writer, const pack_report& report) {
  const double rate = report.seconds > 0 ? static_cast<double>(report.encoded_tokens) / report.seconds : 0;
  if (options.common.json) {
    print_json({{"file", options.output},
                {"model", to_string(opened.model.fingerprint())},
                {"adapters", opened.adapters},
                {"passages", passages.size()},
                {"blocks", writer.blocks()},
                {"taken_over", writer.taken_over()},
                {"encoded", report.encoded},
                {"tokens", report.tokens},
                {"bytes", fs::file_size(options.output)},
                {"seconds", report.seconds},
                {"tokens_per_second", rate}});
    return;
  }
  std::cout << options.output << ": " << writer.blocks() << " blocks of " << passages.size() << " passages, " << report.tokens << " tokens, " << (fs::file_size(options.output) >> 20)
            << " MiB; " << report.encoded << " encoded now, " << writer.taken_over() << " taken over, " << static_cast<std::int64_t>(rate) << " tokens/s" << std::endl;
}

int pack(const pack_options& options) {
  const interrupt_guard guard;
  const adapted_model opened = open_adapted_model(options.model);
  if (opened.by_default)
    note(cat("packing with ", fs::path(opened.adapters.front()).filename().string(), ", as ask does; --lora none: without it"));
  const auto passages = options.documents.empty() ? read_passages(options.passages_file) : passages_of_folder(opened.model, options);
  const auto blocks = corpus_blocks(opened.model, passages, options);
  std::vector<blockattn::block_key> wanted;
  for (const corpus_block& block : blocks) wanted.push_back(block.key);
  blockattn::pack_writer writer(options.output, opened.model.fingerprint(), opened.model.identity(), wanted);
  if (writer.taken_over() > 0 && !options.common.json) note(cat("goes on with ", writer.taken_over(), " of ", blocks.size(), " blocks that are there already"));
  pack_report report;
  try {
    report = encode_missing(opened.model, blocks, writer, options.common.json);
  } catch (const blockattn::cancelled_error&) {
    throw blockattn::cancelled_error(cat("[pack] interrupted; ", writer.blocks(), " of ", blocks.size(), " blocks are kept in ", options.output, ".part. Run it again to go on."));
  }
  writer.finish();
  print_report(options, opened, passages, writer, report);
  return 0;
}

}  // namespace

void add_pack(CLI::App& app, pack_options& options) {
  options.system = default_system;
  add_model(app, options.model);
  auto* documents = app.add_option("--docs", options.documents, "Folder of .txt and .md files, split as ask does")->type_name("DIR");
  auto* passages = app.add_option("--passages", options.passages_file, "JSON lines {\"title\", \"text\"}, a passage each; - for standard input")->type_name("FILE");
  documents->excludes(passages);
  app.add_option("-o,--output", options.output, "The pack; until it is complete, FILE.part")->required()->type_name("FILE");
  app.add_option("--passage-tokens", options.passage_tokens, "Most tokens of a passage's body, as for ask")->check(CLI::Range(16, 100000))->capture_default_str();
  app.add_option("--system", options.system, "System message, as for ask")->type_name("TEXT");
  add_common(app, options.common);
  app.footer("Example:\n  blockattn pack -m model.gguf --docs notes/ -o notes.kvpack\n  blockattn ask -m model.gguf --docs notes/ --pack notes.kvpack \"When does the last ferry leave?\"");
}

int run_pack(const pack_options& options) {
  if (options.documents.empty() && options.passages_file.empty())
    throw blockattn::argument_error("[pack] nothing to pack; give --docs DIR or --passages FILE");
  return with_threads(options.common.threads, [&] { return pack(options); });
}

}  // namespace blockattn_command
