// A checkpoint from a path, whatever lies there.
#pragma once

#include <filesystem>
#include <system_error>

#include "blockattn/io/checkpoint.hpp"
#include "blockattn/io/gguf.hpp"
#include "blockattn/io/gguf_write.hpp"
#include "blockattn/io/huggingface.hpp"
#include "blockattn/io/quantize.hpp"

namespace blockattn::inline v0 {

/// Opens a folder that transformers' save_pretrained wrote, or a GGUF file (or all parts of a model of which it is one). Maps files and reads headers, nothing else.
/// Throws io_error and format_error.
[[nodiscard]] inline checkpoint open_checkpoint(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return open_huggingface(path);
  return gguf_file(path);
}

/// As open_checkpoint(), quantised to `type` in memory; with `save_as`, written there (whole or not at all) and mapped from there. Throws what quantize() and write_gguf() throw.
[[nodiscard]] inline checkpoint open_quantized(const std::filesystem::path& path, dtype type, const std::filesystem::path& save_as = {}, const progress_callback& progress = {}) {
  checkpoint quantized = quantize(open_checkpoint(path), type, progress);
  if (save_as.empty()) return quantized;
  write_gguf(quantized, save_as);
  return gguf_file(save_as);
}

}  // namespace blockattn::inline v0
