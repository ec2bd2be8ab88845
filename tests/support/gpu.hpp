// Tests that need a GPU leave themselves out, aloud, where there is none.
#pragma once

#include <cstdio>

#include "blockattn/cuda/engine.hpp"

namespace blockattn_test {

/// True if there is a GPU; otherwise says once that the test is skipped, and why.
inline bool have_gpu() {
  const blockattn::cuda::device_report found = blockattn::cuda::find_devices();
  if (!found.devices.empty()) return true;
  std::printf("SKIPPED: no GPU (%s)\n", found.problem.c_str());
  return false;
}

}  // namespace blockattn_test
