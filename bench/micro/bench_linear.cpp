// Matrix products: quantised weights in the kernels' order times quantised activations, one token (generation) and many
// (prompts); and in float arithmetic one token against streamed weights, and many tokens against an unpacked panel.
// Shapes of SmolLM2-135M's feed-forward layer, 576 inputs, 1536 outputs; for types in blocks of 256 it is 768 inputs.
#include "blockattn/kernels/interleave.hpp"
#include "operands.hpp"

namespace {

using namespace blockattn_bench;
using blockattn::arithmetic;

constexpr index_t inputs = 576;
constexpr index_t outputs = 1536;

/// y [tokens, rows] in double precision, of weights unpacked by the portable kernels.
std::vector<float> expected_product(const blockattn::weight_view& w, std::span<const float> x, index_t tokens) {
  const auto& portable = blockattn::kernels_of(isa::portable);
  std::vector<float> row(static_cast<std::size_t>(w.columns));
  std::vector<float> y(static_cast<std::size_t>(tokens * w.rows));
  for (index_t n = 0; n < w.rows; ++n) {
    portable.unpack_row(w, n, row.data());
    for (index_t t = 0; t < tokens; ++t) {
      double sum = 0;
      for (index_t k = 0; k < w.columns; ++k)
        sum += static_cast<double>(row[static_cast<std::size_t>(k)]) *
               static_cast<double>(x[static_cast<std::size_t>(t * w.columns + k)]);
      y[static_cast<std::size_t>(t * w.rows + n)] = static_cast<float>(sum);
    }
  }
  return y;
}

void multiply_vector(benchmark::State& state, isa level, dtype type) {
  const auto& kernels = blockattn::kernels_of(level);
  const random_weights weights(type, outputs, inputs, 1);
  const std::vector<float> x = random_values(inputs, 2);
  std::vector<float> sums(inputs / 32);
  for (std::size_t i = 0; i < x.size(); ++i) sums[i / 32] += x[i];
  std::vector<float> y(outputs);
  const auto run = [&] { kernels.multiply_vector(weights.view, 0, outputs, x.data(), sums.data(), y.data()); };
  run();
  if (!answers_agree(state, y, expected_product(weights.view, x, 1), 1e-4F)) return;
  for (auto _ : state) {
    run();
    benchmark::DoNotOptimize(y.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(weights.bytes.size()));
}

void multiply_panels(benchmark::State& state, isa level, dtype type, arithmetic kind) {
  const auto& kernels = blockattn::kernels_of(level);
  const index_t tokens = state.range(0);
  const index_t panel = kernels.panel_rows;
  const random_weights weights(type, outputs, inputs, 1);
  const std::vector<float> x = random_values(tokens * inputs, 2);
  aligned_bytes packed(kernels.packed_bytes(kind, inputs) * tokens);
  aligned_bytes unpacked(kernels.panel_bytes(kind, inputs));
  std::vector<float> y(static_cast<std::size_t>(tokens * outputs));
  const auto run = [&] {
    kernels.pack(kind, x.data(), tokens, inputs, packed.data());
    for (index_t n = 0; n < outputs; n += panel) {
      const index_t count = std::min(panel, outputs - n);
      kernels.unpack_panel(kind, weights.view, n, count, unpacked.data());
      kernels.multiply_panel(kind, packed.data(), tokens, inputs, unpacked.data(), count, y.data() + n, outputs, false);
    }
  };
  run();
  if (!answers_agree(state, y, expected_product(weights.view, x, tokens), kind == arithmetic::fast ? 1e-2F : 1e-4F))
    return;
  for (auto _ : state) {
    run();
    benchmark::DoNotOptimize(y.data());
  }
  state.counters["FLOP/s"] = benchmark::Counter(2.0 * static_cast<double>(tokens * inputs * outputs),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

/// 'bytes' and 'words' in the names: how activations are given (kernel_table.hpp).
void multiply_integers(benchmark::State& state, isa level, dtype type, bool wide) {
  const auto& kernels = blockattn::kernels_of(level);
  const auto& integer = kernels.integer;
  const index_t tokens = state.range(0), columns = blockattn::block_values(type) == 256 ? 768 : inputs, width = kernels.panel_rows;
  const random_weights weights(type, outputs, columns, 1);
  const std::vector<float> x = random_values(tokens * columns, 2);
  const auto form = integer.form_of(type, wide, tokens <= 4);
  const index_t panel = blockattn::interleaved_bytes(type, width, columns);
  aligned_bytes panels(panel * outputs / width), scratch(integer.scratch_bytes(tokens)), quantised(integer.quantised_bytes(form, columns) * tokens);
  for (index_t n = 0; n < outputs; n += width) blockattn::interleave_panel(weights.view, n, width, width, panels.data() + n / width * panel);
  std::vector<float> y(static_cast<std::size_t>(tokens * outputs));
  const auto run = [&] {
    integer.quantise(form, x.data(), tokens, columns, quantised.data());
    for (index_t n = 0; n < outputs; n += width)
      integer.multiply(type, form, quantised.data(), tokens, columns, panels.data() + n / width * panel, width, y.data() + n, outputs, scratch.data());
  };
  run();
  if (!answers_agree(state, y, expected_product(weights.view, x, tokens), form == blockattn::activation_form::words ? 1e-3F : 2e-2F)) return;
  for (auto _ : state) {
    run();
    benchmark::DoNotOptimize(y.data());
  }
  state.SetBytesProcessed(state.iterations() * panel * outputs / width);
  state.counters["op/s"] = benchmark::Counter(2.0 * static_cast<double>(tokens * columns * outputs), benchmark::Counter::kIsIterationInvariantRate);
}

void register_integers(isa level, dtype type) {
  const auto& integer = blockattn::kernels_of(level).integer;
  for (const bool wide : {false, true}) {
    const auto form = integer.form_of(type, wide, true);
    if (!wide && form == blockattn::activation_form::words) continue;  // the same as the wide one
    const std::string name = std::string("multiply_integers/") + (wide ? "words/" : "bytes/") + blockattn::name(type) + "/" + std::string(blockattn::name(level));
    benchmark::RegisterBenchmark(name.c_str(), multiply_integers, level, type, wide)->Arg(1)->Arg(16)->Arg(512);
  }
}

const bool registered = [] {
  for (const isa level : supported_levels()) {
    for (const dtype type : blockattn::all_dtypes)
      if (!blockattn::is_float(type)) register_integers(level, type);
    for (const dtype type : {dtype::f32, dtype::f16, dtype::bf16, dtype::q8_0, dtype::q4_0, dtype::q4_1}) {
      const std::string suffix = std::string("/") + name(type) + "/" + std::string(name(level));
      benchmark::RegisterBenchmark(("multiply_vector" + suffix).c_str(), multiply_vector, level, type);
      benchmark::RegisterBenchmark(("multiply_panels/fast" + suffix).c_str(), multiply_panels, level, type,
                                   arithmetic::fast)
          ->Arg(16)
          ->Arg(512);
      if (type == dtype::q4_1)
        benchmark::RegisterBenchmark(("multiply_panels/f32" + suffix).c_str(), multiply_panels, level, type,
                                     arithmetic::f32)
            ->Arg(512);
    }
  }
  return true;
}();

}  // namespace
