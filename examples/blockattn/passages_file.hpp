// Passages as JSON lines: {"title": "...", "text": "..."}, the title may be missing; other keys are passed over.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "passages.hpp"

namespace blockattn_command {

/// One passage a line; empty lines are left out. Throws format_error that names `file` and the line.
[[nodiscard]] std::vector<passage> parse_passages(std::string_view content, const std::string& file);

/// The same from a file, or from standard input for "-".
[[nodiscard]] std::vector<passage> read_passages(const std::string& file);

}  // namespace blockattn_command
