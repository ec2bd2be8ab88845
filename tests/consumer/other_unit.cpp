#include <blockattn/blockattn.hpp>

std::size_t blocks_of_other_unit();

std::size_t blocks_of_other_unit() {
  const blockattn::block_cache cache(std::size_t{1} << 20);
  return static_cast<std::size_t>(cache.stats().blocks);
}
