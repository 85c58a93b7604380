// The gated feed-forward block on the CPU (contract: docs/operators.md):
//   h = silu(x gate + gate_bias) * (x up + up_bias),  out = h down + down_bias
// x [rows, width], gate and up [width, inner], down [inner, outputs]; h is made again going back.
#pragma once

#include <cstdint>

#include "mix/gemm.h"

namespace mix {

struct GatedMLP {
  int64_t rows, width, inner, outputs;
  const float *gate, *up, *down;
  const float *gate_bias, *up_bias, *down_bias;  // all or none
  Products products;
};

// gated and raised [rows, inner] are x's images before the activation; h may be the same memory as one of them.
void gated_mlp_forward(const GatedMLP& mlp, const float* x, float* gated, float* raised, float* h, float* out);

// Those that are null are not computed.
struct GatedMLPGradients {
  float* x;
  float *gate, *up, *down;
  float *gate_bias, *up_bias, *down_bias;
};

// scratch [3, rows, inner]
void gated_mlp_backward(const GatedMLP& mlp, const float* x, const float* gated, const float* raised,
                        const float* d_out, float* scratch, const GatedMLPGradients& gradients);

}  // namespace mix
