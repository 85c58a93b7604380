// Products of a few rows with a whole matrix, as decoding needs them: bound by reading the matrix once.
// All in [rows, ...] row-major; rows is small (1 to 8), the matrix big.
#pragma once

#include <cstdint>

#include "ops/linear.h"

namespace mix {

constexpr int64_t kFewRows = 8;

// Each map's out [R, O] = x [R, I] weight [I, O] + bias [O].
void gemv_each(const float* x, int64_t rows, int64_t inputs, const LinearMap* maps, int64_t count);

// out [R, O] = x [R, I] weight^T with weight [O, I]
void gemv_transposed(const float* x, const float* weight, int64_t rows, int64_t inputs, int64_t outputs, float* out);

}  // namespace mix
