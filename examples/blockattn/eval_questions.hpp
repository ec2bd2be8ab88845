// A question set: questions, the answers that count, and the one passage that holds them; and the prompts made of it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "passages.hpp"

namespace blockattn_command {

class database;

struct eval_question {
  std::string question;
  std::vector<std::string> answers;
  passage gold;
};

/// Questions of a file in JSON Lines, gzip or not: "question", "answers" (an array), "title", "text" in each line. Throws io_error; format_error with the line's
/// number for what isn't JSON, a missing or empty field, a field of another kind.
[[nodiscard]] std::vector<eval_question> read_questions(const std::string& file);

/// Lower case; ASCII punctuation, the articles a, an, the and extra white space removed.
[[nodiscard]] std::string normalised_answer(const std::string& text);

/// Whether a normalised gold answer is contained in the normalised answer (best_subspan_em).
[[nodiscard]] bool contains_answer(const std::string& answer, const std::vector<std::string>& gold);

/// The passages of question sets, each once, ranked by bm25 as `ask` ranks documents (SQLite FTS5, in memory).
class passage_pool {
 public:
  passage_pool();
  ~passage_pool();
  passage_pool(const passage_pool&) = delete;
  passage_pool& operator=(const passage_pool&) = delete;

  void add(const std::vector<eval_question>& questions);

  /// The gold passage at a place that `seed` and `number` decide, among the count - 1 nearest others without an answer in them, nearest first. Passages that
  /// share no word with the question follow in the order of the file. Throws argument_error if the pool has too few.
  [[nodiscard]] std::vector<passage> prompt_passages(const eval_question& question, int count, std::uint64_t seed, std::size_t number);

 private:
  void add_nearest(const eval_question& question, std::size_t count, std::vector<std::size_t>& chosen);

  std::unique_ptr<database> db_;
  std::vector<passage> passages_;
  std::vector<std::string> plain_;  ///< normalised
  std::map<std::pair<std::string, std::string>, std::size_t> known_;
};

}  // namespace blockattn_command
