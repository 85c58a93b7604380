// Element types and the arithmetic of reductions.
#pragma once

#include <cstddef>
#include <vector>

#include "sim/collective.h"

namespace mix::sim {

// "float32", "bfloat16"...
const char* name_of(Dtype dtype);
const char* name_of(Reduction reduction);

// Throws CollectiveError where the type does not know the reduction.
void check_reduction(Dtype dtype, Reduction reduction);

// out[i] = sources[0][i] (+) sources[1][i] (+) ..., in this order, for `count` elements. `out` may be one of the
// sources. 16-bit floats are reduced in float32 and integers in 64 bits, and rounded or cut once.
void reduce_elements(void* out, const std::vector<const void*>& sources, size_t count, Dtype dtype,
                     Reduction reduction);

}  // namespace mix::sim
