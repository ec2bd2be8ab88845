// What tells one family of transformers from another: a struct of compile-time facts, checked by the concept below.
#pragma once

#include <concepts>
#include <string_view>

#include "blockattn/kernels/kernel_table.hpp"

namespace blockattn::inline v0 {

template <class F>
concept model_family = requires {
  { F::architecture } -> std::convertible_to<std::string_view>;
  { F::pairing } -> std::convertible_to<rope_pairing>;
};

/// Llama 1 to 3, SmolLM, SmolLM2 and everything else that calls itself "llama" in a GGUF file: RMS norm before attention and before the feed-forward,
/// no biases, RoPE on adjacent channels (converters permute the rows of Q and K to it), SwiGLU.
struct llama_family {
  static constexpr std::string_view architecture = "llama";
  static constexpr rope_pairing pairing = rope_pairing::adjacent;
};

static_assert(model_family<llama_family>);

}  // namespace blockattn::inline v0
