// The seam between the engine and its kernels: one table of functions for each level of the processor.
//
// Raw pointers in, raw pointers out; nothing here allocates or throws. Every function gives the same bits whatever other rows, tokens or
// threads are computed beside it, so that results don't depend on how work is split.
//
// Two arithmetics: `f32` multiplies float32; `fast` multiplies bfloat16 pairs into float32 where the level has such an instruction
// and is equal to `f32` elsewhere. Sums are always float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "blockattn/core/dtype.hpp"
#include "blockattn/core/shape.hpp"
#include "blockattn/kernels/cpu.hpp"

namespace blockattn::inline v0 {

enum class arithmetic : std::uint8_t { f32, fast };

/// Which two channels of a head RoPE rotates together.
enum class rope_pairing : std::uint8_t {
  adjacent,  ///< (2i, 2i+1): the llama family in GGUF files
  halves     ///< (i, i + Dh/2): "NeoX"
};

/// One run of cached tokens as one KV head of one layer sees it.
struct attention_segment {
  const std::byte* keys = nullptr;    ///< [T, Dh] of `key_type`, contiguous
  const std::byte* values = nullptr;  ///< [T, Dh] of `value_type`, contiguous
  index_t tokens = 0;                 ///< T
  index_t position = 0;               ///< position in the prompt of the first token
  const float* cosine = nullptr;      ///< [pairs] of the angles that the keys' rotation lacks; nullptr if it lacks none
  const float* sine = nullptr;        ///< [pairs]
  dtype key_type = dtype::f32;        ///< f32, f16, bf16, q8_0, q5_h, q4_0 or q4_h; quantised types need Dh % 32 == 0, q5_h and q4_h Dh % 64 == 0
  dtype value_type = dtype::f32;      ///< the same
};

/// Positions in the prompt of query tokens: consecutive from `first`, or, given `each`, any ascending ones.
struct token_positions {
  index_t first = 0;
  const index_t* each = nullptr;

  constexpr token_positions() = default;
  constexpr token_positions(index_t from) : first(from) {}  // NOLINT: consecutive ones are told by the first
  constexpr explicit token_positions(const index_t* all) : first(*all), each(all) {}
  [[nodiscard]] constexpr index_t operator[](index_t t) const { return each != nullptr ? each[t] : first + t; }
};

/// Rows [row_begin, row_end) of one KV head's attention. Row r is query token r / group with head kv_head * group + r % group.
struct attention_args {
  const float* queries = nullptr;  ///< [T, query_stride], rotated at the queries' positions in the prompt
  float* output = nullptr;         ///< [T, query_stride]
  index_t query_stride = 0;        ///< floats between two tokens, H * Dh
  index_t head_dim = 0;            ///< Dh, a multiple of 8, at most max_head_dim
  index_t group = 1;               ///< H / Hkv
  index_t kv_head = 0;
  index_t row_begin = 0;
  index_t row_end = 0;   ///< at most attention_rows(head_dim) after row_begin
  token_positions position;  ///< of the query tokens
  float scale = 1;       ///< of the scores, 1/sqrt(Dh)
  rope_pairing pairing = rope_pairing::adjacent;
  const attention_segment* segments = nullptr;
  index_t segment_count = 0;
  index_t rotated = 0;  ///< the first so many channels of a head are what RoPE turns, the pairs being made inside of them; 0: all Dh
  index_t window = 0;   ///< a query sees the last so many positions, its own counted, and no key before them is read; 0: all before it
  float soft_cap = 0;   ///< scores s become cap * tanh(s / cap); 0: they stay as they are
  float* log_sums = nullptr;     ///< [T, H] logarithm of the sum of the scores' exponentials, of a row that sees no key a number below -1e29; nullptr: not wanted
  index_t log_sum_stride = 0;    ///< floats between two tokens, H
  /// If given, [rows, Dh + 2]: instead of output, each row's weighted sum of values, the maximum m of its scores in log2, and its sum of weights 2^(score - m),
  /// to be joined with those of other segments.
  float* partial = nullptr;
};

inline constexpr index_t max_head_dim = 256;
/// Most rows of one call of kernel_table::attend: many, since keys and values are unpacked once a call; as many as fit into a core's own cache.
[[nodiscard]] constexpr index_t attention_rows(index_t head_dim) { return head_dim <= 128 ? 256 : 128; }

/// How activations are given to quantised weights.
enum class activation_form : std::uint8_t {
  bytes,  ///< 8-bit integers under a scale for each group of 32
  words,  ///< 16-bit integers under the same
  halves  ///< bfloat16
};

/// Products of quantised weights in their interleaved order (kernels/interleave.hpp) and quantised activations; panels have panel_rows rows.
struct integer_kernels {
  /// The form of the activations for weights of a type; `wide`: bytes aren't exact enough for this matrix. `few`: tiles of many
  /// tokens would stay empty.
  activation_form (*form_of)(dtype, bool wide, bool few) = nullptr;
  /// Bytes of one token's quantised activations [columns]; columns is a multiple of 32.
  index_t (*quantised_bytes)(activation_form, index_t columns) = nullptr;
  /// x [tokens, columns] -> quantised, one token after the other.
  void (*quantise)(activation_form, const float* x, index_t tokens, index_t columns, std::byte* quantised) = nullptr;
  /// Bytes of scratch, 64-byte aligned, for `tokens` tokens.
  index_t (*scratch_bytes)(index_t tokens) = nullptr;
  /// y[t, 0..count) = quantised[t] · the first `count` rows of a panel; y has `stride` floats a token.
  void (*multiply)(dtype, activation_form, const std::byte* quantised, index_t tokens, index_t columns, const std::byte* panel, index_t count, float* y,
                   index_t stride, std::byte* scratch) = nullptr;
};

/// Kernels of one level. `x` and `y` are row-major float32 unless said otherwise.
struct kernel_table {
  isa level = isa::portable;
  /// Outputs in one panel of unpacked weights.
  index_t panel_rows = 0;
  /// Whether `fast` arithmetic multiplies bfloat16.
  bool fast_is_bf16 = false;

  /// Bytes of one token's packed activations [columns], and of one panel [panel_rows, columns]; columns is even.
  index_t (*packed_bytes)(arithmetic, index_t columns) = nullptr;
  index_t (*panel_bytes)(arithmetic, index_t columns) = nullptr;
  /// x [tokens, columns] -> packed, one row after the other.
  void (*pack)(arithmetic, const float* x, index_t tokens, index_t columns, std::byte* packed) = nullptr;
  /// Rows [first, first + count) of a weight matrix -> panel; count <= panel_rows, the missing rows are zero.
  void (*unpack_panel)(arithmetic, const weight_view&, index_t first, index_t count, std::byte* panel) = nullptr;
  /// y[t, 0..count) = packed[t] · panel rows, for `tokens` tokens; y has `stride` floats a token. With `add`, y is added to.
  void (*multiply_panel)(arithmetic, const std::byte* packed, index_t tokens, index_t columns, const std::byte* panel, index_t count, float* y,
                         index_t stride, bool add) = nullptr;
  /// y[n] = weight row n · x for rows [first, last): weights streamed once, float32 arithmetic. x [columns]; sums [columns / 32] of x's blocks of 32.
  void (*multiply_vector)(const weight_view&, index_t first, index_t last, const float* x, const float* sums, float* y) = nullptr;
  /// One row of any weight type -> float32 [columns].
  void (*unpack_row)(const weight_view&, index_t row, float* out) = nullptr;

  /// Online-softmax attention of a few rows over all segments. `scratch` has attention_scratch_bytes(head_dim), 64-byte aligned.
  void (*attend)(arithmetic, const attention_args&, std::byte* scratch) = nullptr;

  /// y = x / sqrt(mean(x²) + epsilon) * weight, [columns].
  void (*rms_norm)(const float* x, const float* weight, index_t columns, float epsilon, float* y) = nullptr;
  /// gate = gate / (1 + exp(-gate)) * up, n values.
  void (*silu_multiply)(float* gate, const float* up, index_t n) = nullptr;
  /// Rotates `heads` heads of one token in place: x [heads, Dh], cosine and sine [Dh/2].
  void (*rotate)(rope_pairing, float* x, index_t heads, index_t head_dim, const float* cosine, const float* sine) = nullptr;
  /// float32 -> KV storage (f32, f16, bf16, q8_0, q5_h, q4_0, q4_h; core/kv.hpp), and back, n values, whole blocks of the type. What a quantised type or f16 can't
  /// hold (infinities, too large numbers, a quantised type's NaN) is stored as some finite number.
  void (*store_kv)(dtype, const float* x, index_t n, std::byte* out) = nullptr;
  void (*load_kv)(dtype, const std::byte* in, index_t n, float* x) = nullptr;

  /// gate = gelu(gate) * up in the tanh form of GELU, n values.
  void (*gelu_multiply)(float* gate, const float* up, index_t n) = nullptr;
  /// x = cap * tanh(x / cap), n values.
  void (*soft_cap)(float* x, index_t n, float cap) = nullptr;

  integer_kernels integer = {};
};

namespace detail {

/// The kernels of a level that differs from another one in integer products.
[[nodiscard]] constexpr kernel_table with_integers(kernel_table base, isa level, const integer_kernels& integer) {
  base.level = level;
  base.integer = integer;
  return base;
}

}  // namespace detail

/// Bytes of scratch for kernel_table::attend, enough for every level.
[[nodiscard]] constexpr index_t attention_scratch_bytes(index_t head_dim) {
  constexpr index_t key_tile = 64;
  const index_t rows = attention_rows(head_dim);
  return 4 * (3 * rows * head_dim + 7 * rows + 2 * key_tile * rows + 2 * key_tile * head_dim + 3 * key_tile) + 1024;
}

}  // namespace blockattn::inline v0
