#include "adapters.hpp"

#include <algorithm>
#include <system_error>

#include "blockattn/io/gguf.hpp"
#include "engine.hpp"

namespace blockattn_command {
namespace fs = std::filesystem;

std::vector<fs::path> adapter_folders() {
  std::vector<fs::path> folders;
  std::error_code failed;
  const fs::path program = fs::read_symlink("/proc/self/exe", failed);
  if (!failed) folders.push_back((program.parent_path() / BLOCKATTN_INSTALLED_ADAPTERS).lexically_normal());
  folders.emplace_back(BLOCKATTN_SOURCE_ADAPTERS);
  return folders;
}

std::vector<shipped_adapter> shipped_adapters(const std::vector<fs::path>& folders) {
  std::vector<shipped_adapter> result;
  for (const fs::path& folder : folders) {
    std::vector<fs::path> files;
    std::error_code failed;
    for (fs::directory_iterator entry(folder, failed), end; !failed && entry != end; entry.increment(failed))
      if (entry->path().extension() == ".gguf") files.push_back(entry->path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) {
      try {
        const blockattn::gguf_file adapter(file);
        if (const auto base = adapter.string("blockattn.lora.base_weights"))
          result.push_back({file, std::string(*base)});
      } catch (const blockattn::error& e) {
        warn(e.what());
      }
    }
  }
  return result;
}

}  // namespace blockattn_command
