// What a type of keys and values costs: perplexity of a final block over passages, and the divergence from float32 keys and values.
//
// The text is cut into prompts of `context` + `scored` tokens. The context is encoded in blocks of `passage` tokens, each on its own as in a cache; the scored
// tokens are the final block. Every type sees the same tokens in the same arithmetic. The mean Kullback-Leibler divergence of the next-token distributions
// from those of float32 keys and values tells differences that perplexity hides in its noise.
#pragma once

#include <iosfwd>

#include "arguments.hpp"

namespace blockattn_bench {

/// Measures all types and writes a row for each to `out`. Throws blockattn::error if the text is too short for one prompt.
void run_quality(const bench_options& shared, const quality_options& options, std::ostream& out);

}  // namespace blockattn_bench
