// Linear layers with and without low-rank updates, and the paper's key rotation, against oracles in double precision.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "blockattn/ops/key_rotation.hpp"
#include "blockattn/ops/linear.hpp"
#include "ref/reference.hpp"

using namespace blockattn;

namespace {

std::vector<float> normals(std::mt19937& g, index_t n) {
  std::normal_distribution<float> normal;
  std::vector<float> result(static_cast<std::size_t>(n));
  for (float& x : result) x = normal(g);
  return result;
}

weight_view view(const std::vector<float>& values, index_t rows, index_t columns) {
  return {dtype::f32, reinterpret_cast<const std::byte*>(values.data()), rows, columns};
}

double at(const std::vector<float>& m, index_t columns, index_t row, index_t column) { return m[static_cast<std::size_t>(row * columns + column)]; }

}  // namespace

TEST_CASE("a linear layer with low-rank updates equals the changed matrix", "[ops]") {
  std::mt19937 g(1);
  for (const isa level : all_isas) {
    if (!supports(level)) continue;
    for (const arithmetic kind : {arithmetic::f32, arithmetic::fast})
      for (const index_t tokens : {1, 3, 4, 5, 20, 150}) {
        const index_t rows = 77, columns = 64;
        const auto w = normals(g, rows * columns);
        const std::vector<index_t> ranks = {8, 32, 40};
        std::vector<std::vector<float>> a, b;
        linear_weight weight{view(w, rows, columns), {}};
        for (const index_t r : ranks) {
          a.push_back(normals(g, r * columns));
          b.push_back(normals(g, rows * r));
        }
        for (std::size_t i = 0; i < ranks.size(); ++i)
          weight.updates.push_back({view(a[i], ranks[i], columns), view(b[i], rows, ranks[i]), 0.1f * static_cast<float>(i + 1)});
        const auto x = normals(g, tokens * columns);
        const linear_weight plain{weight.base, {}};
        std::vector<float> y(static_cast<std::size_t>(tokens * rows)), base(y.size());
        const std::vector<linear_product> products = {{&weight, y.data()}, {&plain, base.data()}};
        linear(x.data(), tokens, products, {&kernels_of(level), kind});
        const double allowed = kind == arithmetic::fast && kernels_of(level).fast_is_bf16 && tokens > detail::vector_tokens ? 0.02 : 1e-5;
        for (index_t t = 0; t < tokens; ++t)
          for (index_t n = 0; n < rows; ++n) {
            double expected = 0;
            double size = 0;
            for (index_t k = 0; k < columns; ++k) expected += at(w, columns, n, k) * at(x, columns, t, k);
            CHECK(std::abs(at(base, rows, t, n) - expected) < allowed * 30);
            for (std::size_t i = 0; i < ranks.size(); ++i)
              for (index_t r = 0; r < ranks[i]; ++r) {
                double inner = 0;
                for (index_t k = 0; k < columns; ++k) inner += at(a[i], columns, r, k) * at(x, columns, t, k);
                const double term = inner * at(b[i], ranks[i], n, r) * 0.1 * static_cast<double>(i + 1);
                expected += term;
                size += std::abs(term);
              }
            CHECK(std::abs(at(y, rows, t, n) - expected) < allowed * (30 + size));
          }
      }
  }
}

TEST_CASE("keys rotated by an offset are the keys at that offset", "[ops]") {
  std::mt19937 g(2);
  for (const rope_pairing pairing : {rope_pairing::adjacent, rope_pairing::halves})
    for (const index_t head_dim : {16, 24, 64, 80, 128}) {
      const rope_spec spec{head_dim, 10000, pairing};
      for (const double delta : {0.0, 1.0, 63.0, 4095.0, -31.0}) {
        auto keys = normals(g, 5 * head_dim);
        std::vector<double> expected(keys.begin() + 3 * head_dim, keys.begin() + 4 * head_dim);
        blockattn_test::rope(expected, 10000, delta, pairing == rope_pairing::adjacent);
        rotate_rows_by(keys.data(), 5, spec, delta);
        for (index_t d = 0; d < head_dim; ++d)
          CHECK(std::abs(keys[static_cast<std::size_t>(3 * head_dim + d)] - expected[static_cast<std::size_t>(d)]) < 1e-5);
      }
    }
}
