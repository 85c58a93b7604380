// The linear map with int8 weights: out [R, O] = (x [R, I] W^T) * scale [O] + bias [O] (null: none), W [O, I] int8.
// Contract: docs/operators.md, linear_int8. The weights are widened in registers, so the matrix is read once, in order.
// Going back, dx [R, I] = (d_out * scale) W, for adapters over frozen weights; W itself has no gradient.
#pragma once

#include <cstdint>

#include "mix/gemm.h"

namespace mix {

// From more rows on, blocks of W are widened into memory and multiplied as a matrix.
constexpr int64_t kFewInt8Rows = 8;

struct Int8Shape {
  int64_t rows;
  int64_t inputs;
  int64_t outputs;
  Products products = Products::kFloat32;  // of more than a few rows
};

// Floats of scratch that linear_int8 needs; 0 for few rows.
int64_t linear_int8_scratch(const Int8Shape& shape);

void linear_int8(const Int8Shape& shape, const float* x, const int8_t* weight, const float* scale, const float* bias,
                 float* scratch, float* out);

// Of few rows the outputs [begin, end) alone, on the calling thread.
void linear_int8_outputs(const Int8Shape& shape, const float* x, const int8_t* weight, const float* scale,
                         int64_t begin, int64_t end, float* out);

int64_t linear_int8_backward_scratch(const Int8Shape& shape);

void linear_int8_backward(const Int8Shape& shape, const int8_t* weight, const float* scale, const float* d_out,
                          float* scratch, float* dx);

}  // namespace mix
