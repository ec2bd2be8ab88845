// Integer kernels at every level that this processor has: the interleaved order of every quantised type, quantised activations, and their products,
// each against the definitions written out here, in double precision.
#include "kernels/kernel_operands.hpp"

using namespace blockattn;
using namespace blockattn_test;

namespace {

std::vector<dtype> quantised_types() {
  std::vector<dtype> result;
  for (const dtype type : all_dtypes)
    if (!is_float(type)) result.push_back(type);
  return result;
}

/// scale * u + minimum: a weight as a panel holds it.
struct panel_value {
  double scale, minimum;
  int u;
  [[nodiscard]] double value() const { return scale * u + minimum; }
};

/// Reads a panel as kernels/interleave.hpp describes it.
panel_value read_panel(dtype type, index_t width, const std::byte* panel, index_t row, index_t column) {
  const interleaved_format f = interleaved(type);
  const std::byte* low = panel + column / 32 * width * f.row_bytes();
  const std::byte* high = low + 4 * f.low_bits * width;
  const std::byte* scales = high + 4 * f.high_bits * width;
  const index_t c = column % 32, i = c % 4;
  const auto byte = [](const std::byte* p, index_t at) { return std::to_integer<int>(p[at]); };
  const auto half = [&](index_t at) {
    std::uint16_t bits;
    std::memcpy(&bits, scales + 2 * at, 2);
    return half_value(bits);
  };
  panel_value v{};
  if (f.low_bits == 8) v.u = byte(low, (c / 4 * width + row) * 4 + i);
  if (f.low_bits == 4) v.u = byte(low, (c % 16 / 4 * width + row) * 4 + i) >> (c < 16 ? 0 : 4) & 15;
  if (f.high_bits == 1) v.u |= (byte(high, row * 4 + i) >> (c / 4) & 1) << 4;
  if (f.high_bits == 2) v.u |= (byte(high, (c / 16 * width + row) * 4 + i) >> (2 * (c % 16 / 4)) & 3) << 4;
  if (f.levels) v.u = iq4_values[static_cast<std::size_t>(v.u)] + 128;
  const index_t h = f.halves == 2 ? c / 16 : 0;
  v.scale = half(h * width + row);
  v.minimum = f.minima ? half((f.halves + h) * width + row) : -f.offset * v.scale;
  return v;
}

/// The activations that a token's integers stand for: column c of group g is integer * scale[g].
std::vector<double> read_activations(activation_form form, const std::byte* q, index_t columns) {
  std::vector<double> result;
  for (index_t c = 0; c < columns; ++c) {
    if (form == activation_form::halves) {
      std::uint16_t bits;
      std::memcpy(&bits, q + 2 * c, 2);
      result.push_back(bf16_to_f32(bits));
      continue;
    }
    float scale;
    std::memcpy(&scale, q + (form == activation_form::bytes ? 1 : 2) * columns + 4 * (c / 32), 4);
    if (form == activation_form::bytes) {
      result.push_back(scale * static_cast<double>(static_cast<std::int8_t>(q[c])));
    } else {
      constexpr index_t place[4] = {0, 2, 1, 3};  // words lie even columns first
      std::int16_t word;
      std::memcpy(&word, q + 2 * (c / 4 * 4 + place[c % 4]), 2);
      result.push_back(scale * static_cast<double>(word));
    }
  }
  return result;
}

std::vector<float> draws(generator& g, index_t n) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& value : x) value = draw(g);
  return x;
}

struct random_panel {
  buffer<std::byte> weights, panel;
  weight_view view;

  /// Rows [1, 1 + count) of a matrix of random weights, interleaved.
  random_panel(generator& g, dtype type, index_t width, index_t count, index_t columns)
      : weights(row_bytes(type, (count + 1) * columns), 2), panel(interleaved_bytes(type, width, columns)) {
    fill_weights(g, type, (count + 1) * columns, weights.data());
    view = {type, weights.data(), count + 1, columns};
    interleave_panel(view, 1, count, width, panel.data());
  }
};

/// Every way in which a level multiplies weights of a type.
std::vector<activation_form> forms_of(const kernel_table& k, dtype type) {
  std::vector<activation_form> forms;
  for (const bool wide : {false, true})
    for (const bool few : {false, true}) {
      const activation_form form = k.integer.form_of(type, wide, few);
      if (std::find(forms.begin(), forms.end(), form) == forms.end()) forms.push_back(form);
    }
  return forms;
}

}  // namespace

TEST_CASE("interleaved panels hold every weight, to half precision of its scale", "[kernels][integer]") {
  generator g(21);
  for (const dtype type : quantised_types())
    for (const index_t width : {8, 16, 32})
      for (const index_t count : {index_t{1}, width - 1, width}) {
        INFO(name(type) << " width " << width << " rows " << count);
        const index_t columns = 512;
        random_panel p(g, type, width, count, columns);
        const bool products = block_values(type) == 256;  // scales that are products are rounded
        for (index_t r = 0; r < width; ++r)
          for (index_t c = 0; c < columns; ++c) {
            const panel_value got = read_panel(type, width, p.panel.data(), r, c);
            if (r >= count) {
              REQUIRE(got.value() == 0);
              continue;
            }
            const double allowed = products ? 0x1p-11 * (std::abs(got.scale * got.u) + std::abs(got.minimum)) + 0x1p-23 * got.u : 1e-6 * std::abs(got.value()) + 1e-7;
            REQUIRE(std::abs(got.value() - weight_value(p.view, 1 + r, c)) <= allowed);
          }
      }
}

TEST_CASE("activations are quantised to nearest, with exact sums", "[kernels][integer]") {
  generator g(22);
  for (const isa level : levels())
    for (const activation_form form : {activation_form::bytes, activation_form::words})
      for (const index_t columns : {32, 96, 288}) {
        INFO(name(level) << " bytes " << (form == activation_form::bytes) << " columns " << columns);
        const integer_kernels& k = kernels_of(level).integer;
        const index_t tokens = 3, row = k.quantised_bytes(form, columns);
        buffer<float> x(tokens * columns, 4);
        for (index_t i = 0; i < tokens * columns; ++i) x[i] = i < 32 ? 0 : draw(g) * (i % 7 == 0 ? 20.0f : 0.01f);
        buffer<std::byte> q(tokens * row, 4);
        k.quantise(form, x.data(), tokens, columns, q.data());
        for (index_t t = 0; t < tokens; ++t) {
          const std::byte* token = q.data() + t * row;
          const std::vector<double> values = read_activations(form, token, columns);
          const std::byte* sums = token + (form == activation_form::bytes ? 1 : 2) * columns + columns / 8;
          for (index_t group = 0; group < columns / 32; ++group) {
            double largest = 0, total[2] = {};
            for (index_t i = 0; i < 32; ++i) {
              largest = std::max(largest, static_cast<double>(std::abs(x[t * columns + 32 * group + i])));
              total[i / 16] += values[static_cast<std::size_t>(32 * group + i)];
            }
            const double step = largest / (form == activation_form::bytes ? 127 : 32767);
            for (index_t i = 32 * group; i < 32 * group + 32; ++i)
              REQUIRE(std::abs(values[static_cast<std::size_t>(i)] - x[t * columns + i]) <= 0.501 * step + 1e-12);
            float stored[3];
            std::memcpy(stored, sums + 4 * group, 4);
            std::memcpy(stored + 1, sums + columns / 8 + 8 * group, 8);
            REQUIRE(std::abs(stored[0] - (total[0] + total[1])) <= 1e-6 * 32 * largest);
            REQUIRE(std::abs(stored[1] - total[0]) <= 1e-6 * 16 * largest);
            REQUIRE(std::abs(stored[2] - total[1]) <= 1e-6 * 16 * largest);
          }
        }
      }
}

namespace {

/// One product of `count` rows with `tokens` tokens against the sums of what panel and activations hold.
void check_product(generator& g, const kernel_table& k, dtype type, activation_form form, index_t tokens, index_t count, index_t columns) {
  random_panel p(g, type, k.panel_rows, count, columns);
  const std::vector<float> x = draws(g, tokens * columns);
  const index_t row = k.integer.quantised_bytes(form, columns);
  buffer<std::byte> q(tokens * row, 4), scratch(k.integer.scratch_bytes(tokens));
  k.integer.quantise(form, x.data(), tokens, columns, q.data());
  const index_t stride = count + 3;
  buffer<float> y(tokens * stride, 4);
  for (index_t i = 0; i < tokens * stride; ++i) y[i] = -77;
  k.integer.multiply(type, form, q.data(), tokens, columns, p.panel.data(), count, y.data(), stride, scratch.data());
  for (index_t t = 0; t < tokens; ++t) {
    const std::vector<double> a = read_activations(form, q.data() + t * row, columns);
    for (index_t n = 0; n < count; ++n) {
      double expected = 0, size = 0;
      for (index_t c = 0; c < columns; ++c) {
        const panel_value w = read_panel(type, k.panel_rows, p.panel.data(), n, c);
        const double activation = a[static_cast<std::size_t>(c)];
        expected += w.value() * activation;
        size += form == activation_form::halves ? std::abs(w.value() * activation) : (std::abs(w.scale * w.u) + std::abs(w.minimum)) * std::abs(activation);
      }
      REQUIRE(std::abs(y[t * stride + n] - expected) <= (form == activation_form::halves ? 0.004 : 2e-6) * size + 1e-6);
    }
    for (index_t n = count; n < stride; ++n) REQUIRE(y[t * stride + n] == -77);  // nothing is written beside the panel
  }
}

}  // namespace

TEST_CASE("integer products equal the oracle for every type, form and remainder", "[kernels][integer]") {
  generator g(23);
  for (const isa level : levels()) {
    const kernel_table& k = kernels_of(level);
    for (const dtype type : quantised_types())
      for (const activation_form form : forms_of(k, type))
        for (const index_t tokens : {1, 2, 3, 4, 5, 9, 16, 37}) {
          const index_t count = tokens == 4 || tokens == 16 ? k.panel_rows : 1 + static_cast<index_t>(g() % static_cast<unsigned>(k.panel_rows));
          const index_t least = block_values(type);
          const index_t columns = tokens == 5 ? 3072 / least * least : least * (1 + static_cast<index_t>(g() % 3));
          INFO(name(level) << ' ' << name(type) << " form " << static_cast<int>(form) << " tokens " << tokens << " rows " << count << " columns " << columns);
          check_product(g, k, type, form, tokens, count, tokens == 5 && level == isa::portable ? least * 5 : columns);
        }
  }
}

TEST_CASE("an integer product of a token has the same bits whatever is computed beside it", "[kernels][integer]") {
  generator g(24);
  for (const isa level : levels()) {
    const kernel_table& k = kernels_of(level);
    for (const dtype type : {dtype::q4_1, dtype::q8_0, dtype::q6_k})
      for (const activation_form form : forms_of(k, type)) {
        INFO(name(level) << ' ' << name(type) << " form " << static_cast<int>(form));
        const index_t columns = 1280, tokens = 35, rows = k.panel_rows;
        random_panel p(g, type, rows, rows, columns);
        const std::vector<float> x = draws(g, tokens * columns);
        const index_t row = k.integer.quantised_bytes(form, columns);
        buffer<std::byte> q(tokens * row), scratch(k.integer.scratch_bytes(tokens));
        buffer<float> together(tokens * rows), alone(rows);
        k.integer.quantise(form, x.data(), tokens, columns, q.data());
        k.integer.multiply(type, form, q.data(), tokens, columns, p.panel.data(), rows, together.data(), rows, scratch.data());
        for (index_t t = 0; t < tokens; ++t) {
          k.integer.multiply(type, form, q.data() + t * row, 1, columns, p.panel.data(), rows, alone.data(), rows, scratch.data());
          REQUIRE(std::memcmp(alone.data(), together.data() + t * rows, static_cast<std::size_t>(rows) * 4) == 0);
        }
      }
  }
}
