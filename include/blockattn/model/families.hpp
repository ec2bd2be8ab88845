// All families that this library knows, and the one that a file names.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/core/parts.hpp"
#include "blockattn/model/family.hpp"
#include "blockattn/model/transformer.hpp"
#if defined(BLOCKATTN_CUDA)
#include "blockattn/model/cuda_decoder.hpp"
#endif

namespace blockattn::inline v0 {

template <model_family... Families>
struct family_list {};

using known_families = family_list<llama_family, mistral_family, qwen2_family, qwen3_family, gemma2_family, gemma3_family, phi3_family, smollm3_family, olmo2_family>;

namespace detail {

/// make(Family{}) of the family that the file names.
template <class... Families, class Make>
[[nodiscard]] std::unique_ptr<const decoder> make_of_family(family_list<Families...>, const checkpoint& file, const Make& make) {
  const auto architecture = file.string("general.architecture");
  if (!architecture) throw format_error(cat("[model] ", file.path(), ": metadata key 'general.architecture' is missing. Not a language model?"));
  std::unique_ptr<const decoder> result;
  const auto take = [&]<class Family>(Family) {
    if (*architecture == Family::facts.architecture) result = make(Family{});
  };
  (take(Families{}), ...);
  if (result != nullptr) return result;
  std::string supported;
  ((supported += cat(supported.empty() ? "" : ", ", Families::facts.architecture)), ...);
  throw format_error(cat("[model] ", file.path(), ": architecture '", *architecture, "'; supported: ", supported));
}

}  // namespace detail

/// The decoder of the file's architecture; the file must outlive it. `context` as for read_config(). Throws format_error for an architecture that isn't known
/// (named, the supported ones listed) and what transformer's constructor throws.
[[nodiscard]] BLOCKATTN_PART std::unique_ptr<const decoder> make_decoder(const checkpoint& file, const std::vector<applied_adapter>& adapters = {}, index_t context = 0);
#if BLOCKATTN_HAS_MODELS
BLOCKATTN_PART std::unique_ptr<const decoder> make_decoder(const checkpoint& file, const std::vector<applied_adapter>& adapters, index_t context) {
  return detail::make_of_family(known_families{}, file, [&]<class Family>(Family) -> std::unique_ptr<const decoder> {
    return std::make_unique<const transformer<Family>>(file, adapters, context);
  });
}
#endif

#if defined(BLOCKATTN_CUDA)
/// The same on a GPU; throws cuda_error too.
[[nodiscard]] BLOCKATTN_PART std::unique_ptr<const decoder> make_cuda_decoder(const checkpoint& file, const std::vector<applied_adapter>& adapters, index_t context,
                                                                              const cuda::engine_options& options);
#if BLOCKATTN_HAS_MODELS
BLOCKATTN_PART std::unique_ptr<const decoder> make_cuda_decoder(const checkpoint& file, const std::vector<applied_adapter>& adapters, index_t context,
                                                                const cuda::engine_options& options) {
  return detail::make_of_family(known_families{}, file, [&]<class Family>(Family family) -> std::unique_ptr<const decoder> {
    return std::make_unique<const cuda_decoder>(family, file, adapters, context, options);
  });
}
#endif
#endif

}  // namespace blockattn::inline v0
