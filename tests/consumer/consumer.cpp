// Includes everything, uses a little of it, and is linked from two files to see that it can be.
#include <blockattn/blockattn.hpp>
#include <iostream>

std::size_t blocks_of_other_unit();

int main() {
  const blockattn::block_cache cache(std::size_t{1} << 20);
  if (cache.stats().blocks != 0 || blocks_of_other_unit() != 0) return 1;
  try {
    blockattn::session assistant(blockattn::model::load("/nowhere/model.gguf"));
    return 1;
  } catch (const blockattn::io_error&) {
    std::cout << "blockattn " << blockattn::version_string << '\n';
  }
}
