// Rows that go through the layers together: pieces of one or several runs, one after the other.
//
// A run is cut from its own start, whatever else runs beside it, and attention is computed for each piece on its own; so a run's bits don't depend on its
// neighbours.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "blockattn/model/forward.hpp"
#include "blockattn/model/layer.hpp"

namespace blockattn::inline v0 {

/// A run is cut into pieces of so many tokens.
inline constexpr index_t forward_chunk = 512;
/// Most rows of a batch, which bounds the memory of intermediate values.
inline constexpr index_t forward_rows = 640;

namespace detail {

/// Tokens [first, first + tokens) of run number `run`.
struct run_piece {
  std::size_t run;
  index_t first, tokens;
  bool last;  ///< of its run
};

/// All pieces of all runs in order, grouped into batches of at most forward_rows rows.
[[nodiscard]] inline std::vector<std::vector<run_piece>> batches_of(std::span<const forward_run> runs) {
  std::vector<std::vector<run_piece>> batches;
  index_t rows = forward_rows;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const auto total = static_cast<index_t>(runs[r].request.ids.size());
    for (index_t first = 0; first < total; first += forward_chunk) {
      const index_t tokens = std::min(forward_chunk, total - first);
      if (rows + tokens > forward_rows) {
        batches.emplace_back();
        rows = 0;
      }
      batches.back().push_back({r, first, tokens, first + tokens == total});
      rows += tokens;
    }
  }
  return batches;
}

[[nodiscard]] inline index_t rows_of(std::span<const run_piece> pieces) {
  index_t rows = 0;
  for (const run_piece& p : pieces) rows += p.tokens;
  return rows;
}

/// What a run's queries see besides its tail: placed blocks, with the angles that their keys' rotation lacks in each RoPE.
class run_context {
 public:
  run_context(const forward_run& run, std::span<const rope_spec> ropes) : run_(&run), rotations_(ropes.size() + 1) {
    const std::span<const placed_block> context = run.request.context;
    angles_.reserve(context.size() * ropes.size());
    for (std::size_t r = 0; r < ropes.size(); ++r)
      for (const placed_block& placed : context) {
        const double lacks = placed.lacks();
        angles_.push_back(lacks != 0 ? angles_of(ropes[r], lacks, 1) : rope_angles{});
        rotations_[r].push_back(lacks != 0 ? segment_rotation{angles_.back().cosine.data(), angles_.back().sine.data()} : segment_rotation{});
      }
  }
  [[nodiscard]] const forward_run& run() const { return *run_; }

  /// Segments of layer `l`, which has RoPE number `rope`, or none (-1): placed blocks, then the tail's pieces. Valid until the next call.
  void enter_layer(index_t l, index_t rope) {
    segments_.clear();
    for (const placed_block& placed : run_->request.context)
      segments_.push_back({placed.layer(l), rope < 0 ? 0.0 : placed.lacks(), placed.offset, placed.scaling});
    run_->tail->append_segments(l, segments_);
    current_ = rope < 0 ? rotations_.size() - 1 : static_cast<std::size_t>(rope);
    rotations_[current_].resize(segments_.size());
  }
  [[nodiscard]] std::span<const kv_segment> segments() const { return segments_; }
  [[nodiscard]] std::span<const segment_rotation> rotations() const { return rotations_[current_]; }

 private:
  const forward_run* run_;
  std::vector<rope_angles> angles_;
  std::vector<std::vector<segment_rotation>> rotations_;  ///< of each RoPE; the last one is of layers without
  std::vector<kv_segment> segments_;
  std::size_t current_ = 0;
};

/// The state of one batch on its way through the layers.
class run_batch {
 public:
  /// Counts the pieces' tokens in their runs' tails.
  run_batch(std::span<const forward_run> runs, std::span<const run_piece> pieces, std::span<const rope_spec> ropes) : pieces_(pieces) {
    std::vector<double> positions;
    for (const run_piece& p : pieces) {
      const forward_run& run = runs[p.run];
      const forward_request& request = run.request;
      if (contexts_.empty() || &contexts_.back().run() != &run) contexts_.emplace_back(run, ropes);
      context_of_.push_back(contexts_.size() - 1);
      const token_positions position = request.places.empty() ? token_positions(request.position + p.first) : token_positions(request.places.data() + p.first);
      parts_.push_back({rows_, p.tokens, position, run.tail, run.tail->tokens(), {}, {}});
      if (request.places.empty()) run.tail->append(p.tokens, request.position + p.first);
      for (index_t t = p.first; t < p.first + p.tokens; ++t)
        positions.push_back(request.rotations.empty() ? static_cast<double>(request.position_of(t)) : request.rotations[static_cast<std::size_t>(t)]);
      rows_ += p.tokens;
    }
    for (const rope_spec& rope : ropes) angles_.push_back(angles_at(rope, positions, rope.magnitude));
  }

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] std::span<const run_piece> pieces() const { return pieces_; }
  [[nodiscard]] const layer_part& part(std::size_t i) const { return parts_[i]; }

  /// What layer `l` with RoPE number `rope` (-1: none) needs to know. Valid until the next call.
  [[nodiscard]] layer_batch of_layer(index_t l, index_t rope, const compute_options& compute) {
    for (run_context& context : contexts_) context.enter_layer(l, rope);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      parts_[i].segments = contexts_[context_of_[i]].segments();
      parts_[i].rotations = contexts_[context_of_[i]].rotations();
    }
    return {rows_, parts_, rope < 0 ? nullptr : &angles_[static_cast<std::size_t>(rope)], compute};
  }

  /// Keeps the rows whose final hidden states are asked for: all, the last one or none of each piece. Moves rows of `x` and of `queries` to the front.
  void keep_wanted(std::span<const forward_run> runs, matrix& x, matrix& queries) {
    index_t to = 0;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const hidden_rows wanted = runs[pieces_[i].run].request.rows;
      layer_part& part = parts_[i];
      const index_t count = wanted == hidden_rows::all ? part.tokens : (wanted == hidden_rows::last && pieces_[i].last ? 1 : 0);
      const index_t from = part.row + part.tokens - count;
      for (index_t t = 0; t < count && to != from; ++t) {
        x.row(to + t) = x.row(from + t);
        queries.row(to + t) = queries.row(from + t);
      }
      if (count > 0) part.position = part.position.each != nullptr ? token_positions(part.position.each + part.tokens - count) : token_positions(part.position[part.tokens - count]);
      part.row = to;
      part.tokens = count;
      to += count;
    }
    rows_ = to;
  }

 private:
  std::span<const run_piece> pieces_;
  std::vector<run_context> contexts_;
  std::vector<std::size_t> context_of_;  ///< each piece's
  std::vector<layer_part> parts_;
  std::vector<rope_angles> angles_;  ///< of each RoPE, [rows]
  index_t rows_ = 0;
};

}  // namespace detail
}  // namespace blockattn::inline v0
