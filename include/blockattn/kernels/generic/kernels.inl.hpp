// All kernels of one level and their table. Included inside the namespace of each level, after vector.inl.hpp and the level's own helpers.

#include "blockattn/kernels/generic/unpack.inl.hpp"
#include "blockattn/kernels/generic/multiply.inl.hpp"
#include "blockattn/kernels/generic/integer.inl.hpp"
#include "blockattn/kernels/generic/elementwise.inl.hpp"
#include "blockattn/kernels/generic/activation.inl.hpp"
#include "blockattn/kernels/generic/hadamard.inl.hpp"
#include "blockattn/kernels/generic/kv_storage.inl.hpp"
#include "blockattn/kernels/generic/attention.inl.hpp"
#include "blockattn/kernels/generic/attention_few.inl.hpp"

inline constexpr kernel_table table = {
    level,           panel_width, has_bf16, packed_bytes, panel_bytes, pack,   unpack_panel, multiply_panel,
    multiply_vector, unpack_row,  attend,   rms_norm,     silu_multiply, rotate, store_kv,     load_kv,
    gelu_multiply,   soft_cap,    integer_table,
};
