// `blockattn cache`: what a disk cache (a folder) or a pack (a file) holds, whether it is sound, and making it smaller.
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>

#include "blockattn/cache/lmdb_tier.hpp"
#include "blockattn/cache/pack.hpp"
#include "commands.hpp"
#include "engine.hpp"
#include "json_output.hpp"

namespace blockattn_command {
namespace {

namespace fs = std::filesystem;
using blockattn::cat;

json model_json(const blockattn::fingerprint128& model, const blockattn::fingerprint_parts& parts, std::size_t blocks, std::size_t bytes) {
  json identity = json::object();
  for (const auto& [name, value] : parts.parts) identity[name] = value;
  return {{"model", to_string(model)}, {"blocks", blocks}, {"bytes", bytes}, {"identity", identity}};
}

std::optional<blockattn::fingerprint128> asked_model(const cache_options& options) {
  if (options.model.empty()) return std::nullopt;
  const auto model = blockattn::parse_fingerprint(options.model);
  if (!model) throw blockattn::argument_error(cat("[cache] --model ", options.model, ": isn't a fingerprint; expected 32 hexadecimal digits, as 'blockattn cache stats' prints them"));
  return model;
}

/// Opens the store that is there, with a budget that evicts nothing.
blockattn::lmdb_store open_store(const cache_options& options) {
  const fs::path data = fs::path(options.path) / "data.mdb";
  if (!fs::exists(data)) throw blockattn::io_error(cat("[cache] ", options.path, ": no disk cache in it (data.mdb is missing). Give the folder that --disk-cache names."));
  return {options.path, std::max<std::size_t>(fs::file_size(data) * 2, std::size_t{64} << 20), warnings()};
}

json store_stats(const cache_options& options) {
  const auto store = open_store(options);
  std::map<blockattn::fingerprint128, std::pair<std::size_t, std::size_t>> sums;
  store.for_each([&](const blockattn::block_key& key, auto, const auto& use) {
    ++sums[key.model].first;
    sums[key.model].second += use.bytes;
  });
  json models = json::array();
  for (const auto& [model, parts] : store.models()) models.push_back(model_json(model, parts, sums[model].first, sums[model].second));
  const auto totals = store.totals();
  return {{"kind", "store"},  {"path", options.path}, {"file_bytes", fs::file_size(fs::path(options.path) / "data.mdb")}, {"blocks", totals.blocks}, {"bytes", totals.bytes}, {"pinned_bytes", totals.pinned_bytes},
          {"models", models}};
}

json pack_stats(const cache_options& options) {
  const blockattn::pack_file pack(options.path);
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < pack.blocks(); ++i) tokens += pack.entry(i).tokens;
  return {{"kind", "pack"}, {"path", options.path}, {"file_bytes", pack.size_bytes()}, {"blocks", pack.blocks()}, {"tokens", tokens},
          {"models", json::array({model_json(pack.model(), pack.identity(), pack.blocks(), pack.size_bytes())})}};
}

void print_stats(const json& stats, bool as_json) {
  if (as_json) return print_json(stats);
  std::cout << stats["path"].get<std::string>() << ": " << stats["blocks"] << " blocks, " << stats["file_bytes"].get<std::uint64_t>() / 1048576 << " MiB on disk\n";
  for (const json& model : stats["models"]) {
    std::cout << "  model " << model["model"].get<std::string>() << ": " << model["blocks"] << " blocks, " << model["bytes"].get<std::uint64_t>() / 1048576 << " MiB\n";
    for (const auto& [name, value] : model["identity"].items()) {
      std::string text = value.get<std::string>();
      if (text.size() > 70) text = text.substr(0, 67) + "...";
      std::cout << "    " << name << "  " << printable(text) << '\n';
    }
  }
  std::cout << std::flush;
}

int verify(const cache_options& options, bool folder) {
  progress_bar bar("verifying", folder ? "bytes" : "blocks", !options.common.json);
  const auto progress = [&](std::int64_t done, std::int64_t total) {
    bar.update(done, total);
    return !interrupt_guard::interrupted();
  };
  std::vector<blockattn::block_key> damaged;
  std::vector<std::string> problems;
  std::size_t blocks = 0;
  if (folder) {
    const auto report = open_store(options).verify(progress);
    damaged = report.damaged;
    problems = report.problems;
    blocks = report.totals.blocks;
  } else {
    const blockattn::pack_file pack(options.path);
    damaged = pack.verify(progress);
    blocks = pack.blocks();
  }
  bar.finish();
  json list = json::array();
  for (const auto& key : damaged) list.push_back(to_string(key));
  const bool clean = damaged.empty() && problems.empty();
  if (options.common.json)
    print_json({{"path", options.path}, {"blocks", blocks}, {"clean", clean}, {"damaged", list}, {"problems", problems}});
  else
    std::cout << options.path << ": " << blocks << " blocks, " << (clean ? std::string("all sound") : cat(damaged.size(), " damaged, ", problems.size(), " other problems")) << std::endl;
  for (const std::string& problem : problems) warn(cat("[cache] ", options.path, ": ", problem));
  return clean ? 0 : 1;
}

/// prune and clear: what is removed, and the file cut down if nobody else has it open.
int shrink(const cache_options& options) {
  std::size_t removed = 0, left = 0;
  {
    auto store = open_store(options);
    if (options.action == "clear")
      removed = store.clear(asked_model(options));
    else
      removed = store.prune(static_cast<std::uint64_t>(options.most_mb) << 20).size();
    left = store.totals().blocks;
  }
  const fs::path data = fs::path(options.path) / "data.mdb";
  const bool compacted = blockattn::compact_store(options.path, fs::file_size(data) * 2);
  if (!compacted) warn(cat("[cache] ", options.path, ": another process has it open, so the file stays as large as it is; its free space is used again"));
  if (options.common.json)
    print_json({{"path", options.path}, {"removed", removed}, {"blocks", left}, {"compacted", compacted}, {"file_bytes", fs::file_size(data)}});
  else
    std::cout << options.path << ": " << removed << " blocks removed, " << left << " left, " << fs::file_size(data) / 1048576 << " MiB on disk" << std::endl;
  return 0;
}

}  // namespace

void add_cache(CLI::App& app, cache_options& options) {
  app.require_subcommand(1);
  const auto action = [&](const char* name, const char* what) {
    CLI::App* sub = app.add_subcommand(name, what);
    sub->add_option("path", options.path, "Folder of a disk cache, or a pack")->required()->type_name("PATH");
    sub->add_flag("--json", options.common.json, "Print the result as one line of JSON");
    sub->callback([&options, name] { options.action = name; });
    return sub;
  };
  action("stats", "What it holds, by model");
  action("verify", "Reads every block and checks it; exit status 1 if one is damaged");
  action("prune", "Removes the least recently used blocks")->add_option("--max-mb", options.most_mb, "Most MiB of blocks that stay")->required()->check(CLI::Range(0, 1 << 24));
  action("clear", "Removes all blocks, pinned ones too")->add_option("--model", options.model, "Only this model's: its fingerprint, as stats prints it")->type_name("HASH");
  app.footer("Example:\n  blockattn cache stats ~/.cache/blockattn/blocks");
}

int run_cache(const cache_options& options) {
  const interrupt_guard guard;
  std::error_code failed;
  const bool folder = fs::is_directory(options.path, failed);
  if (!folder && !fs::exists(options.path, failed)) throw blockattn::io_error(cat("[cache] ", options.path, ": doesn't exist. Give the folder of a disk cache, or a pack."));
  if (options.action == "stats") {
    print_stats(folder ? store_stats(options) : pack_stats(options), options.common.json);
    return 0;
  }
  if (options.action == "verify") return verify(options, folder);
  if (!folder) throw blockattn::argument_error(cat("[cache] ", options.path, ": a pack isn't changed by '", options.action, "'; delete the file, or pack again"));
  return shrink(options);
}

}  // namespace blockattn_command
