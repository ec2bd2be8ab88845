// The growing keys and values of one session (or of one block while it is being encoded).
//
// Keys are rotated at their positions in the prompt. Positions run on without gaps inside a piece; a new piece starts where blocks were
// placed in between. Not thread-safe: one session, one tail.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "blockattn/core/kv.hpp"

namespace blockattn::inline v0 {

class kv_tail {
 public:
  /// Room for `capacity` tokens; grows by doubling.
  explicit kv_tail(const kv_layout& layout, index_t capacity = 0) : layout_(layout), block_(std::make_shared<kv_block>(layout, capacity)) {}

  [[nodiscard]] const kv_layout& layout() const { return layout_; }
  [[nodiscard]] index_t tokens() const { return tokens_; }
  [[nodiscard]] index_t capacity() const { return block_->tokens(); }
  [[nodiscard]] index_t bytes() const { return block_->bytes(); }

  /// Makes room for `more` tokens after those there are.
  void reserve(index_t more) {
    if (tokens_ + more <= capacity()) return;
    const index_t wanted = std::max(tokens_ + more, 2 * capacity());
    auto grown = std::make_shared<kv_block>(layout_, wanted);
    const index_t row = row_bytes(layout_.type, layout_.head_dim);
    const index_t runs = 2 * layout_.layers * layout_.kv_heads;  // keys and values of each layer and head
    for (index_t i = 0; i < runs; ++i)
      std::copy_n(block_->data() + i * capacity() * row, tokens_ * row, grown->data() + i * wanted * row);
    block_ = std::move(grown);
  }

  /// Counts `more` tokens, whose keys and values are about to be written, at `position` and after.
  void append(index_t more, index_t position) {
    reserve(more);
    if (pieces_.empty() || pieces_.back().position + pieces_.back().count != position) pieces_.push_back({tokens_, 0, position});
    pieces_.back().count += more;
    tokens_ += more;
  }

  /// Forgets all tokens from number `tokens` on.
  void truncate(index_t tokens) {
    tokens_ = std::min(tokens_, tokens);
    while (!pieces_.empty() && pieces_.back().first >= tokens_) pieces_.pop_back();
    if (!pieces_.empty()) pieces_.back().count = std::min(pieces_.back().count, tokens_ - pieces_.back().first);
  }

  /// Where key (or value) head `head` of layer `l` keeps token `t`.
  [[nodiscard]] std::byte* key(index_t l, index_t head, index_t t) { return at(2 * l, head, t); }
  [[nodiscard]] std::byte* value(index_t l, index_t head, index_t t) { return at(2 * l + 1, head, t); }

  /// The tail as attention reads it in layer `l`: one segment a piece.
  void append_segments(index_t l, std::vector<kv_segment>& segments) const {
    for (const piece& p : pieces_) {
      const kv_view whole = block_->layer(l);
      const index_t begin = p.first * row_bytes(layout_.type, layout_.head_dim);
      segments.push_back({{whole.keys + begin, whole.values + begin, p.count, capacity(), layout_.type}, 0, p.position});
    }
  }

  /// Gives the filled memory away as an immutable block. The tail must hold exactly its capacity; it is empty afterwards.
  [[nodiscard]] std::shared_ptr<const kv_block> finish() {
    if (tokens_ != capacity()) throw argument_error(cat("[kv] a tail of ", tokens_, " tokens can't become a block of ", capacity()));
    tokens_ = 0;
    pieces_.clear();
    return std::exchange(block_, std::make_shared<kv_block>(layout_, 0));
  }

 private:
  struct piece {
    index_t first, count, position;
  };

  [[nodiscard]] std::byte* at(index_t half, index_t head, index_t t) {
    return block_->data() + ((half * layout_.kv_heads + head) * capacity() + t) * row_bytes(layout_.type, layout_.head_dim);
  }

  kv_layout layout_;
  std::shared_ptr<kv_block> block_;
  index_t tokens_ = 0;
  std::vector<piece> pieces_;
};

}  // namespace blockattn::inline v0
