// All families that this library knows, and the one that a file names.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockattn/model/family.hpp"
#include "blockattn/model/transformer.hpp"

namespace blockattn::inline v0 {

template <model_family... Families>
struct family_list {};

using known_families = family_list<llama_family, mistral_family, qwen2_family, qwen3_family, gemma2_family, gemma3_family, phi3_family, smollm3_family, olmo2_family>;

namespace detail {

template <class... Families>
[[nodiscard]] std::unique_ptr<const decoder> make_decoder(family_list<Families...>, const checkpoint& file, const std::vector<applied_adapter>& adapters, index_t context) {
  const auto architecture = file.string("general.architecture");
  if (!architecture) throw format_error(cat("[model] ", file.path(), ": metadata key 'general.architecture' is missing. Not a language model?"));
  std::unique_ptr<const decoder> result;
  const auto take = [&]<class Family>(Family) {
    if (*architecture == Family::facts.architecture) result = std::make_unique<const transformer<Family>>(file, adapters, context);
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
[[nodiscard]] inline std::unique_ptr<const decoder> make_decoder(const checkpoint& file, const std::vector<applied_adapter>& adapters = {}, index_t context = 0) {
  return detail::make_decoder(known_families{}, file, adapters, context);
}

}  // namespace blockattn::inline v0
