#include <catch2/catch.hpp>
#include <string>

#include "blockattn/version.hpp"

TEST_CASE("version: the text and the macros say the same") {
  CHECK(std::string(blockattn::version_string) == std::to_string(BLOCKATTN_VERSION_MAJOR) + "." +
                                                      std::to_string(BLOCKATTN_VERSION_MINOR) + "." +
                                                      std::to_string(BLOCKATTN_VERSION_PATCH));
}
