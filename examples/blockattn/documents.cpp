#include "documents.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "blockattn/core/error.hpp"
#include "blockattn/text/utf8.hpp"

namespace blockattn_command {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t largest_document = std::int64_t{256} << 20;

bool is_document_name(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension == ".txt" || extension == ".md";
}

std::string skipped(const std::string& name, const std::string& reason) {
  return "[documents] " + name + ": " + reason + "; skipped";
}

void add_file(const fs::path& path, const std::string& name, folder_listing& listing) {
  struct ::stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    listing.warnings.push_back(skipped(name, std::strerror(errno)));
  } else if (!S_ISREG(status.st_mode)) {
    listing.warnings.push_back(skipped(name, "not a regular file"));
  } else {
    const std::int64_t modified = std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
    listing.files.push_back({path, name, status.st_size, modified});
  }
}

void walk(const fs::path& folder, const std::string& prefix, folder_listing& listing) {
  std::error_code failed;
  fs::directory_iterator entries(folder, failed);
  if (failed) {
    listing.warnings.push_back(skipped(prefix.empty() ? folder.string() : prefix, failed.message()));
    return;
  }
  while (entries != fs::directory_iterator()) {
    const fs::path path = entries->path();
    const std::string name = path.filename().string();
    std::error_code unknown;
    const fs::file_status status = entries->symlink_status(unknown);
    if (name.starts_with('.')) {
      // hidden
    } else if (fs::is_directory(status)) {
      walk(path, prefix + name + "/", listing);
    } else if (is_document_name(path) && !(fs::is_symlink(status) && fs::is_directory(path, unknown))) {
      add_file(path, prefix + name, listing);
    }
    entries.increment(failed);
    if (failed) {
      listing.warnings.push_back(skipped(prefix + "...", failed.message()));
      return;
    }
  }
}

}  // namespace

folder_listing list_documents(const fs::path& folder) {
  std::error_code failed;
  const fs::file_status status = fs::status(folder, failed);
  if (!fs::exists(status))
    throw blockattn::io_error(blockattn::cat("[documents] ", folder.string(),
                                             ": no such folder. Give a folder of .txt or .md files with --docs."));
  if (!fs::is_directory(status))
    throw blockattn::io_error(blockattn::cat("[documents] ", folder.string(),
                                             ": not a folder. Give the folder that holds the documents with --docs."));
  if (fs::directory_iterator probe(folder, failed); failed)
    throw blockattn::io_error(blockattn::cat("[documents] ", folder.string(), ": can't be read: ", failed.message()));
  folder_listing listing;
  walk(folder, {}, listing);
  std::sort(listing.files.begin(), listing.files.end(),
            [](const document_file& a, const document_file& b) { return a.name < b.name; });
  return listing;
}

std::string read_bytes(const fs::path& path) {
  const auto fail = [&](const std::string& reason) {
    throw blockattn::io_error(blockattn::cat("[documents] ", path.string(), ": ", reason));
  };
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(blockattn::cat("can't open: ", std::strerror(errno)));
  std::string bytes;
  char buffer[65536];
  ssize_t got = 0;
  int reason = 0;
  do {
    got = ::read(descriptor, buffer, sizeof(buffer));
    reason = errno;
    if (got > 0) bytes.append(buffer, static_cast<std::size_t>(got));
  } while ((got > 0 && static_cast<std::int64_t>(bytes.size()) <= largest_document) || (got < 0 && reason == EINTR));
  ::close(descriptor);
  if (got < 0) fail(blockattn::cat("can't read: ", std::strerror(reason)));
  if (got > 0) fail(blockattn::cat("larger than ", largest_document >> 20, " MiB. Split it into smaller files."));
  return bytes;
}

document_text to_text(const std::string& bytes) {
  auto valid = blockattn::to_valid_utf8(bytes);
  if (valid.text.starts_with("\xef\xbb\xbf")) valid.text.erase(0, 3);
  std::replace(valid.text.begin(), valid.text.end(), '\0', ' ');
  return {std::move(valid.text), valid.replaced};
}

}  // namespace blockattn_command
