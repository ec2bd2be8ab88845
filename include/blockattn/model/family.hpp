// What tells one family of transformers from another: a struct of compile-time facts, checked by the concept below. layer<Family> reads them.
//
// Facts are of the family; numbers of one model (shapes, bases, windows) come from its file (config.hpp) and only default to what is said here.
#pragma once

#include <concepts>
#include <string_view>

#include "blockattn/kernels/kernel_table.hpp"
#include "blockattn/ops/feed_forward.hpp"

namespace blockattn::inline v0 {

/// Where a layer's norms stand, around attention and around the feed-forward alike.
enum class norm_places : std::uint8_t {
  before,  ///< x += f(norm(x))
  after,   ///< x += norm(f(x))
  around   ///< x += norm(f(norm(x)))
};

/// A norm of queries and keys before they are rotated.
enum class query_key_norm : std::uint8_t {
  none,
  head,  ///< each head by itself, weights [Dh]
  whole  ///< all heads of a token together, weights [H * Dh] and [Hkv * Dh]
};

struct family_facts {
  std::string_view architecture;                     ///< general.architecture, and the prefix of the family's metadata
  rope_pairing pairing = rope_pairing::halves;       ///< as GGUF files have it
  bool qkv_bias = false;                             ///< queries, keys and values have biases
  bool fused = false;                                ///< Q, K, V are one matrix in the file, gate and up another
  query_key_norm qk_norm = query_key_norm::none;
  norm_places norms = norm_places::before;
  activation gating = activation::silu;
  bool scaled_embedding = false;                     ///< embeddings are multiplied by sqrt(D)
  bool norms_lack_one = false;                       ///< Hugging Face's files store w of a norm that multiplies by 1 + w; GGUF files store 1 + w
  float attention_soft_cap = 0, logit_soft_cap = 0;  ///< 0: none
  index_t window = 0;                                ///< default sliding window
  index_t window_period = 0;                         ///< every so-manieth layer sees everything, the others slide; 0: all layers slide
  double window_rope_base = 0;                       ///< layers that slide have a RoPE of that base of their own, without scaling; 0: all share one
  index_t rope_period = 0;                           ///< every so-manieth layer has no RoPE; 0: all have it
  index_t scaled_by_width_at = 0;                    ///< the model of so many layers scales scores by 1/sqrt(D/H) instead of 1/sqrt(Dh)
};

template <class F>
concept model_family = requires {
  { F::facts } -> std::same_as<const family_facts&>;
  requires !F::facts.architecture.empty();
};

/// Llama 1 to 3, SmolLM, SmolLM2, Mistral as converted to GGUF and everything else that calls itself "llama" there: converters permute the rows of Q and K
/// so that RoPE turns adjacent channels.
struct llama_family {
  static constexpr family_facts facts{.architecture = "llama", .pairing = rope_pairing::adjacent};
};

/// Llama with a sliding window (arXiv 2310.06825).
struct mistral_family {
  static constexpr family_facts facts{.architecture = "mistral", .pairing = rope_pairing::adjacent};
};

struct qwen2_family {
  static constexpr family_facts facts{.architecture = "qwen2", .qkv_bias = true};
};

struct qwen3_family {
  static constexpr family_facts facts{.architecture = "qwen3", .qk_norm = query_key_norm::head};
};

struct gemma2_family {  // arXiv 2408.00118
  static constexpr family_facts facts{.architecture = "gemma2",
                                      .norms = norm_places::around,
                                      .gating = activation::gelu_tanh,
                                      .scaled_embedding = true,
                                      .norms_lack_one = true,
                                      .attention_soft_cap = 50,
                                      .logit_soft_cap = 30,
                                      .window = 4096,
                                      .window_period = 2,
                                      .scaled_by_width_at = 46};
};

struct gemma3_family {  // arXiv 2503.19786
  static constexpr family_facts facts{.architecture = "gemma3",
                                      .qk_norm = query_key_norm::head,
                                      .norms = norm_places::around,
                                      .gating = activation::gelu_tanh,
                                      .scaled_embedding = true,
                                      .norms_lack_one = true,
                                      .window_period = 6,
                                      .window_rope_base = 10000,
                                      .scaled_by_width_at = 62};
};

struct phi3_family {  // arXiv 2404.14219
  static constexpr family_facts facts{.architecture = "phi3", .fused = true};
};

/// Every fourth layer has no positions.
struct smollm3_family {
  static constexpr family_facts facts{.architecture = "smollm3", .pairing = rope_pairing::adjacent, .rope_period = 4};
};

struct olmo2_family {  // arXiv 2501.00656
  static constexpr family_facts facts{
      .architecture = "olmo2", .qk_norm = query_key_norm::whole, .norms = norm_places::after, .window_period = 4};
};

}  // namespace blockattn::inline v0
