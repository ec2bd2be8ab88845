#include "engine.hpp"

#include <unistd.h>

#include <iostream>
#include <optional>

#include "adapters.hpp"
#include "blockattn/cache/host_tier.hpp"
#include "blockattn/cache/lmdb_tier.hpp"
#include "blockattn/cache/pack.hpp"
#include "blockattn/cache/redis_tier.hpp"

namespace blockattn_command {
namespace {

/// The adapters that the flags name; none for "none".
std::vector<blockattn::adapter_file> asked_adapters(const model_options& options) {
  std::vector<blockattn::adapter_file> result;
  for (const std::string& adapter : options.lora) {
    if (adapter == "none") {
      if (options.lora.size() == 1) return {};
      throw blockattn::argument_error("[lora] 'none' beside other adapters; give --lora none alone, or only files");
    }
    const auto [path, scale] = split_adapter(adapter);
    result.push_back({path, scale});
  }
  return result;
}

/// What was asked for by name must open; where blocks are only kept, a warning is enough: the answer is the same.
blockattn::tier_list open_tiers(const model_options& options, const blockattn::model& model) {
  blockattn::tier_list tiers;
  if (model.on_gpu() && options.host_mb > 0)
    tiers.push_back(std::make_shared<blockattn::host_tier>(model.memory(), static_cast<std::size_t>(options.host_mb) << 20, warnings()));
  for (const std::string& pack : options.packs)
    tiers.push_back(std::make_shared<blockattn::pack_tier>(pack, warnings()));
  if (!options.disk_cache.empty()) {
    try {
      tiers.push_back(std::make_shared<blockattn::lmdb_tier>(blockattn::lmdb_options{
          options.disk_cache, static_cast<std::size_t>(options.disk_mb) << 20, std::size_t{256} << 20, warnings()}));
    } catch (const blockattn::error& e) {
      warn(blockattn::cat(e.what(), " It goes on without the disk cache."));
    }
  }
  if (!options.redis.empty())
    tiers.push_back(std::make_shared<blockattn::redis_tier>(blockattn::parse_redis_url(options.redis, warnings())));
  return tiers;
}

}  // namespace

blockattn::log_sink warnings() {
  return [](blockattn::log_level level, std::string_view line) {
    if (level == blockattn::log_level::warning) warn(line);
  };
}

blockattn::model open_model(const model_options& options) {
  blockattn::load_options load;
  load.compute = options.precision == "exact" ? blockattn::precision::exact : blockattn::precision::fast;
  if (options.kv != "default") load.kv = blockattn::parse_kv_types(options.kv);
  load.repack = options.repack == "on";
  load.device = options.device == "cuda"   ? blockattn::compute_device::cuda
                : options.device == "auto" ? blockattn::compute_device::automatic
                                           : blockattn::compute_device::cpu;
  load.adapters = asked_adapters(options);
  load.log = warnings();
  if (options.gpu_layers >= 0) {
    load.gpu_layers = options.gpu_layers;
    load.log = [](blockattn::log_level level, std::string_view line) {  // where the weights lie, too
      if (level == blockattn::log_level::warning) warn(line);
      if (level == blockattn::log_level::info) note(line);
    };
  }
  progress_bar bar("quantising", "bytes");
  if (!options.quantize.empty()) {
    load.quantize = options.quantize == "q4_0" ? blockattn::dtype::q4_0 : blockattn::dtype::q8_0;
    load.quantized_file = options.quantized_file;
    load.progress = [&bar](std::int64_t done, std::int64_t total) {
      bar.update(done, total);
      return !interrupt_guard::interrupted();
    };
  }
  blockattn::model result = blockattn::model::load(options.path, load);
  bar.finish();
  return result;
}

adapted_model open_adapted_model(const model_options& options) {
  adapted_model result{open_model(options)};
  for (const blockattn::adapter_file& adapter : asked_adapters(options))
    result.adapters.push_back(adapter.path.string());
  if (!options.lora.empty()) return result;
  const std::vector<shipped_adapter> shipped = shipped_adapters(adapter_folders());
  const std::string base = shipped.empty() ? "" : to_string(result.model.weights());
  for (const shipped_adapter& adapter : shipped)
    if (adapter.base == base) return {result.model.with_adapters({{adapter.file, 1}}), {adapter.file.string()}, true};
  return result;
}

std::shared_ptr<blockattn::block_cache> make_cache(const model_options& options, const blockattn::model& model) {
  return std::make_shared<blockattn::block_cache>(static_cast<std::size_t>(options.cache_mb) << 20, warnings(),
                                                  open_tiers(options, model));
}

blockattn::attention_plan make_plan(const plan_options& options) {
  if (!options.plan.empty()) return blockattn::parse_plan(options.plan);
  blockattn::attention_plan plan;
  plan.mode = options.mode == "full" ? blockattn::attention_mode::full : blockattn::attention_mode::block;
  plan.rotate = options.rotation == "keys" ? blockattn::rotation::keys : blockattn::rotation::queries;
  plan.max_blocks = options.max_blocks;
  plan.global_blocks = options.global_blocks;
  return plan;
}

blockattn::generation_options make_generation(const plan_options& plan, const sampling_flags& sampling,
                                              progress_bar& bar) {
  blockattn::generation_options options;
  options.max_tokens = sampling.tokens;
  options.sampling.temperature = sampling.temperature;
  options.sampling.top_k = sampling.top_k;
  options.sampling.top_p = sampling.top_p;
  options.sampling.min_p = sampling.min_p;
  options.sampling.repetition_penalty = sampling.repeat_penalty;
  options.sampling.seed = sampling.seed;
  options.stop = sampling.stop;
  options.plan = make_plan(plan);
  options.cancelled = [] { return interrupt_guard::interrupted(); };
  options.progress = [&bar](std::int64_t done, std::int64_t total) {
    bar.update(done, total);
    return !interrupt_guard::interrupted();
  };
  return options;
}

void note(std::string_view line) { std::cerr << "blockattn: " << printable(line) << std::endl; }

void warn(std::string_view line) {
  std::cerr << "blockattn: " << warning_colour("warning:", wants_colour(STDERR_FILENO)) << ' ' << printable(line)
            << std::endl;
}

}  // namespace blockattn_command
