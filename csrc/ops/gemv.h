// Products of a few rows with a whole matrix, as decoding needs them: bound by reading the matrix once.
// All in [rows, ...] row-major; rows is small (1 to 8), the matrix big.
#pragma once

#include <cstdint>

#include "ops/linear.h"

namespace mix {

constexpr int64_t kFewRows = 8;
constexpr int64_t kGemvStep = 8;  // inputs that are multiplied at once

// x [R, I] and weight [I, O].
struct FewRows {
  const float *x, *weight;
  int64_t rows, inputs, outputs;
};

// total [R, O] += x weight of the inputs [begin, end), of which begin is a multiple of kGemvStep. `block` [R, O] holds
// zeros before and after: sums of thousands of terms would lose digits, so blocks are summed first.
void gemv_inputs(const FewRows& product, int64_t begin, int64_t end, float* block, float* total);

// Each map's out [R, O] = x [R, I] weight [I, O] + bias [O].
void gemv_each(const float* x, int64_t rows, int64_t inputs, const LinearMap* maps, int64_t count);

// out [R, O] = x [R, I] weight^T with weight [O, I]
void gemv_transposed(const float* x, const float* weight, int64_t rows, int64_t inputs, int64_t outputs, float* out);

}  // namespace mix
