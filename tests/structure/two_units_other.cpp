#include "two_units.hpp"

#include <blockattn/blockattn.hpp>

const char* version_of_other_unit(const char* const* version_here) {
  return version_here == &blockattn::version_string ? blockattn::version_string : nullptr;
}
