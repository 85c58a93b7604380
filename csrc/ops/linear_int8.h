// The linear map with int8 weights: out [R, O] = (x [R, I] W^T) * scale [O] + bias [O] (null: none), W [O, I] int8.
// Contract: docs/operators.md, linear_int8. The weights are widened in registers, so the matrix is read once, in order.
#pragma once

#include <cstdint>

namespace mix {

// From more rows on, blocks of W are widened into memory and multiplied as a matrix.
constexpr int64_t kFewInt8Rows = 8;

struct Int8Shape {
  int64_t rows;
  int64_t inputs;
  int64_t outputs;
};

// Floats of scratch that linear_int8 needs; 0 for few rows.
int64_t linear_int8_scratch(const Int8Shape& shape);

void linear_int8(const Int8Shape& shape, const float* x, const int8_t* weight, const float* scale, const float* bias,
                 float* scratch, float* out);

}  // namespace mix
