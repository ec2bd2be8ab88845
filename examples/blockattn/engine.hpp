// From the command's flags to the library's options, and the frame in which every command computes.
#pragma once

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "interrupt.hpp"
#include "options.hpp"
#include "terminal.hpp"

namespace blockattn_command {

/// Runs `work` on `threads` threads of oneTBB, also where the machine has fewer cores.
template <class Work>
auto with_threads(int threads, Work&& work) {
  const oneapi::tbb::global_control limit(oneapi::tbb::global_control::max_allowed_parallelism,
                                          static_cast<std::size_t>(threads));
  oneapi::tbb::task_arena arena(threads);
  return arena.execute(std::forward<Work>(work));
}

/// Opens the model with the adapters that were asked for. Its warnings go to standard error. Throws argument_error for
/// "none" beside other adapters.
[[nodiscard]] blockattn::model open_model(const model_options& options);

/// A model and the files of the adapters on it.
struct adapted_model {
  blockattn::model model;
  std::vector<std::string> adapters = {};
  bool by_default = false;  ///< the program chose the adapter
};
/// As open_model(); if no flag says otherwise and an adapter for exactly this checkpoint comes with the program, with
/// that one.
[[nodiscard]] adapted_model open_adapted_model(const model_options& options);
[[nodiscard]] std::shared_ptr<blockattn::block_cache> make_cache(const model_options& options, const blockattn::model& model);
[[nodiscard]] blockattn::attention_plan make_plan(const plan_options& options);

/// Options of a generation; Ctrl-C cancels it, `bar` shows the prefill.
[[nodiscard]] blockattn::generation_options make_generation(const plan_options& plan, const sampling_flags& sampling,
                                                            progress_bar& bar);

/// A sink that shows warnings and drops the rest.
[[nodiscard]] blockattn::log_sink warnings();

/// "blockattn: ..." on standard error, one line.
void note(std::string_view line);

/// "blockattn: warning: ..." on standard error, one line, coloured on a terminal.
void warn(std::string_view line);

}  // namespace blockattn_command
