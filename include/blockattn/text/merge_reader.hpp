// The merges of a file, pair by pair, into a table of token ids.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "blockattn/core/shape.hpp"
#include "blockattn/text/bpe.hpp"
#include "blockattn/text/vocabulary.hpp"

namespace blockattn::inline v0::detail {

/// Looks up the tokens of many merges. The tables are larger than the processor's caches, so it takes merges by the batch
/// and fetches what the next step needs. Refuse: void(index, reason), called for a merge that can't be; it must throw.
template <class Refuse>
class merge_reader {
 public:
  merge_reader(const vocabulary& tokens, merge_table& merges, Refuse refuse) : tokens_(&tokens), merges_(&merges), refuse_(refuse) {}

  /// The next merge, as bytes.
  void add(std::string_view left, std::string_view right) {
    pending& p = batch_[count_++];
    p.bytes.assign(left).append(right);
    p.left_size = left.size();
    p.left_hash = mix_bytes(left);
    p.right_hash = mix_bytes(right);
    tokens_->prefetch(p.left_hash);
    tokens_->prefetch(p.right_hash);
    if (count_ == batch_.size()) flush();
  }

  /// Must be called after the last one.
  void flush() {
    for (std::size_t i = 0; i < count_; ++i) {
      tokens_->prefetch_bytes(batch_[i].left_hash);
      tokens_->prefetch_bytes(batch_[i].right_hash);
    }
    for (std::size_t i = 0; i < count_; ++i) {
      pending& p = batch_[i];
      const std::string_view bytes = p.bytes;
      p.left = tokens_->find(bytes.substr(0, p.left_size), p.left_hash);
      p.right = tokens_->find(bytes.substr(p.left_size), p.right_hash);
      p.merged = find_merged(bytes);
      merges_->prefetch(p.left, p.right);
    }
    for (std::size_t i = 0; i < count_; ++i, ++done_) enter(batch_[i]);
    count_ = 0;
  }

 private:
  struct pending {
    std::string bytes;
    std::size_t left_size = 0;
    std::uint64_t left_hash = 0, right_hash = 0;
    token_id left = -1, right = -1, merged = -1;
  };

  /// Most vocabularies list results in the order of their merges: the next token is tried first.
  [[nodiscard]] token_id find_merged(std::string_view bytes) {
    const token_id next = expected_;
    const bool hit = tokens_->contains(next) && tokens_->encodable(next) && tokens_->bytes(next) == bytes;
    const token_id id = hit ? next : tokens_->find(bytes);
    if (id >= 0) expected_ = id + 1;
    return id;
  }

  void enter(const pending& p) {
    if (p.left < 0 || p.right < 0 || p.merged < 0)
      refuse_(done_, p.left < 0    ? "needs a token that the vocabulary lacks: its left part"
                     : p.right < 0 ? "needs a token that the vocabulary lacks: its right part"
                                   : "needs a token that the vocabulary lacks: its result");
    if (!merges_->add(p.left, p.right, p.merged)) refuse_(done_, "is there twice");
  }

  const vocabulary* tokens_;
  merge_table* merges_;
  Refuse refuse_;
  std::array<pending, 32> batch_;
  std::size_t count_ = 0, done_ = 0;  // done_: merges entered
  token_id expected_ = 0;
};

}  // namespace blockattn::inline v0::detail
