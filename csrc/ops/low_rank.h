// What an adapter adds to a linear map on the CPU: out = x (W + s A B) (contract: docs/operators.md, adapted_linear).
// A [inputs, rank], B [rank, outputs]; x [rows, inputs], W and out as in linear.h.
//
// Of many rows W + s A B is made first and x multiplied once, at the price of a plain map; the sum is rounded to
// float32 as the product is. Of fewer rows, and where factors are rounded to bfloat16, in which W would swallow a
// small s A B, x goes through A and B.
#pragma once

#include <cstdint>

#include "mix/gemm.h"

namespace mix {

struct LowRank {
  int64_t rank = 0;  // 0: the map has no adapter
  float scale = 0.0f;
  const float* down = nullptr;
  const float* up = nullptr;
};

// Those that are null are not computed.
struct LowRankGradient {
  float* down = nullptr;
  float* up = nullptr;
};

struct MapShape {
  int64_t rows, inputs, outputs;
  Products products;
};

// Whether the merged matrix is the shorter way, forward and backward.
bool merges(const LowRank& adapter, const MapShape& shape);

// merged [inputs, outputs] = W + s A B
void merge(const LowRank& adapter, int64_t inputs, int64_t outputs, const float* weight, float* merged);

// out += s (x A) B
void add_low_rank(const LowRank& adapter, const MapShape& shape, const float* x, float* out);

// The gradients of A and B; dx += s (d_out B^T) A^T, where it is not null.
void low_rank_backward(const LowRank& adapter, const MapShape& shape, const float* x, const float* d_out,
                       const LowRankGradient& gradient, float* dx);

}  // namespace mix
