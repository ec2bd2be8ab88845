// What an evaluation has measured: answers, rows of a table, JSON and a plot.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json_output.hpp"

namespace blockattn_command {

/// A mean and the half-width of its 95 % interval (normal), in points of 100.
struct interval {
  double value = 0, half = 0;
};
/// Of 0 and 1, or of their differences; the half-width of fewer than two values is 0.
[[nodiscard]] interval with_interval(const std::vector<double>& values);

/// One answer and what it cost.
struct eval_answer {
  std::string text;
  bool hit = false;
  double flops = 0;           ///< to the first token, with all in the cache that the plan keeps there
  double flops_first = 0;     ///< when the question was asked first
  double ttft_ms = 0, ttft_first_ms = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t bytes = 0;     ///< of the blocks that the prompt reads
};

/// One configuration: what a row of the table is.
struct eval_configuration {
  std::string plan;
  int passages = 10;
  int global_blocks = 1;
  std::string kv, adapter;
  bool exact = true;

  /// Names it in the state file.
  [[nodiscard]] std::string key() const;
};

struct eval_row {
  eval_configuration configuration;
  std::vector<eval_answer> answers;  ///< of questions 0, 1, …
};

/// Rows as JSON; the difference to the first row is paired, over the questions that both have.
[[nodiscard]] json rows_json(const std::vector<eval_row>& rows);

/// The same as a table of text.
[[nodiscard]] std::string rows_table(const std::vector<eval_row>& rows);

/// best_subspan_em over FLOPs to the first token (logarithmic), each row a point with its interval and its name.
[[nodiscard]] std::string rows_svg(const std::vector<eval_row>& rows);

/// Answers on disk, one a line, appended as they come, so that an evaluation that was ended goes on where it was.
class eval_state {
 public:
  /// Without a file (""), nothing is kept. `setup` names everything that answers depend on beside the configuration: another one is an argument_error. A last
  /// line that was cut short is dropped. Throws io_error, format_error.
  eval_state(std::string file, const std::string& setup);
  ~eval_state();
  eval_state(const eval_state&) = delete;
  eval_state& operator=(const eval_state&) = delete;

  [[nodiscard]] const eval_answer* find(const std::string& configuration, std::size_t question) const;
  void keep(const std::string& configuration, std::size_t question, const eval_answer& answer);

 private:
  void read(const std::string& setup);
  void append(const json& line);

  std::string file_;
  int descriptor_ = -1;
  std::map<std::pair<std::string, std::size_t>, eval_answer> answers_;
};

}  // namespace blockattn_command
