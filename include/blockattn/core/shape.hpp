// The legend of every shape in this library.
//
//   T    tokens of a run (a block, a prompt, a step)
//   H    query heads            Hkv  key/value heads, H % Hkv == 0       G = H / Hkv  query heads that share a key head
//   Dh   size of a head         D    model width                         F  feed-forward width      V  vocabulary
//   L    layers
//
// Shapes are written [rows, columns], row-major: [T, D] has D contiguous.
#pragma once

#include <cstdint>

namespace blockattn::inline v0 {

/// Index and size type of the whole library: signed, 64 bits.
using index_t = std::int64_t;

/// A token's number in the vocabulary.
using token_id = std::int32_t;

}  // namespace blockattn::inline v0
