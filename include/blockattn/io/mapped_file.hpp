// A read-only memory map of a whole file (POSIX mmap).
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "blockattn/core/error.hpp"

namespace blockattn::inline v0 {

/// Has the system look up all pages of `bytes` at once, which lie in a map and are about to be read: else that costs an interruption for every few of them.
/// Only saves time: does nothing where it can't.
inline void populate(std::span<const std::byte> bytes) {
#if defined(MADV_POPULATE_READ)
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(bytes.data()) / page * page;
  const auto last = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size());
  (void)::madvise(reinterpret_cast<void*>(first), last - first, MADV_POPULATE_READ);
#else
  (void)bytes;
#endif
}

/// Maps a file for reading for as long as the object lives. Move-only; the bytes stay where they are when it moves.
/// Throws io_error (can't open, not a regular file, can't map) and format_error (empty file).
/// Replacing the file by another (rename) is safe while it is mapped. Shortening it in place isn't: reading what was
/// cut off ends the process (SIGBUS), as with every memory map.
class mapped_file {
 public:
  explicit mapped_file(const std::filesystem::path& path) {
    const descriptor file(path);
    struct ::stat status {};
    if (::fstat(file.number, &status) != 0)
      throw io_error(cat("[file] ", path.string(), ": can't ask for its size: ", reason(errno)));
    if (!S_ISREG(status.st_mode))
      throw io_error(cat("[file] ", path.string(), ": ",
                         S_ISDIR(status.st_mode) ? "is a folder" : "isn't a regular file",
                         "; allowed: a regular file. Give the path of the file itself."));
    if (status.st_size == 0)
      throw format_error(cat("[file] ", path.string(), ": the file is empty. Interrupted download? Fetch it again."));
    const auto size = static_cast<std::size_t>(status.st_size);
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
    if (address == MAP_FAILED)
      throw io_error(cat("[file] ", path.string(), ": can't map its ", size, " bytes: ", reason(errno)));
    data_ = static_cast<std::byte*>(address);
    size_ = size;
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
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  /// An open file, closed at the end of its scope: the map doesn't need it any more.
  struct descriptor {
    // O_NONBLOCK: opening a named pipe must not wait for a writer. It changes nothing for regular files.
    explicit descriptor(const std::filesystem::path& path)
        : number(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
      if (number < 0)
        throw io_error(
            cat("[file] ", path.string(), ": can't open: ", reason(errno), ". Check the path and its permissions."));
    }
    descriptor(const descriptor&) = delete;
    descriptor& operator=(const descriptor&) = delete;
    ~descriptor() { ::close(number); }

    int number;
  };

  /// What an errno means. (std::strerror isn't safe in several threads.)
  static std::string reason(int number) { return std::generic_category().message(number); }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace blockattn::inline v0
