#include "engine.hpp"

#include <unistd.h>

#include <iostream>
#include <optional>

namespace blockattn_command {

blockattn::model open_model(const model_options& options) {
  blockattn::load_options load;
  load.compute = options.precision == "exact" ? blockattn::precision::exact : blockattn::precision::fast;
  if (options.kv == "f32") load.kv = blockattn::dtype::f32;
  if (options.kv == "f16") load.kv = blockattn::dtype::f16;
  if (options.kv == "bf16") load.kv = blockattn::dtype::bf16;
  for (const std::string& adapter : options.lora) {
    const auto [path, scale] = split_adapter(adapter);
    load.adapters.push_back({path, scale});
  }
  load.log = [](blockattn::log_level level, std::string_view line) {
    if (level == blockattn::log_level::warning) warn(line);
  };
  return blockattn::model::load(options.path, load);
}

std::shared_ptr<blockattn::block_cache> make_cache(const model_options& options) {
  return std::make_shared<blockattn::block_cache>(static_cast<std::size_t>(options.cache_mb) << 20,
                                                  [](blockattn::log_level level, std::string_view line) {
                                                    if (level == blockattn::log_level::warning) warn(line);
                                                  });
}

blockattn::attention_plan make_plan(const plan_options& options) {
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

void warn(std::string_view line) {
  std::cerr << "blockattn: " << warning_colour("warning:", wants_colour(STDERR_FILENO)) << ' ' << printable(line)
            << std::endl;
}

}  // namespace blockattn_command
