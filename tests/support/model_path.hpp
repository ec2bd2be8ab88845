// Where tests find the checkpoints.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>

namespace blockattn_test {

/// The environment's BLOCKATTN_TEST_MODEL, or the path that the build was configured with. Throws if neither names a file:
/// a test that needs the model fails without it, it never passes by being skipped.
inline std::filesystem::path model_path() {
  const char* given = std::getenv("BLOCKATTN_TEST_MODEL");
#ifdef BLOCKATTN_TEST_MODEL_DEFAULT
  const std::filesystem::path path = given != nullptr ? given : BLOCKATTN_TEST_MODEL_DEFAULT;
#else
  const std::filesystem::path path = given != nullptr ? given : "";
#endif
  if (!std::filesystem::is_regular_file(path))
    throw std::runtime_error("the test model '" + path.string() + "' doesn't exist. Run ./scripts/test, which fetches it, or set BLOCKATTN_TEST_MODEL.");
  return path;
}

/// Another checkpoint, which only `scripts/test --models all` fetches: the file that an environment variable names (BLOCKATTN_TEST_MODEL_GEMMA,
/// BLOCKATTN_TEST_MODEL_QWEN), or nothing if that isn't set; a test then says aloud (WARN) that it is left out. Throws if it is set to no file.
inline std::optional<std::filesystem::path> other_model_path(const char* variable) {
  const char* given = std::getenv(variable);
  if (given == nullptr || *given == '\0') return std::nullopt;
  if (!std::filesystem::is_regular_file(given))
    throw std::runtime_error(std::string("the test model '") + given + "' of " + variable + " doesn't exist. Run ./scripts/test --models all, which fetches it.");
  return given;
}

inline std::optional<std::filesystem::path> gemma_path() { return other_model_path("BLOCKATTN_TEST_MODEL_GEMMA"); }
inline std::optional<std::filesystem::path> qwen_path() { return other_model_path("BLOCKATTN_TEST_MODEL_QWEN"); }

}  // namespace blockattn_test
