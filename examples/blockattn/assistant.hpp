// A folder of documents that answers questions: index, retrieval, and one block cache that all questions share.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blockattn/generate/session.hpp"
#include "commands.hpp"
#include "document_index.hpp"
#include "engine.hpp"

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
  /// Loads the model, with the adapter that comes with the program for it, and brings the index up to date, with a
  /// progress bar. Warnings go to standard error. Throws what the model and the index throw.
  explicit assistant(const ask_options& options);

  assistant(const assistant&) = delete;
  assistant& operator=(const assistant&) = delete;

  /// Retrieves and answers; a new conversation each time. The first time, an adapter that nobody asked for is named on
  /// standard error. Pieces of the answer go to `on_text`. Throws argument_error
  /// for an empty question.
  answer ask(const std::string& question, const blockattn::text_callback& on_text);

  [[nodiscard]] const index_report& index() const { return report_; }
  /// Files of the adapters that the model runs with.
  [[nodiscard]] const std::vector<std::string>& adapters() const { return opened_.adapters; }
  [[nodiscard]] blockattn::cache_stats cache() const { return cache_->stats(); }

 private:
  void update_index();
  [[nodiscard]] double measure_full(const std::vector<std::string>& passages, const std::string& question);

  const ask_options& options_;
  adapted_model opened_;
  const blockattn::model& model_ = opened_.model;
  bool adapter_is_news_ = opened_.by_default;
  std::shared_ptr<blockattn::block_cache> cache_;
  document_index index_;
  index_report report_;
};

}  // namespace blockattn_command
