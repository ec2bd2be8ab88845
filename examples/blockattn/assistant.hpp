// A folder of documents that answers questions: index, retrieval, and one block cache that all questions share.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "commands.hpp"
#include "document_index.hpp"

namespace blockattn_command {

/// An answer and where it came from.
struct answer {
  std::string question;
  blockattn::generation_result result;
  search_result found;  ///< best first; the prompt has them best last
  std::optional<double>
      full_ttft_ms;  ///< time to the first token of the same prompt under full attention, measured on a new session
};

class assistant {
 public:
  /// Loads the model and brings the index up to date, with a progress bar. Warnings go to standard error. Throws what
  /// the model and the index throw.
  explicit assistant(const ask_options& options);

  /// Retrieves and answers; a new conversation each time. Pieces of the answer go to `on_text`. Throws argument_error
  /// for an empty question.
  answer ask(const std::string& question, const blockattn::text_callback& on_text);

  [[nodiscard]] const index_report& index() const { return report_; }
  [[nodiscard]] blockattn::cache_stats cache() const { return cache_->stats(); }

 private:
  void update_index();
  [[nodiscard]] double measure_full(const std::vector<std::string>& passages, const std::string& question);

  const ask_options& options_;
  blockattn::model model_;
  std::shared_ptr<blockattn::block_cache> cache_;
  document_index index_;
  index_report report_;
};

}  // namespace blockattn_command
