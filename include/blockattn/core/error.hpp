// One family of exceptions. The library never prints, exits or aborts.
//
// A message says where, what, what was got, what is allowed and what to do:
//   [gguf] model.gguf: tensor 'blk.0.attn_q.weight' needs bytes 4096+204800, the file has 9000. Truncated download?
#pragma once

#include <cstddef>
#include <sstream>
#include <stdexcept>
#include <string>

namespace blockattn::inline v0 {

/// Base of everything this library throws by itself (std::bad_alloc may pass through).
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A file or a stream isn't what it claims to be (truncated, corrupt, foreign, unsupported).
struct format_error : error {
  using error::error;
};

/// The operating system refused a file or a mapping.
struct io_error : error {
  using error::error;
};

/// A caller's value is outside of what is allowed.
struct argument_error : error {
  using error::error;
};

/// The prompt and the tokens asked for don't fit into the model's context.
struct context_error : argument_error {
  using argument_error::argument_error;
};

/// The caller's cancellation was seen. Nothing half-made is left in a cache or a session.
struct cancelled_error : error {
  using error::error;
};

/// A GPU or its driver refused an operation. What the operation was to change is undefined; other sessions and the process go on.
struct cuda_error : error {
  using error::error;
};

/// A GPU hasn't as much memory free as an operation needs. Memory that is given back lets it be tried again.
struct cuda_memory_error : cuda_error {
  cuda_memory_error(const std::string& what, std::size_t needed) : cuda_error(what), needed_bytes(needed) {}
  std::size_t needed_bytes;
};

/// Concatenates anything that an ostream prints; the way messages are put together.
template <class... Parts>
[[nodiscard]] std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace blockattn::inline v0
