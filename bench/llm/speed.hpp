// pp and tg as llama-bench means them: tokens a second of a prompt from an empty context (logits of its last position
// only), and of single-token steps from an empty context. No sampling, no text.
//
// Before anything is timed, the two ways of computing are compared: a prompt at once and the same tokens one by one.
#pragma once

#include <iosfwd>

#include "arguments.hpp"

namespace blockattn_bench {

/// Runs all tests and writes their rows to `out`. Throws what the model throws (context_error: a test longer than the
/// context), and blockattn::error if the answers differ.
void run_speed(const bench_options& shared, const speed_options& options, std::ostream& out);

}  // namespace blockattn_bench
