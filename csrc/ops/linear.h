// The linear map out = x weight + bias on the CPU (contract: docs/operators.md).
// x [rows, inputs], weight [inputs, outputs], bias [outputs]; all row-major.
#pragma once

#include <cstdint>

#include "mix/gemm.h"

namespace mix {

struct LinearShape {
  int64_t rows;
  int64_t inputs;
  int64_t outputs;
  Products products;
};

// bias may be null.
void linear_forward(const LinearShape& shape, const float* x, const float* weight, const float* bias, float* out);

// The gradients dx, d_weight and d_bias of the shapes of x, weight and bias; one that is null is not computed.
void linear_backward(const LinearShape& shape, const float* x, const float* weight, const float* d_out, float* dx,
                     float* d_weight, float* d_bias);

}  // namespace mix
