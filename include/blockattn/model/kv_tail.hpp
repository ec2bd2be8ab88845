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
  /// Room for `capacity` tokens; grows by doubling. In `memory`, which must outlive the tail; nullptr: the host's.
  explicit kv_tail(const kv_layout& layout, index_t capacity = 0, kv_memory* memory = nullptr)
      : layout_(layout), memory_(memory), block_(std::make_shared<kv_block>(layout, capacity, memory)) {}

  [[nodiscard]] const kv_layout& layout() const { return layout_; }
  /// Where it lies: nullptr is the host's memory.
  [[nodiscard]] kv_memory* memory() const { return memory_; }
  [[nodiscard]] index_t tokens() const { return tokens_; }
  /// Tokens at its start whose positions are their numbers.
  [[nodiscard]] index_t in_place() const { return pieces_.empty() || pieces_.front().position != 0 ? 0 : pieces_.front().count; }
  [[nodiscard]] index_t capacity() const { return block_->tokens(); }
  [[nodiscard]] index_t bytes() const { return block_->bytes(); }

  /// Makes room for `more` tokens after those there are.
  void reserve(index_t more) {
    if (tokens_ + more <= capacity()) return;
    const index_t wanted = std::max(tokens_ + more, 2 * capacity());
    auto grown = std::make_shared<kv_block>(layout_, wanted, memory_);
    for (index_t l = 0; l < layout_.layers; ++l) {
      copy_heads(key_in(*grown, l, 0, 0), wanted, key(l, 0, 0), capacity(), layout_.key_row_bytes(), kv_memory::direction::on_device);
      copy_heads(value_in(*grown, l, 0, 0), wanted, value(l, 0, 0), capacity(), layout_.value_row_bytes(), kv_memory::direction::on_device);
    }
    block_ = std::move(grown);
  }

  /// Counts `more` tokens, whose keys and values are about to be written, at `position` and after.
  void append(index_t more, index_t position) {
    reserve(more);
    if (pieces_.empty() || pieces_.back().position + pieces_.back().count != position) pieces_.push_back({tokens_, 0, position});
    pieces_.back().count += more;
    tokens_ += more;
  }

  /// Begins an empty tail with the tokens of a block in host memory, of the same layout, at position 0 and on.
  void begin_with(const kv_block& block) {
    if (tokens_ > 0 || block.memory() != nullptr || block.layout() != layout_) throw argument_error("[kv] a tail begins with a block of its own layout in host memory, before anything else");
    append(block.tokens(), 0);
    for (index_t l = 0; l < layout_.layers; ++l) {
      const kv_view view = block.layer(l);
      copy_heads(key(l, 0, 0), capacity(), view.keys, view.tokens, layout_.key_row_bytes(), kv_memory::direction::to_device);
      copy_heads(value(l, 0, 0), capacity(), view.values, view.tokens, layout_.value_row_bytes(), kv_memory::direction::to_device);
    }
  }

  /// Forgets all tokens from number `tokens` on.
  void truncate(index_t tokens) {
    tokens_ = std::min(tokens_, tokens);
    while (!pieces_.empty() && pieces_.back().first >= tokens_) pieces_.pop_back();
    if (!pieces_.empty()) pieces_.back().count = std::min(pieces_.back().count, tokens_ - pieces_.back().first);
  }

  /// Where key (or value) head `head` of layer `l` keeps token `t`.
  [[nodiscard]] std::byte* key(index_t l, index_t head, index_t t) { return key_in(*block_, l, head, t); }
  [[nodiscard]] std::byte* value(index_t l, index_t head, index_t t) { return value_in(*block_, l, head, t); }

  /// The whole memory, capacity() tokens, for an engine that knows the layout.
  [[nodiscard]] std::byte* data() { return block_->data(); }

  /// The tail as attention reads it in layer `l`: one segment a piece.
  void append_segments(index_t l, std::vector<kv_segment>& segments) const {
    for (const piece& p : pieces_) {
      const kv_view whole = block_->layer(l);
      segments.push_back({{whole.keys + p.first * layout_.key_row_bytes(), whole.values + p.first * layout_.value_row_bytes(), p.count, capacity(), layout_.types},
                          0, p.position});
    }
  }

  /// Calls visit(first, count, position) for each run of neighbouring positions, in order.
  template <class Visit>
  void for_each_piece(const Visit& visit) const {
    for (const piece& p : pieces_) visit(p.first, p.count, p.position);
  }

  /// Gives the filled memory away as an immutable block. The tail must hold exactly its capacity; it is empty afterwards.
  [[nodiscard]] std::shared_ptr<const kv_block> finish() {
    if (tokens_ != capacity()) throw argument_error(cat("[kv] a tail of ", tokens_, " tokens can't become a block of ", capacity()));
    tokens_ = 0;
    pieces_.clear();
    return std::exchange(block_, std::make_shared<kv_block>(layout_, 0, memory_));
  }

 private:
  struct piece {
    index_t first, count, position;
  };

  /// All tokens of all heads of a layer's half; heads lie `to_step` and `from_step` tokens of `row` bytes apart.
  void copy_heads(std::byte* to, index_t to_step, const std::byte* from, index_t from_step, index_t row, kv_memory::direction way) const {
    if (memory_ != nullptr) return memory_->copy(to, to_step * row, from, from_step * row, tokens_ * row, layout_.kv_heads, way);
    for (index_t h = 0; h < layout_.kv_heads; ++h) std::copy_n(from + h * from_step * row, tokens_ * row, to + h * to_step * row);
  }

  [[nodiscard]] static std::byte* layer_in(kv_block& block, index_t l) {
    const kv_layout& layout = block.layout();
    return block.data() + l * (layout.key_bytes(block.tokens()) + layout.value_bytes(block.tokens()));
  }
  [[nodiscard]] static std::byte* key_in(kv_block& block, index_t l, index_t head, index_t t) {
    return layer_in(block, l) + (head * block.tokens() + t) * block.layout().key_row_bytes();
  }
  [[nodiscard]] static std::byte* value_in(kv_block& block, index_t l, index_t head, index_t t) {
    return layer_in(block, l) + block.layout().key_bytes(block.tokens()) + (head * block.tokens() + t) * block.layout().value_row_bytes();
  }

  kv_layout layout_;
  kv_memory* memory_;
  std::shared_ptr<kv_block> block_;
  index_t tokens_ = 0;
  std::vector<piece> pieces_;
};

}  // namespace blockattn::inline v0
