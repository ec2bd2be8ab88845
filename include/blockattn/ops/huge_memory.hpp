// Memory that is taken once and kept, in the system's large pages where it has them: fewer pages to fault in, fewer to look up.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "blockattn/core/shape.hpp"

namespace blockattn::inline v0 {

/// Pieces of memory that live as long as the object. Only what is written to takes room.
class huge_memory {
 public:
  /// `bytes` bytes, uninitialised, 64-byte aligned. Throws std::bad_alloc. One call at a time.
  [[nodiscard]] std::byte* take(index_t bytes) {
    const std::size_t size = (static_cast<std::size_t>(bytes) + 63) / 64 * 64;
    if (size > left_) add_chunk(size);
    std::byte* result = chunks_.back().get() + used_;
    used_ += size;
    left_ -= size;
    return result;
  }

 private:
  static constexpr std::size_t page = std::size_t{2} << 20;
  struct release {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{page}); }
  };

  void add_chunk(std::size_t least) {
    const std::size_t size = (std::max(least, std::size_t{32} << 20) + page - 1) / page * page;
    chunks_.emplace_back(static_cast<std::byte*>(::operator new(size, std::align_val_t{page})));
#if defined(MADV_HUGEPAGE)
    (void)::madvise(chunks_.back().get(), size, MADV_HUGEPAGE);  // advice: small pages serve as well
#endif
    used_ = 0;
    left_ = size;
  }

  std::vector<std::unique_ptr<std::byte, release>> chunks_;
  std::size_t used_ = 0, left_ = 0;
};

}  // namespace blockattn::inline v0
