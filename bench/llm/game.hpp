// A game's frame: a JSON state of many objects, of which a few change each frame, and a question about it.
//
// The state is cut by subtree (text/segment_json.hpp). Three ways to the first token of a frame, in turn, in one process: full attention anew; full attention that goes on
// from the longest common prefix with the frame before (a prefix cache); block attention, which encodes the changed blocks only. Before anything is timed,
// block attention over the cache must give the bits that it gives without one.
#pragma once

#include <iosfwd>

#include "arguments.hpp"

namespace blockattn_bench {

/// Throws blockattn::error if hits and misses differ.
void run_game(const bench_options& shared, const game_options& options, std::ostream& out);

}  // namespace blockattn_bench
