// Blocks stored as other types: every row is what storing its numbers gives.
#include <catch2/catch.hpp>

#include <oneapi/tbb/task_arena.h>

#include <cstring>
#include <random>
#include <vector>

#include "blockattn/kernels/dispatch.hpp"
#include "blockattn/ops/kv_conversion.hpp"

using namespace blockattn;

namespace {

std::shared_ptr<const kv_block> random_block(const kv_layout& layout, index_t tokens) {
  std::mt19937 g(3);
  std::normal_distribution<float> normal;
  auto block = std::make_shared<kv_block>(layout, tokens);
  std::vector<float> row(static_cast<std::size_t>(layout.head_dim));
  std::byte* at = block->data();
  for (index_t l = 0; l < layout.layers; ++l)
    for (const dtype type : {layout.types.keys, layout.types.values})
      for (index_t i = 0; i < layout.kv_heads * tokens; ++i, at += row_bytes(type, layout.head_dim)) {
        for (float& x : row) x = normal(g);
        kernels().store_kv(type, row.data(), layout.head_dim, at);
      }
  return block;
}

}  // namespace

TEST_CASE("a block stored as other types is its rows stored so, by one thread and two", "[ops][kv]") {
  for (const kv_types from : {kv_types(dtype::f32), kv_types(dtype::f16), kv_types(dtype::f16, dtype::q8_0)})
    for (const kv_types to : {kv_types(dtype::q5_h, dtype::q4_h), kv_types(dtype::q4_h), kv_types(dtype::f16, dtype::q4_h), kv_types(dtype::bf16)})
      for (const index_t head_dim : {64, 128}) {
        const kv_layout layout{3, 2, head_dim, from};
        const index_t tokens = 7;
        const auto block = random_block(layout, tokens);
        std::shared_ptr<const kv_block> one, two;
        oneapi::tbb::task_arena(1).execute([&] { one = stored_as(to, block, kernels()); });
        oneapi::tbb::task_arena(2).execute([&] { two = stored_as(to, block, kernels()); });
        INFO(to_string(from) << " to " << to_string(to) << ", heads of " << head_dim);
        REQUIRE(one->layout() == kv_layout{3, 2, head_dim, to});
        REQUIRE(one->tokens() == tokens);
        CHECK(std::memcmp(one->data(), two->data(), static_cast<std::size_t>(one->bytes())) == 0);
        std::vector<float> row(static_cast<std::size_t>(head_dim));
        std::vector<std::byte> expected(static_cast<std::size_t>(4 * head_dim));
        int wrong = 0;
        for (index_t l = 0; l < layout.layers; ++l)
          for (const bool values : {false, true})
            for (index_t i = 0; i < layout.kv_heads * tokens; ++i) {
              const kv_view source = block->layer(l), target = one->layer(l);
              const dtype type_in = values ? from.values : from.keys, type_out = values ? to.values : to.keys;
              kernels().load_kv(type_in, (values ? source.values : source.keys) + i * row_bytes(type_in, head_dim), head_dim, row.data());
              kernels().store_kv(type_out, row.data(), head_dim, expected.data());
              const auto bytes = static_cast<std::size_t>(row_bytes(type_out, head_dim));
              wrong += std::memcmp((values ? target.values : target.keys) + i * row_bytes(type_out, head_dim), expected.data(), bytes) != 0 ? 1 : 0;
            }
        CHECK(wrong == 0);
      }
}

TEST_CASE("a block that is stored so already is given back, and what can't be is refused", "[ops][kv]") {
  const auto block = random_block({1, 1, 64, dtype::f16}, 3);
  CHECK(stored_as(dtype::f16, block, kernels()) == block);
  CHECK_THROWS_WITH(stored_as(dtype::q4_h, random_block({1, 1, 96, dtype::f16}, 3), kernels()), Catch::Contains("q4_h") && Catch::Contains("96"));
}
