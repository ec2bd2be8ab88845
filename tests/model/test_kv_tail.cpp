// The growing tail keeps every row where its contract says, whatever the types of keys and values.
#include <catch2/catch.hpp>

#include <cstring>
#include <vector>

#include "blockattn/model/kv_tail.hpp"

using namespace blockattn;

namespace {

/// A byte that tells layer, head, token and half apart.
std::byte mark(index_t l, index_t h, index_t t, bool value) { return static_cast<std::byte>(97 * l + 31 * h + 2 * t + (value ? 1 : 0)); }

void fill(kv_tail& tail, index_t first, index_t last) {
  const kv_layout& layout = tail.layout();
  for (index_t l = 0; l < layout.layers; ++l)
    for (index_t h = 0; h < layout.kv_heads; ++h)
      for (index_t t = first; t < last; ++t) {
        std::memset(tail.key(l, h, t), std::to_integer<int>(mark(l, h, t, false)), static_cast<std::size_t>(layout.key_row_bytes()));
        std::memset(tail.value(l, h, t), std::to_integer<int>(mark(l, h, t, true)), static_cast<std::size_t>(layout.value_row_bytes()));
      }
}

bool all_bytes(const std::byte* data, index_t count, std::byte value) {
  for (index_t i = 0; i < count; ++i)
    if (data[i] != value) return false;
  return true;
}

/// Whether the view's first token is number `first` of the tail and every row is marked as its own.
bool marked(const kv_view& view, const kv_layout& layout, index_t l, index_t first) {
  for (index_t h = 0; h < layout.kv_heads; ++h)
    for (index_t t = 0; t < view.tokens; ++t) {
      const index_t row = h * view.head_stride + t;
      if (!all_bytes(view.keys + row * layout.key_row_bytes(), layout.key_row_bytes(), mark(l, h, first + t, false))) return false;
      if (!all_bytes(view.values + row * layout.value_row_bytes(), layout.value_row_bytes(), mark(l, h, first + t, true))) return false;
    }
  return true;
}

}  // namespace

TEST_CASE("a tail grows, splits into pieces and becomes a block without moving a byte of a row", "[model][kv]") {
  for (const dtype keys : kv_dtypes)
    for (const dtype values : kv_dtypes) {
      const kv_layout layout{2, 3, 64, {keys, values}};
      INFO(to_string(layout.types));
      kv_tail tail(layout);
      tail.append(5, 0);
      fill(tail, 0, 5);
      tail.append(4, 20);  // a block lies in between
      fill(tail, 5, 9);
      tail.append(14, 24);
      fill(tail, 9, 23);
      for (index_t l = 0; l < layout.layers; ++l) {
        std::vector<kv_segment> segments;
        tail.append_segments(l, segments);
        REQUIRE(segments.size() == 2);
        CHECK(segments[0].position == 0);
        CHECK(segments[1].position == 20);
        CHECK(segments[1].kv.tokens == 18);
        CHECK(segments[1].kv.types == layout.types);
        CHECK(marked(segments[0].kv, layout, l, 0));
        CHECK(marked(segments[1].kv, layout, l, 5));
      }
      kv_tail exact(layout, 7);
      exact.append(7, 0);
      fill(exact, 0, 7);
      const auto block = exact.finish();
      for (index_t l = 0; l < layout.layers; ++l) CHECK(marked(block->layer(l), layout, l, 0));
    }
}
