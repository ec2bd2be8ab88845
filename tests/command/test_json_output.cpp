#include <catch2/catch.hpp>

#include "json_output.hpp"

using namespace blockattn_command;

TEST_CASE("an error as JSON says where", "[app][json]") {
  CHECK(error_json("[gguf] f: truncated").dump() == R"({"error":{"where":"gguf","message":"[gguf] f: truncated"}})");
  CHECK(error_json("plain").dump() == R"({"error":{"message":"plain"}})");
  CHECK(error_json("[open").dump() == R"({"error":{"message":"[open"}})");
}
