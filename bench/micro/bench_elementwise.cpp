// What runs between the products: norm, activation, rotation, storage of keys and values. One token of SmolLM2-135M.
#include "blockattn/ops/rotary.hpp"
#include "operands.hpp"

namespace {

using namespace blockattn_bench;

constexpr index_t width = 576;
constexpr index_t hidden = 1536;

void rms_norm(benchmark::State& state, isa level) {
  const auto& kernels = blockattn::kernels_of(level);
  const std::vector<float> x = random_values(width, 1);
  const std::vector<float> weight = random_values(width, 2);
  std::vector<float> y(x.size());
  std::vector<float> expected(x.size());
  double squares = 0;
  for (const float v : x) squares += static_cast<double>(v) * static_cast<double>(v);
  const double scale = 1 / std::sqrt(squares / width + 1e-5);
  for (std::size_t i = 0; i < x.size(); ++i)
    expected[i] = static_cast<float>(static_cast<double>(x[i]) * scale * static_cast<double>(weight[i]));
  kernels.rms_norm(x.data(), weight.data(), width, 1e-5F, y.data());
  if (!answers_agree(state, y, expected, 1e-5F)) return;
  for (auto _ : state) {
    kernels.rms_norm(x.data(), weight.data(), width, 1e-5F, y.data());
    benchmark::DoNotOptimize(y.data());
  }
}

void silu_multiply(benchmark::State& state, isa level) {
  const auto& kernels = blockattn::kernels_of(level);
  const std::vector<float> gate = random_values(hidden, 1);
  const std::vector<float> up = random_values(hidden, 2);
  std::vector<float> expected(gate.size());
  for (std::size_t i = 0; i < gate.size(); ++i)
    expected[i] = static_cast<float>(static_cast<double>(gate[i]) / (1 + std::exp(-static_cast<double>(gate[i]))) *
                                     static_cast<double>(up[i]));
  std::vector<float> x = gate;
  kernels.silu_multiply(x.data(), up.data(), hidden);
  if (!answers_agree(state, x, expected, 1e-5F)) return;
  for (auto _ : state) {
    state.PauseTiming();
    x = gate;
    state.ResumeTiming();
    kernels.silu_multiply(x.data(), up.data(), hidden);
    benchmark::DoNotOptimize(x.data());
  }
}

void rotate(benchmark::State& state, isa level) {
  const auto& kernels = blockattn::kernels_of(level);
  const blockattn::rope_angles angles =
      blockattn::angles_of({64, 100000.0, blockattn::rope_pairing::adjacent}, 777.0, 1);
  const std::vector<float> x = random_values(9 * 64, 1);
  std::vector<float> expected(x.size());
  for (std::size_t i = 0; i < x.size(); i += 2) {
    const float c = angles.cosine[i % 64 / 2];
    const float s = angles.sine[i % 64 / 2];
    expected[i] = x[i] * c - x[i + 1] * s;
    expected[i + 1] = x[i] * s + x[i + 1] * c;
  }
  std::vector<float> y = x;
  const auto run = [&] {
    kernels.rotate(blockattn::rope_pairing::adjacent, y.data(), 9, 64, angles.cosine.data(), angles.sine.data());
  };
  run();
  if (!answers_agree(state, y, expected, 1e-5F)) return;
  for (auto _ : state) {
    run();  // again and again: a rotation keeps the lengths
    benchmark::DoNotOptimize(y.data());
  }
}

void store_kv(benchmark::State& state, isa level, dtype type) {
  const auto& kernels = blockattn::kernels_of(level);
  const std::vector<float> x = random_values(hidden, 1);
  std::vector<std::byte> stored(x.size() * 4);
  std::vector<float> back(x.size());
  const auto run = [&] { kernels.store_kv(type, x.data(), hidden, stored.data()); };
  run();
  kernels.load_kv(type, stored.data(), hidden, back.data());
  if (!answers_agree(state, back, x, 4e-3F)) return;
  for (auto _ : state) {
    run();
    benchmark::DoNotOptimize(stored.data());
  }
  state.SetItemsProcessed(state.iterations() * hidden);
}

const bool registered = [] {
  for (const isa level : supported_levels()) {
    const std::string suffix = "/" + std::string(name(level));
    benchmark::RegisterBenchmark(("rms_norm" + suffix).c_str(), rms_norm, level);
    benchmark::RegisterBenchmark(("silu_multiply" + suffix).c_str(), silu_multiply, level);
    benchmark::RegisterBenchmark(("rotate" + suffix).c_str(), rotate, level);
    for (const dtype type : {dtype::f16, dtype::bf16})
      benchmark::RegisterBenchmark(("store_kv/" + std::string(name(type)) + suffix).c_str(), store_kv, level, type);
  }
  return true;
}();

}  // namespace
