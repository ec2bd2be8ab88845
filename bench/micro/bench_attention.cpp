// Attention of a query of 42 tokens over cached tokens: one run whose keys lie rotated in place, against blocks of 150
// tokens that are read at another offset by rotating the queries; and the paper's way, keys rotated into a copy. Shapes
// of SmolLM2-135M: 9 heads share 3 key heads of 64.
#include <algorithm>

#include "blockattn/ops/key_rotation.hpp"
#include "blockattn/ops/rotary.hpp"
#include "operands.hpp"

namespace {

using namespace blockattn_bench;
using blockattn::arithmetic;

constexpr index_t head_dim = 64;
constexpr index_t group = 3;
constexpr index_t query_tokens = 42;  // 126 rows: one call
constexpr index_t block_tokens = 150;
const blockattn::rope_spec rope{head_dim, 100000.0, blockattn::rope_pairing::adjacent};

/// Keys and values of one KV head in blocks, and queries behind them.
struct problem {
  index_t blocks;
  std::vector<float> queries, keys, values;
  std::vector<std::byte> stored_keys, stored_values;
  std::vector<blockattn::rope_angles> angles;
  std::vector<blockattn::attention_segment> segments;
  std::vector<float> output;
  blockattn::attention_args args;

  problem(const blockattn::kernel_table& kernels, index_t cached, bool rotated, dtype type)
      : blocks(cached / block_tokens),
        queries(random_values(query_tokens * group * head_dim, 1)),
        keys(random_values(blocks * block_tokens * head_dim, 2)),
        values(random_values(blocks * block_tokens * head_dim, 3)),
        stored_keys(keys.size() * 4),
        stored_values(values.size() * 4),
        output(queries.size()) {
    kernels.store_kv(type, keys.data(), static_cast<index_t>(keys.size()), stored_keys.data());
    kernels.store_kv(type, values.data(), static_cast<index_t>(values.size()), stored_values.data());
    angles.reserve(static_cast<std::size_t>(blocks));
    const index_t step = rotated ? block_tokens : blocks * block_tokens;
    for (index_t at = 0; at < blocks * block_tokens; at += step) {
      const auto begin = at * blockattn::row_bytes(type, head_dim);
      blockattn::attention_segment segment{
          stored_keys.data() + begin, stored_values.data() + begin, step, at, nullptr, nullptr, type, type};
      if (rotated) {
        angles.push_back(blockattn::angles_of(rope, static_cast<double>(at), 1));
        segment.cosine = angles.back().cosine.data();
        segment.sine = angles.back().sine.data();
      }
      segments.push_back(segment);
    }
    args.queries = queries.data();
    args.output = output.data();
    args.query_stride = group * head_dim;
    args.head_dim = head_dim;
    args.group = group;
    args.row_end = query_tokens * group;
    args.position = blocks * block_tokens;
    args.scale = 0.125F;
    args.segments = segments.data();
    args.segment_count = static_cast<index_t>(segments.size());
  }

  /// The output in double precision, keys rotated to their places.
  [[nodiscard]] std::vector<float> expected(const blockattn::kernel_table& kernels) const {
    std::vector<float> result(queries.size());
    std::vector<float> k(keys.size());
    std::vector<float> v(values.size());
    kernels.load_kv(segments[0].key_type, stored_keys.data(), static_cast<index_t>(k.size()), k.data());
    kernels.load_kv(segments[0].key_type, stored_values.data(), static_cast<index_t>(v.size()), v.data());
    for (std::size_t b = 0; b < angles.size(); ++b)
      for (std::size_t t = 0; t < block_tokens; ++t)
        for (std::size_t i = 0; i < head_dim / 2; ++i) {
          float* pair = &k[(b * block_tokens + t) * head_dim + 2 * i];
          const float x = pair[0] * angles[b].cosine[i] - pair[1] * angles[b].sine[i];
          pair[1] = pair[0] * angles[b].sine[i] + pair[1] * angles[b].cosine[i];
          pair[0] = x;
        }
    for (std::size_t row = 0; row < static_cast<std::size_t>(args.row_end); ++row)
      attend_row(&queries[row * head_dim], k, v, &result[row * head_dim]);
    return result;
  }

  static void attend_row(const float* q, const std::vector<float>& k, const std::vector<float>& v, float* out) {
    std::vector<double> sums(head_dim);
    double total = 0;
    for (std::size_t t = 0; t < k.size() / head_dim; ++t) {
      double score = 0;
      for (std::size_t i = 0; i < head_dim; ++i)
        score += static_cast<double>(q[i]) * static_cast<double>(k[t * head_dim + i]);
      const double weight = std::exp(score * 0.125);
      total += weight;
      for (std::size_t i = 0; i < head_dim; ++i) sums[i] += weight * static_cast<double>(v[t * head_dim + i]);
    }
    for (std::size_t i = 0; i < head_dim; ++i) out[i] = static_cast<float>(sums[i] / total);
  }
};

void attend(benchmark::State& state, isa level, bool rotated) {
  const auto& kernels = blockattn::kernels_of(level);
  problem p(kernels, state.range(0), rotated, dtype::bf16);
  aligned_bytes scratch(blockattn::attention_scratch_bytes(head_dim));
  kernels.attend(arithmetic::fast, p.args, scratch.data());
  if (!answers_agree(state, p.output, p.expected(kernels), 2e-2F)) return;
  for (auto _ : state) {
    kernels.attend(arithmetic::fast, p.args, scratch.data());
    benchmark::DoNotOptimize(p.output.data());
  }
  state.counters["keys/s"] = benchmark::Counter(static_cast<double>(p.args.row_end * state.range(0)),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

std::vector<float> first_key(const blockattn::kv_block& block, const blockattn::kernel_table& kernels) {
  std::vector<float> key(head_dim);
  kernels.load_kv(block.layout().types.keys, block.layer(0).keys, head_dim, key.data());
  return key;
}

/// `key` rotated by `offset` in double precision.
std::vector<float> turned(std::vector<float> key, double offset) {
  for (std::size_t i = 0; i < key.size(); i += 2) {
    const double angle = offset * std::pow(rope.base, -static_cast<double>(i) / static_cast<double>(head_dim));
    const double x = key[i];
    const double y = key[i + 1];
    key[i] = static_cast<float>(x * std::cos(angle) - y * std::sin(angle));
    key[i + 1] = static_cast<float>(x * std::sin(angle) + y * std::cos(angle));
  }
  return key;
}

/// The paper's re-encoding of one block of 30 layers and 3 key heads.
void move_block(benchmark::State& state) {
  const blockattn::kv_layout layout{30, 3, head_dim, dtype::bf16};
  blockattn::kv_block block(layout, block_tokens);
  const auto& kernels = blockattn::kernels();
  const std::vector<float> values = random_values(block.bytes() / 2, 1);
  kernels.store_kv(dtype::bf16, values.data(), static_cast<index_t>(values.size()), block.data());
  if (!answers_agree(state, first_key(*blockattn::moved_copy(block, rope, 1234.0, kernels), kernels),
                     turned(first_key(block, kernels), 1234.0), 1e-2F))
    return;
  for (auto _ : state) benchmark::DoNotOptimize(blockattn::moved_copy(block, rope, 1234.0, kernels));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(move_block)->UseRealTime();

const bool registered = [] {
  for (const isa level : supported_levels()) {
    const std::string suffix = "/" + std::string(name(level));
    benchmark::RegisterBenchmark(("attend/in_place" + suffix).c_str(), attend, level, false)->Arg(1500)->Arg(7500);
    benchmark::RegisterBenchmark(("attend/blocks_of_150" + suffix).c_str(), attend, level, true)->Arg(1500)->Arg(7500);
  }
  return true;
}();

}  // namespace
