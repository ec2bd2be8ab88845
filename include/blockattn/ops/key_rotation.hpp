// The paper's positional re-encoding: keys of a cached block moved to another offset, K_at_o[t] = R(o) · K_local[t].
//
// All tokens of a block are turned by the same angles, so one row of rotors serves the whole block. The result is a copy; the engine's
// default is to rotate queries instead (kernels/attention.inl.hpp), which gives the same scores and copies nothing.
// Source: Block-Attention, arXiv 2409.15355, section 2.3.
#pragma once

#include <algorithm>
#include <complex>
#include <memory>
#include <vector>
#include <xsimd/xsimd.hpp>

#include "blockattn/core/kv.hpp"
#include "blockattn/ops/parallel.hpp"
#include "blockattn/ops/rotary.hpp"

namespace blockattn::inline v0 {

namespace detail {

/// Pairs (2i, 2i+1) are complex numbers: one multiplication by the rotor each.
template <class Arch>
void turn_adjacent(float* x, const std::complex<float>* rotor, index_t half, Arch) {
  using batch = xsimd::batch<std::complex<float>, Arch>;
  constexpr auto lanes = static_cast<index_t>(batch::size);
  auto* pairs = reinterpret_cast<std::complex<float>*>(x);
  index_t i = 0;
  for (; i + lanes <= half; i += lanes) (batch::load_unaligned(pairs + i) * batch::load_unaligned(rotor + i)).store_unaligned(pairs + i);
  for (; i < half; ++i) pairs[i] *= rotor[i];
}

template <class Arch>
void turn_halves(float* x, const float* cosine, const float* sine, index_t half, Arch) {
  using batch = xsimd::batch<float, Arch>;
  constexpr auto lanes = static_cast<index_t>(batch::size);
  index_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const auto a = batch::load_unaligned(x + i);
    const auto b = batch::load_unaligned(x + half + i);
    const auto c = batch::load_unaligned(cosine + i);
    const auto s = batch::load_unaligned(sine + i);
    (a * c - b * s).store_unaligned(x + i);
    (a * s + b * c).store_unaligned(x + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    x[i] = a * cosine[i] - b * sine[i];
    x[half + i] = a * sine[i] + b * cosine[i];
  }
}

}  // namespace detail

/// Turns `rows` rows of keys [rows, Dh] in place by `offset` positions; works at the widest vectors of this translation unit.
inline void rotate_rows_by(float* keys, index_t rows, const rope_spec& spec, double offset) {
  const rope_angles angles = angles_of(spec, offset, 1);
  std::vector<std::complex<float>> rotor(static_cast<std::size_t>(angles.half));
  for (std::size_t i = 0; i < rotor.size(); ++i) rotor[i] = {angles.cosine[i], angles.sine[i]};
  for (index_t r = 0; r < rows; ++r, keys += spec.head_dim) {
    if (spec.pairing == rope_pairing::adjacent)
      detail::turn_adjacent(keys, rotor.data(), angles.half, xsimd::default_arch{});
    else
      detail::turn_halves(keys, angles.cosine.data(), angles.sine.data(), angles.half, xsimd::default_arch{});
  }
}

/// A copy of `block` whose keys are rotated by `offset` positions, layer l by the RoPE that spec_of(l) points to (nullptr: the layer has none); values are
/// unchanged. Keys are rounded to the block's type once more.
template <class SpecOf>
[[nodiscard]] std::shared_ptr<const kv_block> moved_layers(const kv_block& block, const SpecOf& spec_of, double offset, const kernel_table& kernels) {
  const kv_layout& layout = block.layout();
  auto copy = std::make_shared<kv_block>(layout, block.tokens());
  const index_t rows = layout.kv_heads * block.tokens();
  const index_t channels = rows * layout.head_dim;
  const index_t keys_size = layout.key_bytes(block.tokens());
  const index_t values_size = layout.value_bytes(block.tokens());
  parallel_tasks(layout.layers, [&](index_t l) {
    std::vector<float> keys(static_cast<std::size_t>(channels));
    const std::byte* from = block.data() + l * (keys_size + values_size);
    std::byte* to = copy->data() + l * (keys_size + values_size);
    kernels.load_kv(layout.types.keys, from, channels, keys.data());
    if (const rope_spec* spec = spec_of(l)) rotate_rows_by(keys.data(), rows, *spec, offset);
    kernels.store_kv(layout.types.keys, keys.data(), channels, to);
    std::copy_n(from + keys_size, values_size, to + keys_size);
  });
  return copy;
}

/// The same for a block whose layers share one RoPE.
[[nodiscard]] inline std::shared_ptr<const kv_block> moved_copy(const kv_block& block, const rope_spec& spec, double offset, const kernel_table& kernels) {
  return moved_layers(block, [&](index_t) { return &spec; }, offset, kernels);
}

}  // namespace blockattn::inline v0
