// Keys and values of a run of tokens, the one thing that the model and the cache share.
//
// A kv_block is one contiguous piece of memory, which is also its form in a file, little-endian, no padding:
//   for each layer: keys [Hkv, T] rows of key_row_bytes(), then values [Hkv, T] rows of value_row_bytes().
// A row is the Dh channels of one token and head in the type of keys or of values: numbers one by one (f32, f16, bf16), or blocks of 32 channels as in GGUF
//   q8_0  half-precision scale d, 32 int8 q                       value = d * q
//   q4_0  half-precision scale d, 16 bytes of nibbles q           value = d * (q - 8); channel i < 16 in the low nibble of byte i, channel 16 + i in its high one
// or blocks of 64 channels, which hold their Hadamard transform (core/dtype_decode.hpp): large channels are spread over all, and what is rounded is nearly normally
// distributed (QuaRot, arXiv 2404.00456; TurboQuant, arXiv 2504.19874). Not where some key channels are much larger than all others: models with biases on keys
//   q5_h  half-precision scale d, 8 bytes of signs, 32 bytes of nibbles q: 5.25 bits a channel
//   q4_h  half-precision scale d, 32 bytes of nibbles q: 4.25 bits a channel
// so a row has row_bytes(type, Dh) bytes, quantised types need Dh % 32 == 0 (q5_h and q4_h % 64), and every row starts at a multiple of 2 bytes from data(), which itself is aligned to 64.
// All of it follows from kv_layout and T: offsets of layer l, head h, token t are those of kv_block::layer().
// Keys are rotated (RoPE) at the local positions 0..T-1 of the run, then stored. A block never changes once it is published:
// a reader that places it at offset o in a prompt rotates its queries by o instead (see kernels/generic/attention.inl.hpp).
//
// Keys and values that still grow, of a session or of a block while it is encoded, are stored as growing() says: what later layers and tokens are computed from is
// not rounded to q5_h and q4_h; a block is, once, when it is finished.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

/// Types that keys and values may be stored in, in the order of their size.
inline constexpr std::array kv_dtypes = {dtype::f32, dtype::f16, dtype::bf16, dtype::q8_0, dtype::q5_h, dtype::q4_0, dtype::q4_h};

/// How keys and how values are stored.
struct kv_types {
  dtype keys = dtype::bf16;
  dtype values = dtype::bf16;

  constexpr kv_types() = default;
  constexpr kv_types(dtype both) : keys(both), values(both) {}  // NOLINT(google-explicit-constructor): one type stands for both
  constexpr kv_types(dtype of_keys, dtype of_values) : keys(of_keys), values(of_values) {}
  friend constexpr bool operator==(const kv_types&, const kv_types&) = default;
};

/// "q8_0", or "q8_0:q4_0" if keys and values differ.
[[nodiscard]] inline std::string to_string(const kv_types& types) {
  return types.keys == types.values ? name(types.keys) : std::string(name(types.keys)) + ':' + name(types.values);
}

/// The types that `text` names: TYPE for both, or KEYS:VALUES. Throws argument_error.
[[nodiscard]] inline kv_types parse_kv_types(std::string_view text) {
  const auto one = [&](std::string_view part) {
    for (const dtype type : kv_dtypes)
      if (part == name(type)) return type;
    throw argument_error(cat("[kv] type '", text, "' of keys and values; allowed: f32, f16, bf16, q8_0, q5_h, q4_0, q4_h, or two of them as KEYS:VALUES"));
  };
  const auto colon = text.find(':');
  if (colon == std::string_view::npos) return one(text);
  return {one(text.substr(0, colon)), one(text.substr(colon + 1))};
}

/// How keys and values are stored that grow to blocks of `types`: as those, but in the float type `fine` where blocks hold transforms.
[[nodiscard]] constexpr kv_types growing(const kv_types& types, dtype fine) {
  return {is_transformed(types.keys) ? fine : types.keys, is_transformed(types.values) ? fine : types.values};
}

/// What one token's keys and values look like in a model.
struct kv_layout {
  index_t layers = 0;
  index_t kv_heads = 0;
  index_t head_dim = 0;
  kv_types types;

  /// Bytes of one token's key, and value, in one head of one layer.
  [[nodiscard]] constexpr index_t key_row_bytes() const { return row_bytes(types.keys, head_dim); }
  [[nodiscard]] constexpr index_t value_row_bytes() const { return row_bytes(types.values, head_dim); }
  /// Bytes of the keys, and of the values, of `tokens` tokens in one layer.
  [[nodiscard]] constexpr index_t key_bytes(index_t tokens) const { return kv_heads * tokens * key_row_bytes(); }
  [[nodiscard]] constexpr index_t value_bytes(index_t tokens) const { return kv_heads * tokens * value_row_bytes(); }
  /// Bytes of one token over all layers, keys and values.
  [[nodiscard]] constexpr index_t token_bytes() const { return layers * (key_bytes(1) + value_bytes(1)); }
  friend constexpr bool operator==(const kv_layout&, const kv_layout&) = default;
};

/// `layout` itself. Throws argument_error if its types can't be stored, or not with heads of its size.
[[nodiscard]] inline const kv_layout& checked(const kv_layout& layout) {
  for (const dtype type : {layout.types.keys, layout.types.values}) {
    bool known = false;
    for (const dtype allowed : kv_dtypes) known = known || type == allowed;
    if (!known) throw argument_error(cat("[kv] keys or values of type ", name(type), "; allowed: f32, f16, bf16, q8_0, q5_h, q4_0, q4_h"));
    if (layout.head_dim % block_values(type) != 0)
      throw argument_error(cat("[kv] keys or values of type ", name(type), " with heads of ", layout.head_dim, " channels; allowed: heads of a multiple of ",
                               block_values(type), ". Take f16 or bf16 for this model."));
  }
  return layout;
}

/// Keys and values of one layer of a run, not owned. Head h, token t starts at keys + (h * head_stride + t) * row_bytes(types.keys, Dh), values alike.
struct kv_view {
  const std::byte* keys = nullptr;    ///< [Hkv, T, Dh]
  const std::byte* values = nullptr;  ///< [Hkv, T, Dh]
  index_t tokens = 0;                 ///< T: tokens that may be read
  index_t head_stride = 0;            ///< tokens between two heads, >= T
  kv_types types;
};

/// Memory for keys and values that isn't the host's: a GPU's. Addresses in it are not for the host to read.
class kv_memory {
 public:
  virtual ~kv_memory() = default;
  /// At least `bytes` bytes, 256-byte aligned, freed with the last copy of the pointer.
  [[nodiscard]] virtual std::shared_ptr<std::byte> allocate(index_t bytes) = 0;
  /// At least `bytes` bytes of host memory that copies from and to this memory are fastest with, 64-byte aligned, freed with the last copy of the pointer.
  [[nodiscard]] virtual std::shared_ptr<std::byte> allocate_host(index_t bytes) = 0;
  enum class direction { to_device, to_host, on_device };
  /// Copies `count` pieces of `bytes` each, which lie `to_step` and `from_step` bytes apart.
  virtual void copy(std::byte* to, index_t to_step, const std::byte* from, index_t from_step, index_t bytes, index_t count, direction way) = 0;
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

  /// The same in `memory`, which must outlive the block; nullptr: the host's.
  kv_block(const kv_layout& layout, index_t tokens, kv_memory* memory)
      : layout_(layout), tokens_(tokens), memory_(memory), data_(memory == nullptr ? allocate(layout.token_bytes() * tokens) : memory->allocate(layout.token_bytes() * tokens)) {}

  [[nodiscard]] const kv_layout& layout() const { return layout_; }
  [[nodiscard]] index_t tokens() const { return tokens_; }
  /// Where data() lies: nullptr is the host's memory.
  [[nodiscard]] kv_memory* memory() const { return memory_; }
  [[nodiscard]] index_t bytes() const { return layout_.token_bytes() * tokens_; }
  [[nodiscard]] const std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::byte* data() { return data_.get(); }

  /// Keys and values of layer `l`.
  [[nodiscard]] kv_view layer(index_t l) const {
    const index_t keys_size = layout_.key_bytes(tokens_);
    const std::byte* keys = data_.get() + l * (keys_size + layout_.value_bytes(tokens_));
    return {keys, keys + keys_size, tokens_, tokens_, layout_.types};
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
  kv_memory* memory_ = nullptr;
  std::shared_ptr<std::byte> data_;
};

/// How much a run of tokens weighs in a softmax beside those that aren't scaled (APE, arXiv 2502.05431). Its scores s become s / temperature, L is the
/// logarithm of the sum of their exponentials, and the run as a whole has the weight exp(scale · temperature · L).
struct segment_scaling {
  float temperature = 1;
  float scale = 1;

  [[nodiscard]] constexpr bool plain() const { return temperature == 1 && scale == 1; }
  friend constexpr bool operator==(const segment_scaling&, const segment_scaling&) = default;
};

/// A run of tokens placed in a prompt, as attention reads it.
struct kv_segment {
  kv_view kv;
  double rotation = 0;   ///< positions that its keys' rotation still lacks: the offset of a cached block, 0 for keys rotated in place
  index_t position = 0;  ///< position in the prompt of its first token; decides what a causal query sees
  segment_scaling scaling = {};  ///< other than plain: all segments with it in a call have the same
};

}  // namespace blockattn::inline v0
