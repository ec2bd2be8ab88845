// Where tests find the data that is committed with them.
#pragma once

#include <filesystem>
#include <string>

namespace blockattn_test {

/// tests/golden/`name`.
inline std::filesystem::path golden_path(const std::string& name) {
  return std::filesystem::path(__FILE__).parent_path().parent_path() / "golden" / name;
}

/// scripts/golden/prompts/`name`: the texts that golden data was made from.
inline std::filesystem::path prompt_path(const std::string& name) {
  return std::filesystem::path(__FILE__).parent_path().parent_path().parent_path() / "scripts" / "golden" / "prompts" /
         name;
}

}  // namespace blockattn_test
