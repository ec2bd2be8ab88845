// The folder of documents: which files it has and what they hold. Knows nothing of passages or of the index.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace blockattn_command {

/// A .txt or .md file (any letter case) below the folder.
struct document_file {
  std::filesystem::path path;
  std::string name;           ///< relative to the folder, with '/'
  std::int64_t size = 0;      ///< bytes
  std::int64_t modified = 0;  ///< nanoseconds since 1970
};

struct folder_listing {
  std::vector<document_file> files;   ///< by name
  std::vector<std::string> warnings;  ///< one line for each file or folder that can't be read, naming it
};

/// Text of a document: UTF-8 always.
struct document_text {
  std::string text;
  std::int64_t replaced = 0;  ///< invalid byte sequences that became U+FFFD
};

/// All documents below `folder`, hidden ones (".name") left out, links to folders not followed.
/// Throws io_error if `folder` is missing, not a folder or can't be opened; what can't be read inside of it is a
/// warning.
[[nodiscard]] folder_listing list_documents(const std::filesystem::path& folder);

/// Bytes of the file. Throws io_error: can't open, can't read, or over a limit of 256 MiB.
[[nodiscard]] std::string read_bytes(const std::filesystem::path& path);

/// UTF-8 text from a document's bytes: a byte order mark is dropped, NUL becomes a space, invalid sequences U+FFFD.
[[nodiscard]] document_text to_text(const std::string& bytes);

}  // namespace blockattn_command
