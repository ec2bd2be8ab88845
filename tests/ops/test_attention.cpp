// One layer's attention over tasks: whatever the cut by rows and keys, the oracle's result, and the same bits for any number of threads.
#include <catch2/catch.hpp>

#include <oneapi/tbb/task_arena.h>

#include <cmath>
#include <random>
#include <vector>

#include "blockattn/kernels/dispatch.hpp"
#include "blockattn/ops/attention.hpp"
#include "ref/reference.hpp"

using namespace blockattn;

namespace {

/// Keys and values of one layer in blocks of the given lengths, at their places in a prompt.
struct placed {
  kv_layout layout;
  std::vector<kv_block> blocks;
  std::vector<kv_segment> segments;
  std::vector<segment_rotation> rotations;
  index_t end = 0;

  placed(const kv_layout& given, const std::vector<index_t>& lengths, std::mt19937& g) : layout(given) {
    std::normal_distribution<float> normal;
    for (const index_t n : lengths) {
      blocks.emplace_back(layout, n);
      std::vector<float> raw(static_cast<std::size_t>(layout.kv_heads * n * layout.head_dim));
      const kv_view view = blocks.back().layer(0);
      for (const bool values : {false, true}) {
        for (float& x : raw) x = normal(g);
        kernels().store_kv(values ? layout.types.values : layout.types.keys, raw.data(), static_cast<index_t>(raw.size()),
                           const_cast<std::byte*>(values ? view.values : view.keys));
      }
      segments.push_back({view, 0, end});
      rotations.emplace_back();
      end += n;
    }
  }

  /// All keys (or values) of a head in double precision.
  [[nodiscard]] std::vector<std::vector<double>> rows(index_t head, bool values) const {
    std::vector<std::vector<double>> result;
    for (const kv_block& block : blocks) {
      const kv_view view = block.layer(0);
      const dtype type = values ? layout.types.values : layout.types.keys;
      std::vector<float> row(static_cast<std::size_t>(layout.head_dim));
      for (index_t t = 0; t < block.tokens(); ++t) {
        kernels().load_kv(type, (values ? view.values : view.keys) + (head * block.tokens() + t) * row_bytes(type, layout.head_dim), layout.head_dim, row.data());
        result.emplace_back(row.begin(), row.end());
      }
    }
    return result;
  }
};

std::vector<float> run(const placed& p, const std::vector<float>& queries, index_t tokens, index_t group, index_t window, arithmetic kind) {
  std::vector<float> out(queries.size());
  attention_rule rule;
  rule.scale = 1 / std::sqrt(static_cast<float>(p.layout.head_dim));
  rule.window = window;
  attend(queries.data(), tokens, p.end - tokens, {p.layout.kv_heads * group, p.layout.kv_heads, p.layout.head_dim}, rule, p.segments, p.rotations, out.data(),
         {&kernels(), kind});
  return out;
}

/// Largest difference from the oracle over some of the rows.
double error_of(const placed& p, const std::vector<float>& queries, const std::vector<float>& out, index_t tokens, index_t group, index_t window) {
  double most = 0;
  const index_t heads = p.layout.kv_heads * group, size = p.layout.head_dim;
  for (index_t head = 0; head < p.layout.kv_heads; ++head) {
    const auto keys = p.rows(head, false), values = p.rows(head, true);
    for (index_t t = 0; t < tokens; t += std::max<index_t>(tokens / 3, 1)) {
      const std::size_t at = static_cast<std::size_t>((t * heads + head * group + t % group) * size);
      const index_t seen = p.end - tokens + t + 1, first = window > 0 ? std::max<index_t>(seen - window, 0) : 0;
      const auto expected = blockattn_test::attention({queries.begin() + static_cast<std::ptrdiff_t>(at), queries.begin() + static_cast<std::ptrdiff_t>(at) + size},
                                                      {keys.begin() + first, keys.begin() + seen}, {values.begin() + first, values.begin() + seen},
                                                      1 / std::sqrt(static_cast<double>(size)));
      for (std::size_t d = 0; d < static_cast<std::size_t>(size); ++d) most = std::max(most, std::abs(expected[d] - out[at + d]));
    }
  }
  return most;
}

}  // namespace

TEST_CASE("keys cut into pieces give the whole's attention, with the same bits for one thread and two", "[ops][attention]") {
  std::mt19937 g(1);
  std::normal_distribution<float> normal;
  for (const kv_types types : {kv_types(dtype::f32), kv_types(dtype::q8_0, dtype::q4_0), kv_types(dtype::q5_h, dtype::q4_h)}) {
    const placed p({1, 2, 64, types}, {150, 1000, 1, 2001, 700, 80}, g);
    for (const index_t tokens : {1, 2, 50})
      for (const index_t window : {0, 1500})
        for (const arithmetic kind : {arithmetic::f32, arithmetic::fast}) {
          INFO(to_string(types) << " T " << tokens << " window " << window << " fast " << (kind == arithmetic::fast));
          std::vector<float> queries(static_cast<std::size_t>(tokens * 6 * 64));
          for (float& x : queries) x = 2 * normal(g);
          std::vector<float> one, two;
          oneapi::tbb::task_arena(1).execute([&] { one = run(p, queries, tokens, 3, window, kind); });
          oneapi::tbb::task_arena(2).execute([&] { two = run(p, queries, tokens, 3, window, kind); });
          CHECK(one == two);
          CHECK(error_of(p, queries, one, tokens, 3, window) < (kind == arithmetic::fast && tokens > 1 ? 1e-3 : 1e-5));
        }
  }
}

TEST_CASE("what no window reaches doesn't change how keys are cut", "[ops][attention]") {
  std::mt19937 g(2), h(3);
  std::normal_distribution<float> normal;
  std::vector<float> queries(2 * 6 * 64);
  for (float& x : queries) x = normal(g);
  const std::vector<index_t> near = {1200, 1300};
  std::vector<std::vector<float>> results;
  for (const std::vector<index_t>& far : {std::vector<index_t>{}, {64}, {3000, 640}}) {
    std::vector<index_t> lengths = far;
    lengths.insert(lengths.end(), near.begin(), near.end());
    std::mt19937 same(4);
    placed p({1, 2, 64, dtype::q8_0}, near, same);
    const placed all({1, 2, 64, dtype::q8_0}, lengths, h);
    index_t before = 0;
    for (const index_t n : far) before += n;
    std::vector<kv_segment> segments(all.segments.begin(), all.segments.begin() + static_cast<std::ptrdiff_t>(far.size()));
    for (kv_segment s : p.segments) {
      s.position += before;
      segments.push_back(s);
    }
    p.segments = segments;
    p.rotations.assign(segments.size(), {});
    p.end += before;
    results.push_back(run(p, queries, 2, 3, 2400, arithmetic::fast));
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}
