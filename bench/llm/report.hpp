// Rows of results and how they are written: Markdown with llama-bench's columns, or a JSON array of rows with its
// names.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "arguments.hpp"

namespace blockattn_bench {

using json = nlohmann::ordered_json;

/// Mean and sample standard deviation (0 for one sample).
struct statistic {
  double mean = 0;
  double deviation = 0;
};
[[nodiscard]] statistic summarise(const std::vector<double>& samples);

/// What every row says of where it was measured: build, command, cpu_info, backend, isa, model, model_filename,
/// model_size, model_n_params, n_threads, type_k, type_v, precision, test_time.
[[nodiscard]] json common_row(const blockattn::model& model, const bench_options& options, int threads);

/// The command line as it was given, for the rows.
void remember_command(int count, char** arguments);

/// Short name of the model as in llama-bench's first column: architecture, size label, type of most weights.
[[nodiscard]] std::string model_name(const blockattn::model& model);

/// Writes a Markdown table: `alignment` has one of 'l', 'r' a column. Rows are printed as they come, so that a long run
/// shows its progress.
class markdown_table {
 public:
  markdown_table(std::ostream& out, const std::vector<std::string>& header, std::vector<int> widths,
                 std::string alignment);
  void row(const std::vector<std::string>& cells);

 private:
  std::ostream* out_;
  std::vector<int> widths_;
  std::string alignment_;
};

/// printf into a string.
[[nodiscard]] std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

}  // namespace blockattn_bench
