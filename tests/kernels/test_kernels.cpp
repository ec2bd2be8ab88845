// Every kernel at every level that this processor has, against oracles in double precision: remainders, misalignment, all types.

#include <optional>

#include "kernels/kernel_operands.hpp"

using namespace blockattn;
using namespace blockattn_test;


TEST_CASE("every level unpacks rows of every type exactly", "[kernels]") {
  generator g(1);
  for (const isa level : levels())
    for (const dtype type : types)
      for (const index_t columns : columns_of(type)) {
        INFO(name(level) << ' ' << name(type) << ' ' << columns);
        buffer<std::byte> weights(row_bytes(type, 3 * columns), 2);
        fill_weights(g, type, 3 * columns, weights.data());
        const weight_view w{type, weights.data(), 3, columns};
        buffer<float> out(columns, 4);
        kernels_of(level).unpack_row(w, 2, out.data());
        for (index_t k = 0; k < columns; ++k) {
          const double expected = weight_value(w, 2, k);
          REQUIRE(std::abs(out[k] - expected) <= 1e-6 * std::abs(expected) + 1e-7);
        }
      }
}

TEST_CASE("products of panels equal the oracle for every type, remainder and arithmetic", "[kernels]") {
  generator g(2);
  for (const isa level : levels()) {
    const kernel_table& k = kernels_of(level);
    for (const arithmetic kind : {arithmetic::f32, arithmetic::fast})
      for (const dtype type : types)
        for (const index_t columns : columns_of(type))
          for (const index_t tokens : {1, 2, 3, 5, 7, 12, 13, 29}) {
            const index_t count = 1 + static_cast<index_t>(g() % static_cast<unsigned>(k.panel_rows));
            const index_t rows = count + 1;
            INFO(name(level) << ' ' << name(type) << " columns " << columns << " tokens " << tokens << " rows " << count << " fast " << (kind == arithmetic::fast));
            buffer<std::byte> weights(row_bytes(type, rows * columns), 6);
            fill_weights(g, type, rows * columns, weights.data());
            const weight_view w{type, weights.data(), rows, columns};
            const std::vector<double> values = weight_values(w);
            buffer<float> x(tokens * columns, 4);
            for (index_t i = 0; i < tokens * columns; ++i) x[i] = draw(g);
            buffer<std::byte> packed(tokens * k.packed_bytes(kind, columns));
            buffer<std::byte> panel(k.panel_bytes(kind, columns));
            const index_t stride = rows + 3;
            buffer<float> y(tokens * stride, 4);
            for (index_t i = 0; i < tokens * stride; ++i) y[i] = -77;
            k.pack(kind, x.data(), tokens, columns, packed.data());
            k.unpack_panel(kind, w, 1, count, panel.data());
            k.multiply_panel(kind, packed.data(), tokens, columns, panel.data(), count, y.data(), stride, false);
            const bool rounds = kind == arithmetic::fast && k.fast_is_bf16;
            for (index_t t = 0; t < tokens; ++t) {
              for (index_t n = 0; n < stride; ++n) {
                if (n >= count) {
                  REQUIRE(y[t * stride + n] == -77);  // nothing is written beside the panel
                  continue;
                }
                double expected = 0;
                double size = 0;
                for (index_t i = 0; i < columns; ++i) {
                  const double term = values[static_cast<std::size_t>((1 + n) * columns + i)] * x[t * columns + i];
                  expected += term;
                  size += std::abs(term);
                }
                REQUIRE(std::abs(y[t * stride + n] - expected) <= (rounds ? 0.0079 : 2e-6) * size + 1e-6);
              }
            }
          }
  }
}

TEST_CASE("a token's product has the same bits whatever is computed beside it", "[kernels]") {
  generator g(3);
  for (const isa level : levels()) {
    const kernel_table& k = kernels_of(level);
    for (const arithmetic kind : {arithmetic::f32, arithmetic::fast}) {
      const index_t columns = 96;
      const index_t tokens = 31;
      buffer<std::byte> weights(row_bytes(dtype::q4_1, k.panel_rows * columns));
      fill_weights(g, dtype::q4_1, k.panel_rows * columns, weights.data());
      const weight_view w{dtype::q4_1, weights.data(), k.panel_rows, columns};
      buffer<float> x(tokens * columns);
      for (index_t i = 0; i < tokens * columns; ++i) x[i] = draw(g);
      const index_t bytes = k.packed_bytes(kind, columns);
      buffer<std::byte> packed(tokens * bytes);
      buffer<std::byte> panel(k.panel_bytes(kind, columns));
      buffer<float> together(tokens * k.panel_rows);
      buffer<float> alone(k.panel_rows);
      k.pack(kind, x.data(), tokens, columns, packed.data());
      k.unpack_panel(kind, w, 0, k.panel_rows, panel.data());
      k.multiply_panel(kind, packed.data(), tokens, columns, panel.data(), k.panel_rows, together.data(), k.panel_rows, false);
      for (index_t t = 0; t < tokens; ++t) {
        k.multiply_panel(kind, packed.data() + t * bytes, 1, columns, panel.data(), k.panel_rows, alone.data(), k.panel_rows, false);
        REQUIRE(std::memcmp(alone.data(), together.data() + t * k.panel_rows, static_cast<std::size_t>(k.panel_rows) * 4) == 0);
      }
    }
  }
}

TEST_CASE("streamed products equal the oracle for every type", "[kernels]") {
  generator g(4);
  for (const isa level : levels())
    for (const dtype type : types)
      for (const index_t columns : columns_of(type)) {
        INFO(name(level) << ' ' << name(type) << ' ' << columns);
        const index_t rows = 9;
        buffer<std::byte> weights(row_bytes(type, rows * columns), 2);
        fill_weights(g, type, rows * columns, weights.data());
        const weight_view w{type, weights.data(), rows, columns};
        buffer<float> x(columns, 4);
        std::vector<float> sums(static_cast<std::size_t>(columns / 32 + 1));
        for (index_t i = 0; i < columns; ++i) x[i] = draw(g);
        for (index_t i = 0; i < columns / 32 * 32; ++i) sums[static_cast<std::size_t>(i / 32)] += x[i];
        buffer<float> y(rows, 4);
        for (index_t n = 0; n < rows; ++n) y[n] = -77;
        kernels_of(level).multiply_vector(w, 2, 8, x.data(), sums.data(), y.data());
        for (index_t n = 0; n < rows; ++n) {
          if (n < 2 || n >= 8) {
            REQUIRE(y[n] == -77);
            continue;
          }
          double expected = 0;
          double size = 0;
          for (index_t i = 0; i < columns; ++i) {
            const double term = weight_value(w, n, i) * x[i];
            expected += term;
            size += std::abs(term);
          }
          REQUIRE(std::abs(y[n] - expected) <= 4e-6 * size + 1e-6);
        }
      }
}

TEST_CASE("norm, activation and rotation equal the oracle for every remainder", "[kernels]") {
  generator g(5);
  for (const isa level : levels()) {
    const kernel_table& k = kernels_of(level);
    for (index_t n = 1; n <= 70; ++n) {
      INFO(name(level) << ' ' << n);
      buffer<float> x(n, 4);
      buffer<float> weight(n, 8);
      buffer<float> y(n, 12);
      double squares = 0;
      for (index_t i = 0; i < n; ++i) {
        x[i] = 3 * draw(g);
        weight[i] = draw(g);
        squares += static_cast<double>(x[i]) * x[i];
      }
      k.rms_norm(x.data(), weight.data(), n, 1e-5f, y.data());
      for (index_t i = 0; i < n; ++i)
        REQUIRE(y[i] == Approx(x[i] / std::sqrt(squares / static_cast<double>(n) + 1e-5) * weight[i]).epsilon(2e-6).margin(1e-7));
      buffer<float> gate(n, 4);
      for (index_t i = 0; i < n; ++i) gate[i] = i % 7 == 0 ? 40 * draw(g) : 3 * draw(g);
      std::vector<double> expected;
      for (index_t i = 0; i < n; ++i) expected.push_back(gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * x[i]);
      k.silu_multiply(gate.data(), x.data(), n);
      for (index_t i = 0; i < n; ++i) REQUIRE(gate[i] == Approx(expected[static_cast<std::size_t>(i)]).epsilon(1e-5).margin(1e-6));
    }
    for (const index_t head_dim : {16, 32, 64, 80, 128, 256})
      for (const rope_pairing pairing : {rope_pairing::adjacent, rope_pairing::halves})
        for (const double position : {0.0, 1.0, 63.0, 4095.0, -31.0}) {
          std::vector<float> cosine, sine;
          for (index_t i = 0; i < head_dim / 2; ++i) {
            const double angle = position * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
            cosine.push_back(static_cast<float>(std::cos(angle)));
            sine.push_back(static_cast<float>(std::sin(angle)));
          }
          buffer<float> x(3 * head_dim, 4);
          for (index_t i = 0; i < 3 * head_dim; ++i) x[i] = draw(g);
          std::vector<double> head(x.data() + head_dim, x.data() + 2 * head_dim);
          blockattn_test::rope(head, 10000.0, position, pairing == rope_pairing::adjacent);
          k.rotate(pairing, x.data(), 3, head_dim, cosine.data(), sine.data());
          for (index_t i = 0; i < head_dim; ++i) REQUIRE(std::abs(x[head_dim + i] - head[static_cast<std::size_t>(i)]) < 1e-6);
        }
  }
}

TEST_CASE("keys and values go to storage and back to nearest", "[kernels]") {
  generator g(6);
  for (const isa level : levels())
    for (const dtype type : {dtype::f32, dtype::f16, dtype::bf16})
      for (index_t n = 1; n <= 40; ++n) {
        buffer<float> x(n, 4);
        buffer<std::byte> stored(row_bytes(type, n), 2);
        buffer<float> back(n, 4);
        for (index_t i = 0; i < n; ++i) x[i] = i == 3 ? 0.0f : (i == 5 ? -65504.0f : draw(g) * 10);
        kernels_of(level).store_kv(type, x.data(), n, stored.data());
        kernels_of(level).load_kv(type, stored.data(), n, back.data());
        for (index_t i = 0; i < n; ++i) {
          const float expected = type == dtype::f32 ? x[i] : (type == dtype::f16 ? f16_to_f32(f32_to_f16(x[i])) : bf16_to_f32(f32_to_bf16(x[i])));
          REQUIRE(back[i] == expected);
        }
      }
}

TEST_CASE("quantised keys and values are the nearest that their scale allows, and read back as their type says", "[kernels]") {
  generator g(16);
  for (const isa level : levels())
    for (const dtype type : {dtype::q8_0, dtype::q4_0})
      for (const index_t n : {32, 64, 96, 256})
        for (const float size : {0.0f, 1e-9f, 1e-3f, 1.0f, 1e4f}) {
          INFO(name(level) << ' ' << name(type) << ' ' << n << " of size " << size);
          buffer<float> x(n, 4);
          buffer<std::byte> stored(row_bytes(type, n), 2);
          buffer<float> back(n, 4);
          for (index_t i = 0; i < n; ++i) x[i] = size * draw(g);
          kernels_of(level).store_kv(type, x.data(), n, stored.data());
          kernels_of(level).load_kv(type, stored.data(), n, back.data());
          const weight_view view{type, stored.data(), 1, n};
          for (index_t i = 0; i < n; ++i) {
            double largest = 0;
            for (index_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) largest = std::max(largest, std::abs(static_cast<double>(x[j])));
            const double step = largest / (type == dtype::q8_0 ? 127 : 8);
            // The scale is rounded to half precision (a value of 1e-9 to nothing), and q4_0 has no +8: the value opposite to the extreme may be cut by a step.
            REQUIRE(std::abs(x[i] - back[i]) <= (type == dtype::q8_0 ? 0.51 : 1.01) * step + largest / 1024 + 4e-6);
            REQUIRE(back[i] == Approx(weight_value(view, 0, i)).margin(1e-12));
          }
        }
}

TEST_CASE("transformed keys and values read back as their type says, and lose what their bits must lose", "[kernels]") {
  for (const isa level : levels()) {
    generator g(17);  // the same numbers at every level: how much 64 of them lose is a matter of chance
    for (const dtype type : {dtype::q5_h, dtype::q4_h})
      for (const index_t n : {64, 128, 192, 256}) {
        const double bound = type == dtype::q5_h ? 0.0022 : 0.0085;  // of the squares, for normally distributed values: 0.0017 and 0.0069, some more in few
        for (const float size : {0.0f, 1e-9f, 1e-3f, 1.0f, 1e4f})
          for (const int shape : {0, 1, 2, 3}) {  // normal; all equal; one alone; normal with some a hundred times larger
            if (shape == 3 && size > 1) continue;  // more than half precision holds
            INFO(name(level) << ' ' << name(type) << ' ' << n << " of size " << size << ", shape " << shape);
            buffer<float> x(n, 4);
            buffer<std::byte> stored(row_bytes(type, n), 2);
            buffer<float> back(n, 4);
            for (index_t i = 0; i < n; ++i) x[i] = size * (shape == 1 ? 1.0f : shape == 2 ? (i == 37 ? 1.0f : 0.0f) : draw(g) * (shape == 3 && i % 19 == 3 ? 100.0f : 1.0f));
            kernels_of(level).store_kv(type, x.data(), n, stored.data());
            kernels_of(level).load_kv(type, stored.data(), n, back.data());
            const weight_view view{type, stored.data(), 1, n};
            double error = 0, square = 0;
            for (index_t i = 0; i < n; ++i) {
              REQUIRE(back[i] == Approx(weight_value(view, 0, i)).epsilon(1e-5).margin(1e-5 * size));
              error += std::pow(static_cast<double>(x[i]) - back[i], 2);
              square += std::pow(static_cast<double>(x[i]), 2);
            }
            if (size < 1e-6f) continue;  // the scale is rounded to half precision
            CHECK(error <= (shape == 3 ? 1.6 : shape == 1 ? 16.0 : 1.25) * bound * square);
          }
      }
  }
}

TEST_CASE("what a type of keys and values can't hold becomes finite", "[kernels]") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const isa level : levels())
    for (const dtype type : {dtype::f16, dtype::q8_0, dtype::q4_0, dtype::q5_h, dtype::q4_h})
      for (const float odd : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), 3e38f, -3e38f, 1e-45f}) {
        if (type == dtype::f16 && std::isnan(odd)) continue;  // stays what it is
        buffer<float> x(64, 4), back(64, 4);
        buffer<std::byte> stored(row_bytes(type, 64), 2);
        for (index_t i = 0; i < 64; ++i) x[i] = i % 3 == 0 ? odd : 1.0f;
        kernels_of(level).store_kv(type, x.data(), 64, stored.data());
        kernels_of(level).load_kv(type, stored.data(), 64, back.data());
        for (index_t i = 0; i < 64; ++i) REQUIRE(std::isfinite(back[i]));
      }
}

namespace {

struct attention_case {
  index_t head_dim, group, kv_heads, tokens;
  std::vector<index_t> runs;  ///< tokens of each cached run; the queries' own run comes last
  bool moved;                 ///< cached runs lie at local positions
  rope_pairing pairing;
  kv_types types;
  index_t window = 0;
  float soft_cap = 0;
  index_t rotated = 0;  ///< 0: all
  std::optional<kv_types> own = {};  ///< types of the queries' own run, if it has others
};

/// Largest difference from the oracle over all rows of KV head 1, relative to the largest value.
double attention_error(const kernel_table& k, arithmetic kind, const attention_case& c, generator& g) {
  const double base = 1000;
  const index_t rotated = c.rotated > 0 ? c.rotated : c.head_dim;
  std::vector<std::vector<float>> tables;
  std::vector<std::unique_ptr<buffer<std::byte>>> memory;
  std::vector<attention_segment> segments;
  std::vector<std::vector<double>> keys, values;
  index_t start = 0;
  std::vector<index_t> runs = c.runs;
  runs.push_back(c.tokens);
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const index_t n = runs[r];
    const bool local = c.moved && r + 1 < runs.size();
    const kv_types types = r + 1 < runs.size() ? c.types : c.own.value_or(c.types);
    memory.push_back(std::make_unique<buffer<std::byte>>(row_bytes(types.keys, n * c.head_dim), 2));
    memory.push_back(std::make_unique<buffer<std::byte>>(row_bytes(types.values, n * c.head_dim), 6));
    std::byte* key_data = memory[memory.size() - 2]->data();
    std::byte* value_data = memory.back()->data();
    std::vector<float> raw(static_cast<std::size_t>(n * c.head_dim));
    for (float& x : raw) x = draw(g);
    k.store_kv(types.keys, raw.data(), n * c.head_dim, key_data);
    for (float& x : raw) x = draw(g);
    k.store_kv(types.values, raw.data(), n * c.head_dim, value_data);
    attention_segment segment{key_data, value_data, n, start, nullptr, nullptr, types.keys, types.values};
    if (local) {
      for (const bool cosine : {true, false}) {
        tables.emplace_back();
        for (index_t i = 0; i < rotated / 2; ++i) {
          const double angle = static_cast<double>(start) * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(rotated));
          tables.back().push_back(static_cast<float>(cosine ? std::cos(angle) : std::sin(angle)));
        }
      }
      segment.cosine = tables[tables.size() - 2].data();
      segment.sine = tables.back().data();
    }
    segments.push_back(segment);
    const weight_view stored_keys{types.keys, key_data, n, c.head_dim};
    const weight_view stored_values{types.values, value_data, n, c.head_dim};
    for (index_t t = 0; t < n; ++t) {
      std::vector<double> key = row_values(stored_keys, t);
      const std::vector<double> value = row_values(stored_values, t);
      if (local) {
        std::vector<double> turned(key.begin(), key.begin() + static_cast<std::ptrdiff_t>(rotated));
        blockattn_test::rope(turned, base, static_cast<double>(start), c.pairing == rope_pairing::adjacent);
        std::copy(turned.begin(), turned.end(), key.begin());
      }
      keys.push_back(key);
      values.push_back(value);
    }
    start += n;
  }
  // No row's window reaches these keys; one more may be read, since values go by in pairs.
  const index_t unread = c.window > 0 ? std::max<index_t>(start - c.tokens - c.window, 0) : 0;
  for (std::size_t i = 0; i < segments.size(); ++i)
    for (index_t t = 0; t < segments[i].tokens && segments[i].position + t < unread; ++t)
      for (const bool half : {false, true}) {
        const index_t bytes = row_bytes(half ? segments[i].value_type : segments[i].key_type, c.head_dim);
        std::memset(memory[2 * i + (half ? 1 : 0)]->data() + t * bytes, 0xff, static_cast<std::size_t>(bytes));
      }
  const index_t heads = c.kv_heads * c.group;
  buffer<float> queries(c.tokens * heads * c.head_dim, 4);
  buffer<float> out(c.tokens * heads * c.head_dim, 4);
  for (index_t i = 0; i < c.tokens * heads * c.head_dim; ++i) queries[i] = 2 * draw(g);
  buffer<std::byte> scratch(attention_scratch_bytes(c.head_dim));
  attention_args args;
  args.queries = queries.data();
  args.output = out.data();
  args.query_stride = heads * c.head_dim;
  args.head_dim = c.head_dim;
  args.group = c.group;
  args.kv_head = 1;
  args.position = start - c.tokens;
  args.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  args.pairing = c.pairing;
  args.segments = segments.data();
  args.segment_count = static_cast<index_t>(segments.size());
  args.window = c.window;
  args.soft_cap = c.soft_cap;
  args.rotated = c.rotated;
  const index_t rows = c.tokens * c.group;
  const index_t at_once = attention_rows(c.head_dim);
  for (args.row_begin = 0; args.row_begin < rows; args.row_begin += at_once) {
    args.row_end = std::min(args.row_begin + at_once, rows);
    k.attend(kind, args, scratch.data());
  }
  double error = 0;
  double size = 0;
  const index_t step = rows > 30 ? 7 : 1;  // of many rows some, in every lane
  for (index_t r = 0; r < rows; r += step) {
    const float* q = queries.data() + r / c.group * args.query_stride + (c.group + r % c.group) * c.head_dim;
    const auto visible = static_cast<std::ptrdiff_t>(args.position[r / c.group] + 1);
    const auto hidden = c.window > 0 ? std::max<std::ptrdiff_t>(visible - static_cast<std::ptrdiff_t>(c.window), 0) : 0;
    const auto expected = blockattn_test::attention(std::vector<double>(q, q + c.head_dim), {keys.begin() + hidden, keys.begin() + visible},
                                                    {values.begin() + hidden, values.begin() + visible}, args.scale, c.soft_cap);
    const float* got = out.data() + (q - queries.data());
    for (index_t d = 0; d < c.head_dim; ++d) {
      if (!std::isfinite(got[d])) return 1e9;
      error = std::max(error, std::abs(got[d] - expected[static_cast<std::size_t>(d)]));
      size = std::max(size, std::abs(expected[static_cast<std::size_t>(d)]));
    }
  }
  return error / size;
}

/// Each type for both, and pairs of types of different sizes.
std::vector<kv_types> type_pairs() {
  std::vector<kv_types> result;
  for (const dtype type : kv_storage) result.emplace_back(type);
  result.emplace_back(dtype::q8_0, dtype::q4_0);
  result.emplace_back(dtype::q4_0, dtype::f16);
  result.emplace_back(dtype::bf16, dtype::q8_0);
  result.emplace_back(dtype::q5_h, dtype::q4_h);
  result.emplace_back(dtype::f16, dtype::q4_h);
  result.emplace_back(dtype::q4_h, dtype::q8_0);
  return result;
}

}  // namespace

TEST_CASE("attention over many runs equals the oracle, keys moved by rotating queries", "[kernels]") {
  generator g(7);
  const std::vector<std::vector<index_t>> run_sets = {{}, {1}, {63, 64, 65}, {5, 150, 1, 33}};
  for (const isa level : levels()) {
    const kernel_table& k = kernels_of(level);
    for (const arithmetic kind : {arithmetic::f32, arithmetic::fast})
      for (const kv_types types : type_pairs())
        for (const auto& runs : run_sets)
          for (const index_t head_dim : {16, 64, 80, 96, 256})
            for (const index_t tokens : {1, 7, 70}) {
              if (head_dim % block_values(types.keys) != 0 || head_dim % block_values(types.values) != 0) continue;
              if (types != kv_types(dtype::f32) && types != kv_types(dtype::q8_0) && (head_dim == 16 || head_dim == 256 || runs.size() % 2 == 1)) continue;
              const attention_case c{head_dim, head_dim == 64 ? 3 : 1, 2, tokens, runs, true, tokens == 7 ? rope_pairing::halves : rope_pairing::adjacent, types};
              INFO(name(level) << " fast " << (kind == arithmetic::fast) << ' ' << to_string(types) << " runs " << runs.size() << " Dh " << head_dim << " T " << tokens);
              CHECK(attention_error(k, kind, c, g) < (kind == arithmetic::fast ? 4e-3 : 1e-5));
            }
  }
}

TEST_CASE("transformed keys and values beside others: runs of a cache and a tail in types of its own", "[kernels]") {
  generator g(18);
  const std::vector<std::vector<index_t>> run_sets = {{63, 64, 65}, {5, 150, 1, 33}};
  for (const isa level : levels())
    for (const arithmetic kind : {arithmetic::f32, arithmetic::fast})
      for (const kv_types types : {kv_types(dtype::q5_h, dtype::q4_h), kv_types(dtype::q4_h), kv_types(dtype::q8_0, dtype::q4_h), kv_types(dtype::f16)})
        for (const kv_types own : {kv_types(dtype::f16), kv_types(dtype::f32), kv_types(dtype::q5_h, dtype::q4_h)})
          for (const auto& runs : run_sets)
            for (const index_t head_dim : {64, 128})
              for (const index_t tokens : {1, 7, 70}) {
                if (types == own || (head_dim == 128 && runs.size() == 3)) continue;
                attention_case c{head_dim, head_dim == 64 ? 3 : 1, 2, tokens, runs, true, tokens == 7 ? rope_pairing::adjacent : rope_pairing::halves, types};
                c.own = own;
                c.window = tokens == 7 ? 37 : 0;
                INFO(name(level) << " fast " << (kind == arithmetic::fast) << ' ' << to_string(types) << ", own " << to_string(own) << " runs " << runs.size() << " Dh " << head_dim << " T " << tokens);
                CHECK(attention_error(kernels_of(level), kind, c, g) < (kind == arithmetic::fast ? 4e-3 : 1e-5));
              }
}

TEST_CASE("a window decides by position across runs, scores are capped, and part of a head may stay unrotated", "[kernels]") {
  generator g(8);
  const std::vector<std::vector<index_t>> run_sets = {{}, {63, 64, 65}, {5, 150, 1, 33}};
  for (const isa level : levels()) {
    const kernel_table& k = kernels_of(level);
    for (const arithmetic kind : {arithmetic::f32, arithmetic::fast})
      for (const kv_types types : {kv_types(dtype::f32), kv_types(dtype::bf16), kv_types(dtype::q8_0, dtype::q4_0), kv_types(dtype::q5_h, dtype::q4_h)})
        for (const auto& runs : run_sets)
          for (const index_t window : {1, 2, 37, 64, 100})
            for (const index_t tokens : {1, 2, 70}) {
              const index_t head_dim = window == 37 ? 256 : (window == 2 && types.keys != dtype::q5_h ? 96 : 64);
              const rope_pairing pairing = tokens == 2 ? rope_pairing::adjacent : rope_pairing::halves;
              const attention_case c{head_dim, window == 64 ? 3 : 1, 2, tokens, runs, true, pairing, types, window, window == 2 ? 3.0F : 0.0F, window == 100 ? 24 : 0};
              INFO(name(level) << " fast " << (kind == arithmetic::fast) << ' ' << to_string(types) << " runs " << runs.size() << " window " << window << " T " << tokens);
              CHECK(attention_error(k, kind, c, g) < (kind == arithmetic::fast ? 4e-3 : 1e-5));
            }
  }
}

TEST_CASE("GELU and the soft cap equal their formulas", "[kernels]") {
  for (const isa level : levels())
    for (index_t n = 1; n <= 67; n += n < 20 ? 1 : 23) {
      buffer<float> gate(n, 4), up(n, 4), capped(n, 4);
      std::vector<double> gelu, cap;
      for (index_t i = 0; i < n; ++i) {
        const double x = (i % 2 == 0 ? 1 : -1) * std::pow(1.3, static_cast<double>(i % 40 - 20));
        gate[i] = static_cast<float>(x);
        up[i] = static_cast<float>(i) - 3.5F;
        capped[i] = static_cast<float>(7 * x);
        gelu.push_back(0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x))) * up[i]);
        cap.push_back(30 * std::tanh(7 * x / 30));
      }
      kernels_of(level).gelu_multiply(gate.data(), up.data(), n);
      kernels_of(level).soft_cap(capped.data(), n, 30);
      for (index_t i = 0; i < n; ++i) {
        REQUIRE(gate[i] == Approx(gelu[static_cast<std::size_t>(i)]).epsilon(5e-6).margin(1e-6));
        REQUIRE(capped[i] == Approx(cap[static_cast<std::size_t>(i)]).epsilon(1e-6));
      }
    }
}

TEST_CASE("a level that the environment names is taken, any other value is refused", "[kernels]") {
  const char* before = std::getenv("BLOCKATTN_ISA");
  const std::string saved = before != nullptr ? before : "";
  ::setenv("BLOCKATTN_ISA", "portable", 1);
  CHECK(chosen_isa() == isa::portable);
  ::setenv("BLOCKATTN_ISA", "sse9", 1);
  CHECK_THROWS_WITH(chosen_isa(), Catch::Contains("sse9") && Catch::Contains("avx2"));
  ::setenv("BLOCKATTN_ISA", "", 1);
  CHECK(chosen_isa() == best_isa());
  before != nullptr ? ::setenv("BLOCKATTN_ISA", saved.c_str(), 1) : ::unsetenv("BLOCKATTN_ISA");
}

TEST_CASE("levels agree in their products, and one that is wrong doesn't", "[kernels]") {
  const kernel_table& trusted = kernels_of(isa::portable);
  static detail::check_memory memory;
  for (const isa level : levels()) {
    INFO(name(level));
    const kernel_table& k = kernels_of(level);
    CHECK(detail::products_agree(k, trusted, memory));
    kernel_table wrong = k;
    wrong.multiply_panel = [](arithmetic, const std::byte*, index_t tokens, index_t, const std::byte*, index_t count, float* y, index_t stride, bool) {
      for (index_t t = 0; t < tokens; ++t)
        for (index_t n = 0; n < count; ++n) y[t * stride + n] = 0;
    };
    CHECK_FALSE(detail::products_agree(wrong, trusted, memory));
    wrong = k;
    wrong.integer.multiply = [](dtype, activation_form, const std::byte*, index_t tokens, index_t, const std::byte*, index_t count, float* y, index_t stride, std::byte*) {
      for (index_t t = 0; t < tokens; ++t)
        for (index_t n = 0; n < count; ++n) y[t * stride + n] = std::numeric_limits<float>::quiet_NaN();
    };
    CHECK_FALSE(detail::products_agree(wrong, trusted, memory));
  }
}
