// The layout of keys and values: a contract, since caches and files depend on its bytes.
#include <catch2/catch.hpp>

#include <cstdint>
#include <set>
#include <vector>

#include "blockattn/core/kv.hpp"

using namespace blockattn;

TEST_CASE("a block is, layer by layer, the keys of all heads and then the values, without padding", "[core][kv]") {
  for (const dtype keys : kv_dtypes)
    for (const dtype values : kv_dtypes) {
      const kv_layout layout{3, 2, 64, {keys, values}};
      const index_t tokens = 5;
      kv_block block(layout, tokens);
      INFO(to_string(layout.types));
      CHECK(layout.key_row_bytes() == 64 / block_values(keys) * block_bytes(keys));
      CHECK(layout.token_bytes() == 3 * 2 * (layout.key_row_bytes() + layout.value_row_bytes()));
      CHECK(block.bytes() == tokens * layout.token_bytes());
      CHECK(reinterpret_cast<std::uintptr_t>(block.data()) % 64 == 0);
      const std::byte* at = block.data();
      for (index_t l = 0; l < layout.layers; ++l) {
        const kv_view view = block.layer(l);
        CHECK(view.keys == at);
        at += 2 * tokens * layout.key_row_bytes();
        CHECK(view.values == at);
        at += 2 * tokens * layout.value_row_bytes();
        CHECK(view.tokens == tokens);
        CHECK(view.head_stride == tokens);
        CHECK(view.types == layout.types);
      }
      CHECK(at == block.data() + block.bytes());
    }
}

TEST_CASE("bytes of a token by type", "[core][kv]") {
  const auto bytes = [](kv_types types) { return kv_layout{30, 3, 64, types}.token_bytes(); };
  CHECK(bytes(dtype::f32) == 46080);
  CHECK(bytes(dtype::f16) == 23040);
  CHECK(bytes(dtype::bf16) == 23040);
  CHECK(bytes(dtype::q8_0) == 12240);
  CHECK(bytes(dtype::q4_0) == 6480);
  CHECK(bytes({dtype::q8_0, dtype::q4_0}) == 9360);
  CHECK(bytes(dtype::q4_h) == 6120);
  CHECK(bytes({dtype::q5_h, dtype::q4_h}) == 6840);
}

TEST_CASE("types of keys and values by name", "[core][kv]") {
  for (const dtype type : kv_dtypes) CHECK(parse_kv_types(name(type)) == kv_types(type));
  CHECK(parse_kv_types("q5_h:q4_h") == kv_types(dtype::q5_h, dtype::q4_h));
  CHECK(parse_kv_types("q8_0:q4_0") == kv_types(dtype::q8_0, dtype::q4_0));
  CHECK(to_string(kv_types(dtype::q8_0, dtype::q4_0)) == "q8_0:q4_0");
  CHECK(to_string(kv_types(dtype::f16)) == "f16");
  for (const char* bad : {"", ":", "q8_0:", ":f16", "q4_1", "Q8_0", "f16:bf16:f32", "f16 ", "q5_k"})
    CHECK_THROWS_WITH(parse_kv_types(bad), Catch::Contains(std::string("'") + bad + "'") && Catch::Contains("q8_0") && Catch::Contains("KEYS:VALUES"));
}

TEST_CASE("what grows to transformed keys and values is of a float type, everything else of its own", "[core][kv]") {
  CHECK(growing({dtype::q5_h, dtype::q4_h}, dtype::f16) == kv_types(dtype::f16));
  CHECK(growing({dtype::q8_0, dtype::q4_h}, dtype::f32) == kv_types(dtype::q8_0, dtype::f32));
  for (const dtype type : {dtype::f32, dtype::f16, dtype::bf16, dtype::q8_0, dtype::q4_0}) CHECK(growing(type, dtype::f16) == kv_types(type));
}

TEST_CASE("a layout that can't be stored is refused with what is allowed", "[core][kv]") {
  for (const dtype type : kv_dtypes) CHECK(checked({1, 1, 64, type}) == kv_layout{1, 1, 64, type});
  CHECK_NOTHROW(checked({1, 1, 80, dtype::bf16}));
  CHECK_THROWS_WITH(checked({1, 1, 80, {dtype::f16, dtype::q8_0}}), Catch::Contains("q8_0") && Catch::Contains("80") && Catch::Contains("32"));
  CHECK_THROWS_WITH(checked({1, 1, 96, {dtype::f16, dtype::q4_h}}), Catch::Contains("q4_h") && Catch::Contains("96") && Catch::Contains("64"));
  CHECK_THROWS_AS(checked({1, 1, 48, {dtype::q4_0, dtype::f32}}), argument_error);
  CHECK_THROWS_WITH(checked({1, 1, 256, dtype::q4_k}), Catch::Contains("q4_k") && Catch::Contains("bf16"));
}
