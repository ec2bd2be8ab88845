// Where tests find the default checkpoint.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

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

}  // namespace blockattn_test
