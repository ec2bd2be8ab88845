// The tiled attention kernels of a GPU against its plain float32 path: head sizes, pairings, windows, KV types, numbers of rows, scaled segments.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "blockattn/cuda/engine.hpp"
#include "support/gpu.hpp"

using namespace blockattn;

namespace {

struct shape {
  index_t head_dim;
  rope_pairing pairing;
  index_t window;
};

constexpr index_t width = 512, layers = 2, kv_heads = 3, heads = 9;

cuda::network_facts network(const shape& s) {
  cuda::network_facts f;
  f.synthetic = true;
  f.width = width, f.heads = heads, f.kv_heads = kv_heads, f.head_dim = s.head_dim, f.feed_forward = 1024, f.vocabulary = 1000;
  f.attention_scale = 3 / std::sqrt(static_cast<float>(s.head_dim));
  cuda::rope_facts rope{s.pairing, s.head_dim, 1, {}};
  for (index_t i = 0; i < s.head_dim / 2; ++i) rope.frequency.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(s.head_dim)));
  f.ropes.push_back(rope);
  const auto matrix = [](index_t rows, index_t columns) { return weight_view{dtype::bf16, nullptr, rows, columns}; };
  for (index_t l = 0; l < layers; ++l) {
    cuda::layer_facts x;
    x.query = matrix(heads * s.head_dim, width), x.key = x.value = matrix(kv_heads * s.head_dim, width), x.output = matrix(width, heads * s.head_dim);
    x.gate = x.up = matrix(1024, width), x.down = matrix(width, 1024);
    x.rope = 0, x.window = s.window;
    f.layers.push_back(x);
  }
  f.embedding = f.head = matrix(1000, width);
  return f;
}

/// Hidden states of four blocks on their own, then of runs of different lengths over all of them, the first and the third one with `scaling`.
std::vector<float> hidden_states(const shape& s, arithmetic kind, kv_types kv, segment_scaling scaling = {}) {
  cuda::engine engine(network(s), {0, kind, kv});
  const kv_layout layout{layers, kv_heads, s.head_dim, kv};
  std::vector<token_id> ids;
  for (index_t i = 0; i < 800; ++i) ids.push_back(static_cast<token_id>((i * 7919 + 13) % 1000));
  std::vector<float> all;
  std::vector<cuda::segment> placed;
  std::vector<std::shared_ptr<std::byte>> keep;
  index_t offset = 0;
  const auto run = [&](index_t n, index_t position, std::vector<cuda::segment> segments) {
    keep.push_back(engine.allocate(layout.token_bytes() * n));
    std::byte* tail = keep.back().get();
    segments.push_back({tail, n, 0, n, 0, position});
    std::vector<float> hidden(static_cast<std::size_t>(n * width));
    cuda::forward_run r;
    r.ids = std::span(ids).subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(n));
    r.position = position, r.segments = segments, r.tail = tail, r.tail_stride = n, r.rows = n;
    engine.forward(r, hidden.data());
    all.insert(all.end(), hidden.begin(), hidden.end());
    return tail;
  };
  for (const index_t n : {150, 33, 210, 64}) {
    const std::byte* block = run(n, 0, {});
    placed.push_back({block, n, 0, n, static_cast<double>(offset), offset, placed.size() % 2 == 0 ? scaling : segment_scaling{}});
    offset += n;
  }
  for (const index_t n : {50, 1, 3, 12, 100, 130}) run(n, offset, placed);
  return all;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / size);
}

}  // namespace

TEST_CASE("Tiled attention on a GPU equals the plain one within the rounding of its types") {
  if (!blockattn_test::have_gpu()) return;
  for (const index_t head_dim : {64, 128, 256})
    for (const rope_pairing pairing : {rope_pairing::adjacent, rope_pairing::halves})
      for (const index_t window : {0, 100}) {
        const shape s{head_dim, pairing, window};
        const std::vector<float> exact = hidden_states(s, arithmetic::f32, dtype::f32);
        for (const kv_types kv : {kv_types(dtype::bf16), kv_types(dtype::f16), kv_types(dtype::q8_0), kv_types(dtype::q8_0, dtype::q4_0), kv_types(dtype::bf16, dtype::q8_0)}) {
          INFO(head_dim << " channels, pairing " << static_cast<int>(pairing) << ", window " << window << ", " << to_string(kv));
          CHECK(relative_error(hidden_states(s, arithmetic::fast, kv), exact) < (kv.values == dtype::q4_0 ? 0.15 : 0.015));
        }
      }
}

TEST_CASE("Tiled attention over scaled segments on a GPU equals the plain one within the rounding of its types") {
  if (!blockattn_test::have_gpu()) return;
  for (const index_t head_dim : {64, 128, 256})
    for (const index_t window : {0, 100}) {  // in a window, some rows see no scaled segment
      const shape s{head_dim, rope_pairing::halves, window};
      const std::vector<float> plain = hidden_states(s, arithmetic::f32, dtype::f32);
      CHECK(relative_error(hidden_states(s, arithmetic::f32, dtype::f32, {1, 1.000001F}), plain) < 1e-4);
      for (const segment_scaling scaling : {segment_scaling{0.9F, 0.9F}, segment_scaling{0.5F, 1.2F}}) {
        const std::vector<float> exact = hidden_states(s, arithmetic::f32, dtype::f32, scaling);
        INFO(head_dim << " channels, window " << window << ", temperature " << scaling.temperature);
        CHECK(relative_error(exact, plain) > 0.005);
        for (const kv_types kv : {kv_types(dtype::bf16), kv_types(dtype::f16), kv_types(dtype::q8_0), kv_types(dtype::bf16, dtype::q8_0)}) {
          INFO(to_string(kv));
          CHECK(relative_error(hidden_states(s, arithmetic::fast, kv, scaling), exact) < 0.015);
        }
      }
    }
}

TEST_CASE("A GPU gives the same bits again") {
  if (!blockattn_test::have_gpu()) return;
  const shape s{128, rope_pairing::halves, 0};
  for (const segment_scaling scaling : {segment_scaling{}, segment_scaling{0.9F, 0.9F}})
    CHECK(hidden_states(s, arithmetic::fast, dtype::bf16, scaling) == hidden_states(s, arithmetic::fast, dtype::bf16, scaling));
}

TEST_CASE("On compute capability 9.0, segments in pieces of any length give the bits of whole ones") {
  if (!blockattn_test::have_gpu() || cuda::find_devices().devices[0].capability != 90) return;
  for (const index_t head_dim : {64, 128})
    for (const index_t window : {0, 100})
      for (const kv_types kv : {kv_types(dtype::bf16), kv_types(dtype::q8_0), kv_types(dtype::q8_0, dtype::q4_0), kv_types(dtype::q4_0)}) {
        INFO(head_dim << " channels, window " << window << ", " << to_string(kv));
        cuda::engine engine(network({head_dim, rope_pairing::halves, window}), {0, arithmetic::fast, kv});
        const kv_layout layout{layers, kv_heads, head_dim, kv};
        std::vector<token_id> ids;
        for (index_t i = 0; i < 1000; ++i) ids.push_back(static_cast<token_id>((i * 7919 + 13) % 1000));
        std::vector<std::shared_ptr<std::byte>> keep;
        const auto run = [&](index_t first, index_t n, index_t position, std::vector<cuda::segment> segments) {
          keep.push_back(engine.allocate(layout.token_bytes() * n));
          segments.push_back({keep.back().get(), n, 0, n, 0, position});
          std::vector<float> hidden(static_cast<std::size_t>(n * width));
          cuda::forward_run r;
          r.ids = std::span(ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n));
          r.position = position, r.segments = segments, r.tail = keep.back().get(), r.tail_stride = n, r.rows = n;
          engine.forward(r, hidden.data());
          return hidden;
        };
        std::vector<cuda::segment> whole, pieces;
        index_t offset = 0, piece = 1;
        for (const index_t n : {150, 33, 210, 201}) {
          (void)run(offset, n, 0, {});
          whole.push_back({keep.back().get(), n, 0, n, static_cast<double>(offset), offset});
          for (index_t at = 0; at < n;) {
            const index_t count = std::min(piece, n - at);
            pieces.push_back({keep.back().get(), n, at, count, static_cast<double>(offset), offset + at});
            at += count, piece = piece % 7 + 1;
          }
          offset += n;
        }
        for (const index_t n : {1, 50, 100}) CHECK(run(offset, n, offset, whole) == run(offset, n, offset, pieces));
      }
}
