// Time to first token: full attention over the whole prompt against a prompt whose passages are all cached.
//
// Same engine, same process, same prompt, repetitions taken in turn. Timed from the call to the first token:
// tokenising, hashing, cache look-ups, attention, logits and the choice of the token. Before anything is timed, the
// answers are compared: the logits of the cached prompt (hits) must be those of its first run (misses), bit for bit, or
// the program fails. Times of prompts whose passages weren't all reused are never reported.
#pragma once

#include <iosfwd>

#include "arguments.hpp"

namespace blockattn_bench {

/// Runs all lengths and writes their rows to `out`. Throws blockattn::error if hits and misses differ.
void run_ttft(const bench_options& shared, const ttft_options& options, std::ostream& out);

}  // namespace blockattn_bench
