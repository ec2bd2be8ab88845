// Keys and values of a run of tokens, the one thing that the model and the cache share.
//
// A kv_block is one contiguous piece of memory, which is also its form in a file:
//   for each layer: keys [Hkv, T, Dh], then values [Hkv, T, Dh], row-major, little-endian, no padding.
// Keys are rotated (RoPE) at the local positions 0..T-1 of the run. A block never changes once it is published:
// a reader that places it at offset o in a prompt rotates its queries by o instead (see kernels/attention.hpp).
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

/// What one token's keys and values look like in a model. `type` is f32, f16 or bf16.
struct kv_layout {
  index_t layers = 0;
  index_t kv_heads = 0;
  index_t head_dim = 0;
  dtype type = dtype::bf16;

  /// Bytes of one token over all layers, keys and values.
  [[nodiscard]] constexpr index_t token_bytes() const {
    return 2 * layers * kv_heads * row_bytes(type, head_dim);
  }
  friend constexpr bool operator==(const kv_layout&, const kv_layout&) = default;
};

/// Keys and values of one layer of a run, not owned. Head h, token t starts at data + (h * head_stride + t) * row_bytes(type, Dh).
struct kv_view {
  const std::byte* keys = nullptr;    ///< [Hkv, T, Dh]
  const std::byte* values = nullptr;  ///< [Hkv, T, Dh]
  index_t tokens = 0;                 ///< T: tokens that may be read
  index_t head_stride = 0;            ///< tokens between two heads, >= T
  dtype type = dtype::f32;
};

/// Owns (or keeps alive) the keys and values of `tokens` tokens. Immutable once shared as shared_ptr<const kv_block>.
class kv_block {
 public:
  /// Allocates room for `tokens` tokens, 64-byte aligned and uninitialised.
  kv_block(const kv_layout& layout, index_t tokens)
      : layout_(layout), tokens_(tokens), data_(allocate(layout.token_bytes() * tokens)) {}

  /// Reads `data` where it lies (a memory map); `keeper` is held as long as the block lives.
  kv_block(const kv_layout& layout, index_t tokens, std::shared_ptr<std::byte> data_and_keeper)
      : layout_(layout), tokens_(tokens), data_(std::move(data_and_keeper)) {}

  [[nodiscard]] const kv_layout& layout() const { return layout_; }
  [[nodiscard]] index_t tokens() const { return tokens_; }
  [[nodiscard]] index_t bytes() const { return layout_.token_bytes() * tokens_; }
  [[nodiscard]] const std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::byte* data() { return data_.get(); }

  /// Keys and values of layer `l`.
  [[nodiscard]] kv_view layer(index_t l) const {
    const index_t half = layout_.kv_heads * tokens_ * row_bytes(layout_.type, layout_.head_dim);
    const std::byte* keys = data_.get() + 2 * l * half;
    return {keys, keys + half, tokens_, tokens_, layout_.type};
  }

 private:
  static std::shared_ptr<std::byte> allocate(index_t bytes) {
    if (bytes == 0) return {};
    const auto size = static_cast<std::size_t>(bytes);
    return {static_cast<std::byte*>(::operator new(size, std::align_val_t{64})),
            [](std::byte* p) { ::operator delete(p, std::align_val_t{64}); }};
  }

  kv_layout layout_;
  index_t tokens_ = 0;
  std::shared_ptr<std::byte> data_;
};

/// A run of tokens placed in a prompt, as attention reads it.
struct kv_segment {
  kv_view kv;
  double rotation = 0;   ///< positions that its keys' rotation still lacks: the offset of a cached block, 0 for keys rotated in place
  index_t position = 0;  ///< position in the prompt of its first token; decides what a causal query sees
};

}  // namespace blockattn::inline v0
