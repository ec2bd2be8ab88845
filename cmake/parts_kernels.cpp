// The kernels of every level: see core/parts.hpp.
#define BLOCKATTN_COMPILING_KERNELS
#include "blockattn/kernels/dispatch.hpp"
