// The attention of attention.h on the units of gemm_tiles.h: keys and values are packed once for all queries and heads
// that read them. Scratch grows with the tokens of a segment, never with their square.
#pragma once

#include "ops/attention.h"

namespace mix {

// Whether this shape is served here: a unit for it, and segments that are long enough to pay for the packing.
bool attention_on_tiles(const AttentionShape& shape);

void attention_forward_tiles(const AttentionShape& shape, const float* q, const float* k, const float* v, float* out,
                             float* lse);

void attention_backward_tiles(const AttentionShape& shape, const float* q, const float* k, const float* v,
                              const float* out, const float* lse, const float* d_out, float* dq, float* dk, float* dv);

}  // namespace mix
