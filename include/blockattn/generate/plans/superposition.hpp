// Superposition prompting (arXiv 2404.06910): preamble -> (document i, copy of the query) for each i -> task. A document sees the preamble and itself, a copy of
// the query sees these two and itself, the task sees all that was kept.
//
// Equilibrium positions: with n documents of |d_i| tokens, S = n / Σ(1/|d_i|); token t of d_i is at len(preamble) + t·S/|d_i|, a real number; all copies of the
// query start at len(preamble) + S, the task follows. A path's score is the mean log-probability of the query given document and preamble plus that of the
// document given the preamble, the first token of each left out; the best k paths are kept, keys and values of the others are dropped.
// Path caching: the preamble, and documents by preamble and by their S; a fixed `span` in place of S makes them reusable between prompts. Scores of cached documents
// are remembered beside them.
// Here the preamble is block 0, documents are the reusable blocks behind it, the query is what isn't reusable, and the task is its last tokens.
#pragma once

#include <map>
#include <mutex>
#include <optional>

#include "blockattn/generate/plans/prompt_run.hpp"

namespace blockattn::inline v0 {

/// Scores of documents by what they depend on. For any number of threads.
class document_scores {
 public:
  [[nodiscard]] std::optional<double> find(const block_key& key) const {
    const std::lock_guard lock(mutex_);
    const auto found = scores_.find(key);
    return found == scores_.end() ? std::nullopt : std::optional(found->second);
  }
  void keep(const block_key& key, double score) {
    const std::lock_guard lock(mutex_);
    scores_[key] = score;
  }

 private:
  mutable std::mutex mutex_;
  std::map<block_key, double> scores_;
};

struct superposition_plan {
  static constexpr std::string_view name = "superposition";
  index_t keep = 3;     ///< k, the paths kept; 0: all
  double span = 0;      ///< positions that documents take; 0: S
  index_t task = 0;     ///< tokens of the task; 0: what ends the user's turn and opens the answer, where that is known, else 1
  std::shared_ptr<document_scores> scores = std::make_shared<document_scores>();  ///< shared by copies of the plan

  /// S of documents of these lengths.
  [[nodiscard]] static double equilibrium(std::span<const index_t> lengths) {
    double sum = 0;
    for (const index_t length : lengths) sum += 1 / static_cast<double>(length);
    return static_cast<double>(lengths.size()) / sum;
  }

  void prefill(prompt_run& run) const {
    if (run.reusable() < 2) return run.finish_blocks();  // no documents
    std::vector<token_id> query = run.rest(), end;
    split_task(run, query, end);
    const auto preamble = run.encode_alone(0, 1);
    const std::array before = {placed_block{preamble[0], 0}};
    run.place(before[0]);
    std::vector<index_t> lengths;
    for (index_t i = 1; i < run.reusable(); ++i) lengths.push_back(run.tokens(i));
    const double width = span > 0 ? span : equilibrium(lengths);
    std::vector<double> score(lengths.size());
    const auto documents = encode_documents(run, before, width, score);
    const index_t start = run.tokens(0) + run.longest(1, run.reusable());  // decides what is seen only
    const auto copies = encode_copies(run, before[0], documents, query, start, width, score);
    for (const std::size_t i : best(score)) {
      run.place({documents[i], run.tokens(0), true});
      run.place({copies[i], start, true});
    }
    const auto behind = static_cast<index_t>(query.size());
    run.finish({}, end, start + behind, static_cast<double>(run.tokens(0) + behind) + width);
  }

 private:
  void split_task(const prompt_run& run, std::vector<token_id>& query, std::vector<token_id>& end) const {
    const index_t wanted = task > 0 ? task : std::max<index_t>(run.task_tokens(), 1);
    if (wanted >= static_cast<index_t>(query.size()))
      throw argument_error(cat("[plan] superposition: a task of ", wanted, " tokens leaves nothing of the ", query.size(), " tokens behind the documents for the query"));
    end.assign(query.end() - wanted, query.end());
    query.resize(query.size() - static_cast<std::size_t>(wanted));
  }

  [[nodiscard]] std::vector<std::shared_ptr<const kv_block>> encode_documents(prompt_run& run, std::span<const placed_block> before, double width,
                                                                              std::vector<double>& score) const {
    const index_t first = run.tokens(0);
    const fingerprint128 salt = prompt_run::salt_of(name, {width}, run.ids(0));
    std::vector<block_encoding> encodings;
    std::vector<block_key> keys;
    for (std::size_t i = 0; i < score.size(); ++i) {
      const auto ids = run.ids(static_cast<index_t>(i) + 1);
      block_encoding e{ids, first, {}, before, salt, hidden_rows::all};
      for (std::size_t t = 0; t < ids.size(); ++t) e.rotations.push_back(static_cast<double>(first) + static_cast<double>(t) * width / static_cast<double>(ids.size()));
      encodings.push_back(std::move(e));
      keys.push_back(make_block_key(combine(run.get_model().fingerprint(), salt), ids));
    }
    const auto rate = [&](std::size_t i, const matrix& hidden) { scores->keep(keys[i], run.mean_log_probability(encodings[i].ids, hidden)); };
    const auto documents = run.encode(encodings, rate);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (!scores->find(keys[i])) (void)run.encode_uncached(std::span(encodings).subspan(i, 1), [&](std::size_t, const matrix& hidden) { rate(i, hidden); });
      score[i] = *scores->find(keys[i]);
    }
    return documents;
  }

  [[nodiscard]] static std::vector<std::shared_ptr<const kv_block>> encode_copies(prompt_run& run, const placed_block& preamble,
                                                                                  const std::vector<std::shared_ptr<const kv_block>>& documents,
                                                                                  const std::vector<token_id>& query, index_t start, double width,
                                                                                  std::vector<double>& score) {
    std::vector<std::array<placed_block, 2>> contexts;
    for (const auto& document : documents) contexts.push_back({preamble, placed_block{document, run.tokens(0), true}});
    std::vector<block_encoding> encodings;
    for (const auto& context : contexts) {
      block_encoding e{query, start, {}, context, {}, hidden_rows::all};
      for (std::size_t t = 0; t < query.size(); ++t) e.rotations.push_back(static_cast<double>(run.tokens(0)) + width + static_cast<double>(t));
      encodings.push_back(std::move(e));
    }
    return run.encode_uncached(encodings, [&](std::size_t i, const matrix& hidden) { score[i] += run.mean_log_probability(query, hidden); });
  }

  /// Numbers of the paths that are kept, in the prompt's order.
  [[nodiscard]] std::vector<std::size_t> best(const std::vector<double>& score) const {
    std::vector<std::size_t> order(score.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return score[i] > score[j]; });
    if (keep > 0 && static_cast<std::size_t>(keep) < order.size()) order.resize(static_cast<std::size_t>(keep));
    std::sort(order.begin(), order.end());
    return order;
  }
};

}  // namespace blockattn::inline v0
