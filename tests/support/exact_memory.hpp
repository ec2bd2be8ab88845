// Bytes in memory of exactly their size, so that a sanitizer sees every step past their end. (A memory map ends at a
// page.)
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <span>
#include <string_view>

namespace blockattn_test {

/// A copy of some bytes, aligned to 64 bytes.
class exact_memory {
 public:
  explicit exact_memory(std::string_view bytes)
      : data_(static_cast<std::byte*>(::operator new (bytes.size(), std::align_val_t{64}))), size_(bytes.size()) {
    if (!bytes.empty()) std::memcpy(data_, bytes.data(), bytes.size());
  }
  exact_memory(const exact_memory&) = delete;
  exact_memory& operator=(const exact_memory&) = delete;
  ~exact_memory() { ::operator delete (data_, std::align_val_t{64}); }

  [[nodiscard]] std::span<const std::byte> span() const { return {data_, size_}; }

 private:
  std::byte* data_;
  std::size_t size_;
};

}  // namespace blockattn_test
