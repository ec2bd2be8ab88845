// What attention plans cost: operations and time to the first token of one prompt, everything cached that a plan can reuse and nothing cached, and the
// bytes that the cache holds once the same passages have been asked about in several orders.
#pragma once

#include <iosfwd>

#include "arguments.hpp"

namespace blockattn_bench {

/// A row for each plan. The first block of the prompt stands for the system block and stays in its place. Throws argument_error for unknown plans, and for
/// those that the model's family can't do.
void run_plans(const bench_options& shared, const plans_options& options, std::ostream& out);

}  // namespace blockattn_bench
