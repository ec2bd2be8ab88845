// The prompt of `run`: {"blocks": ["...", "...", "final"]}, the last one being the final block.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace blockattn_command {

/// Blocks of the JSON text `content`. Throws format_error that names `file`: not JSON, no "blocks", not an array of
/// strings, no block, an empty block.
[[nodiscard]] std::vector<std::string> parse_blocks(std::string_view content, const std::string& file);

/// parse_blocks() of a file, or of standard input if `file` is "-". Throws io_error too.
[[nodiscard]] std::vector<std::string> read_blocks(const std::string& file);

}  // namespace blockattn_command
