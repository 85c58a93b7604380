// The linear map out = x weight + bias on the CPU, or several of one x (contract: docs/operators.md).
// x [rows, inputs], weight [inputs, outputs], bias [outputs]; all row-major. A map may have an adapter (low_rank.h).
#pragma once

#include <cstdint>

#include "mix/gemm.h"
#include "ops/low_rank.h"

namespace mix {

struct LinearShape {
  int64_t rows;
  int64_t inputs;
  Products products;
};

// bias may be null.
struct LinearMap {
  int64_t outputs;
  const float* weight;
  const float* bias;
  float* out;
  LowRank adapter = {};
};

// What one map adds to the gradients. d_weight and d_bias have the shapes of weight and bias, and may be null.
struct LinearGradient {
  int64_t outputs;
  const float* weight;
  const float* d_out;
  float* d_weight;
  float* d_bias;
  LowRank adapter = {};
  LowRankGradient d_adapter = {};
};

// Of a few rows the weights are read once, in order, whatever `products` says.
void linear_forward(const LinearShape& shape, const float* x, const LinearMap* maps, int64_t count);

// dx [rows, inputs] is the sum over the maps; null: not computed.
void linear_backward(const LinearShape& shape, const float* x, const LinearGradient* maps, int64_t count, float* dx);

}  // namespace mix
