// Where tests find what scripts/fetch-vectors fetches: chat templates and tokenizer vectors of llama.cpp.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>

namespace blockattn_test {

/// The folder that BLOCKATTN_TEST_VECTORS names, or the one in the user's cache folder; nothing if it isn't there: a
/// test then says aloud (WARN) that it is left out. Throws if the variable is set to no folder.
inline std::optional<std::filesystem::path> vectors_path() {
  const char* given = std::getenv("BLOCKATTN_TEST_VECTORS");
  if (given != nullptr && *given != '\0') {
    if (!std::filesystem::is_directory(given))
      throw std::runtime_error(std::string("BLOCKATTN_TEST_VECTORS is '") + given +
                               "', which isn't a folder. Run ./scripts/fetch-vectors.");
    return given;
  }
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache == nullptr && home == nullptr) return std::nullopt;
  const std::filesystem::path folder =
      (cache != nullptr ? std::filesystem::path(cache) : std::filesystem::path(home) / ".cache") / "blockattn" /
      "vectors";
  return std::filesystem::is_directory(folder) ? std::optional(folder) : std::nullopt;
}

}  // namespace blockattn_test
