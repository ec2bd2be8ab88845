// Looks at every weight for what can't be one: values that are infinite or not numbers, and scales that make them so.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "blockattn/core/dtype_decode.hpp"
#include "blockattn/core/error.hpp"
#include "blockattn/core/log.hpp"
#include "blockattn/io/checkpoint.hpp"

namespace blockattn::inline v0 {

/// Reads all tensors. Throws format_error, which names the first tensor with such a value, and where it is. `progress` counts bytes; false cancels (cancelled_error).
inline void check_weights(const checkpoint& model, const progress_callback& progress = {}) {
  std::int64_t total = 0, done = 0;
  for (const checkpoint_tensor& t : model.tensors()) total += static_cast<std::int64_t>(t.bytes.size());
  std::vector<float> row;
  for (const checkpoint_tensor& t : model.tensors()) {
    const weight_view w = t.matrix();
    row.resize(static_cast<std::size_t>(w.columns));
    for (index_t r = 0; r < w.rows; ++r) {
      decode_row(w.type, w.row(r), row.data(), w.columns);
      for (index_t c = 0; c < w.columns; ++c)
        if (const float value = row[static_cast<std::size_t>(c)]; !std::isfinite(value))
          throw format_error(cat("[model] ", model.path(), ": tensor '", detail::printable(t.name), "' (", name(t.type), ") has the value ", value, " at row ", r, ", column ", c,
                                 "; allowed: finite numbers. The weights are damaged; fetch them again."));
    }
    done += static_cast<std::int64_t>(t.bytes.size());
    if (progress && !progress(done, total)) throw cancelled_error("[model] cancelled by the progress callback");
  }
}

}  // namespace blockattn::inline v0
