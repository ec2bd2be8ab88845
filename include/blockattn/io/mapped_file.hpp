// A read-only memory map of a whole file (POSIX mmap), and its checked window.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

/// Maps a file for reading for as long as the object lives. Move-only.
/// Throws io_error (can't open, not a regular file, can't map) and format_error (empty file).
class mapped_file {
 public:
  explicit mapped_file(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw io_error(cat("[file] ", path.string(), ": can't open: ", std::strerror(errno), ". Check the path and its permissions."));
    struct ::stat status {};
    const bool known = ::fstat(descriptor, &status) == 0;
    if (!known || !S_ISREG(status.st_mode)) {
      ::close(descriptor);
      throw io_error(cat("[file] ", path.string(), ": not a regular file. Give the path of a file, not of a folder or a device."));
    }
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) {
      ::close(descriptor);
      throw format_error(cat("[file] ", path.string(), ": the file is empty. Interrupted download?"));
    }
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int reason = errno;
    ::close(descriptor);
    if (address == MAP_FAILED) throw io_error(cat("[file] ", path.string(), ": can't map ", size_, " bytes: ", std::strerror(reason)));
    data_ = static_cast<const std::byte*>(address);
  }

  mapped_file(mapped_file&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;
  ~mapped_file() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);  // NOLINT: munmap takes a mutable pointer
  }

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace blockattn::inline v0
