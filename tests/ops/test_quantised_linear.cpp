// Linear layers of quantised weights: with and without kept copies, alone and in company, by one thread and several, with adapters on top.
#include <catch2/catch.hpp>

#include <oneapi/tbb/task_arena.h>

#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "blockattn/core/dtype_decode.hpp"
#include "blockattn/ops/linear.hpp"
#include "kernels/kernel_operands.hpp"

using namespace blockattn;
using namespace blockattn_test;

namespace {

struct quantised_matrix {
  buffer<std::byte> bytes;
  linear_weight weight;

  quantised_matrix(generator& g, dtype type, index_t rows, index_t columns, bool wide = false) : bytes(row_bytes(type, rows * columns)) {
    fill_weights(g, type, rows * columns, bytes.data());
    weight.base = {type, bytes.data(), rows, columns};
    weight.wide = wide;
  }
};

std::vector<float> activations(generator& g, index_t n) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& value : x) value = draw(g);
  return x;
}

std::vector<float> product(const std::vector<float>& x, index_t tokens, const linear_weight& w, const compute_options& compute, int threads = 2) {
  std::vector<float> y(static_cast<std::size_t>(tokens * w.base.rows), -77.0F);
  oneapi::tbb::task_arena(threads).execute([&] { linear(x.data(), tokens, w, y.data(), compute); });
  return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("a kept copy of quantised weights changes no bit of many tokens' products", "[ops][quantised]") {
  generator g(31);
  for (const isa level : levels())
    for (const dtype type : {dtype::q4_1, dtype::q8_0, dtype::q5_0, dtype::q4_k, dtype::q6_k, dtype::iq4_xs})
      for (const bool wide : {false, true}) {
        INFO(name(level) << ' ' << name(type) << " wide " << wide);
        const index_t rows = 83, columns = 256, tokens = 21;
        const quantised_matrix w(g, type, rows, columns, wide);
        const auto x = activations(g, tokens * columns);
        interleaved_store store;
        const compute_options kept{&kernels_of(level), arithmetic::fast, false, &store}, none{&kernels_of(level), arithmetic::fast};
        const auto first = product(x, tokens, w.weight, kept);
        CHECK(same_bits(first, product(x, tokens, w.weight, kept)));  // the copy is there by now
        CHECK(same_bits(first, product(x, tokens, w.weight, none, 1)));
        CHECK(store.bytes() == (rows + kernels_of(level).panel_rows - 1) / kernels_of(level).panel_rows * interleaved_bytes(type, kernels_of(level).panel_rows, columns));
        double worst = 0;
        for (index_t t = 0; t < tokens; ++t)
          for (index_t n = 0; n < rows; ++n) {
            double expected = 0, size = 0;
            for (index_t c = 0; c < columns; ++c) {
              const double term = weight_value(w.weight.base, n, c) * x[static_cast<std::size_t>(t * columns + c)];
              expected += term;
              size += term * term;
            }
            worst = std::max(worst, std::abs(first[static_cast<std::size_t>(t * rows + n)] - expected) / std::sqrt(size));
          }
        CHECK(worst < (wide && level != isa::amx ? 4e-3 : 0.05));
      }
}

TEST_CASE("with a copy, a few tokens are computed as they are among many", "[ops][quantised]") {
  generator g(32);
  for (const isa level : levels()) {
    INFO(name(level));
    const quantised_matrix w(g, dtype::q4_1, 83, 256);
    const auto x = activations(g, 21 * 256);
    interleaved_store store;
    compute_options compute{&kernels_of(level), arithmetic::fast, false, &store};
    const auto many = product(x, 21, w.weight, compute);
    compute.batched = level == isa::amx;  // whose tiles serve many tokens only
    for (const index_t tokens : {1, 3, 4, 5}) CHECK(same_bits(product(x, tokens, w.weight, compute), {many.begin(), many.begin() + tokens * 83}));
  }
}

TEST_CASE("exact arithmetic and few tokens without a copy stay float32", "[ops][quantised]") {
  generator g(33);
  const quantised_matrix w(g, dtype::q4_1, 40, 96);
  const auto x = activations(g, 7 * 96);
  interleaved_store store;
  const compute_options exact{&kernels(), arithmetic::f32, false, &store}, none{&kernels(), arithmetic::fast};
  for (const index_t tokens : {2, 7}) {
    const auto y = product(x, tokens, w.weight, exact);
    const auto rows = product(x, tokens, w.weight, tokens == 2 ? none : exact);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t n = 0; n < 40; ++n) {
        double expected = 0, size = 0;
        for (index_t c = 0; c < 96; ++c) {
          expected += weight_value(w.weight.base, n, c) * x[static_cast<std::size_t>(t * 96 + c)];
          size += std::abs(weight_value(w.weight.base, n, c) * x[static_cast<std::size_t>(t * 96 + c)]);
        }
        CHECK(std::abs(y[static_cast<std::size_t>(t * 40 + n)] - expected) <= 4e-6 * size);
        CHECK(std::abs(rows[static_cast<std::size_t>(t * 40 + n)] - expected) <= 4e-6 * size);
      }
  }
  CHECK(store.bytes() == 0);
}

TEST_CASE("adapters lie on quantised weights", "[ops][quantised]") {
  generator g(34);
  for (const index_t tokens : {1, 9}) {
    quantised_matrix w(g, dtype::q4_0, 70, 64);
    const auto a = activations(g, 8 * 64), b = activations(g, 70 * 8), x = activations(g, tokens * 64);
    interleaved_store store;
    const compute_options compute{&kernels(), arithmetic::fast, false, &store};
    const auto base = product(x, tokens, w.weight, compute);
    w.weight.updates.push_back({{dtype::f32, reinterpret_cast<const std::byte*>(a.data()), 8, 64}, {dtype::f32, reinterpret_cast<const std::byte*>(b.data()), 70, 8}, 0.5F});
    const auto changed = product(x, tokens, w.weight, compute);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t n = 0; n < 70; ++n) {
        double change = 0;
        for (index_t r = 0; r < 8; ++r)
          for (index_t c = 0; c < 64; ++c)
            change += 0.5 * b[static_cast<std::size_t>(n * 8 + r)] * a[static_cast<std::size_t>(r * 64 + c)] * x[static_cast<std::size_t>(t * 64 + c)];
        CHECK(changed[static_cast<std::size_t>(t * 70 + n)] - base[static_cast<std::size_t>(t * 70 + n)] == Approx(change).margin(0.5));
      }
  }
}

TEST_CASE("threads that want the same panels at once get them whole", "[ops][quantised][threads]") {
  generator g(35);
  const index_t rows = 320, columns = 1024, width = 16;
  const quantised_matrix w(g, dtype::q4_k, rows, columns);
  std::vector<std::byte> expected(static_cast<std::size_t>(interleaved_bytes(dtype::q4_k, width, columns)) * (rows / width));
  const std::size_t panel = expected.size() / (rows / width);
  for (index_t n = 0; n < rows; n += width) interleave_panel(w.weight.base, n, width, width, expected.data() + static_cast<std::size_t>(n / width) * panel);
  for (int round = 0; round < 20; ++round) {
    interleaved_store store;
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        for (index_t n = 0; n < rows; n += width)
          if (std::memcmp(store.of(w.weight.base, width).panel(n), expected.data() + static_cast<std::size_t>(n / width) * panel, panel) != 0) ++wrong;
      });
    for (std::thread& t : threads) t.join();
    CHECK(wrong == 0);
  }
}
