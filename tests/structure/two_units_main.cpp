#include "two_units.hpp"

#include <blockattn/blockattn.hpp>
#include <iostream>

int main() {
  const char* version = version_of_other_unit(&blockattn::version_string);
  if (version == nullptr) return 1;
  std::cout << version << '\n';
}
