// The families: see core/parts.hpp.
#define BLOCKATTN_COMPILING_MODELS
#include "blockattn/model/families.hpp"
