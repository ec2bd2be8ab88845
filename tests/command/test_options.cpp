// Flags that are more than a value.
#include <catch2/catch.hpp>

#include "options.hpp"

using blockattn_command::split_adapter;

TEST_CASE("an adapter may carry a scale after its last colon", "[app]") {
  using expected = std::pair<std::string, float>;
  CHECK(split_adapter("a.gguf") == expected("a.gguf", 1));
  CHECK(split_adapter("a.gguf:0.5") == expected("a.gguf", 0.5F));
  CHECK(split_adapter("a.gguf:-2") == expected("a.gguf", -2));
  CHECK(split_adapter("c:/a.gguf") == expected("c:/a.gguf", 1));
  CHECK(split_adapter("a.gguf:") == expected("a.gguf:", 1));
  CHECK(split_adapter("a.gguf:0.5x") == expected("a.gguf:0.5x", 1));
}
