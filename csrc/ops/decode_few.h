// decode_layers of so few rows that reading the weights is all that takes time.
#pragma once

#include "ops/decode_layers.h"

namespace mix {

// As decode_layers, with at most kFewRows rows (ops/gemv.h). Threads stay together through all layers: each multiplies
// the same share of every matrix, of its inputs or, in 8 bits, of its outputs, so that it reads what lies together; and
// they meet where one needs what others have summed or made.
void decode_few(const DecodeShape& shape, const DecodeLayer* layers, int64_t count, const float* x, const float* cos,
                const float* sin, const int64_t* lengths, float* out);

}  // namespace mix
