// The only place where the version is written; CMake reads it from here.
#pragma once

#define BLOCKATTN_VERSION_MAJOR 0
#define BLOCKATTN_VERSION_MINOR 1
#define BLOCKATTN_VERSION_PATCH 0

namespace blockattn::inline v0 {

/// Semantic version of the library, e.g. "0.1.0".
inline constexpr const char* version_string = "0.1.0";

}  // namespace blockattn::inline v0
