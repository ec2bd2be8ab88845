// The adapters that come with the program, and which checkpoint each was made for.
//
// An adapter names its checkpoint by the fingerprint of that checkpoint's tensors (metadata key
// blockattn.lora.base_weights, 32 hexadecimal digits), so either file may be renamed.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace blockattn_command {

struct shipped_adapter {
  std::filesystem::path file;
  std::string base;  ///< to_string(model.weights()) of the model it was made for
};

/// Where they may lie: share/blockattn/adapters of the place that the program is installed in, then the source folder
/// that it was built from.
[[nodiscard]] std::vector<std::filesystem::path> adapter_folders();

/// The .gguf files of those folders that name a checkpoint, folder by folder and in the order of their names. Folders
/// that aren't there are passed over; a file that can't be read is, with a warning.
[[nodiscard]] std::vector<shipped_adapter> shipped_adapters(const std::vector<std::filesystem::path>& folders);

}  // namespace blockattn_command
