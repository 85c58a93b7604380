// The gated feed-forward block on the CPU (contract: docs/operators.md):
//   h = silu(x gate + gate_bias) * (x up + up_bias),  out = h down + down_bias
// x [rows, width], gate and up [width, inner], down [inner, outputs]; h is made again going back, and in a large block
// what it is made of, too. Each map may have an adapter.
#pragma once

#include <cstdint>

#include "mix/gemm.h"
#include "ops/low_rank.h"

namespace mix {

struct GatedMLP {
  int64_t rows, width, inner, outputs;
  const float *gate, *up, *down;
  const float *gate_bias, *up_bias, *down_bias;  // all or none
  Products products;
  LowRank gate_adapter = {}, up_adapter = {}, down_adapter = {};
};

// Whether the images of x before the activation are worth keeping: in a small block they are. With adapters, which
// leave room where the weights' gradients and moments would be, in a larger one too.
bool gated_mlp_keeps(const GatedMLP& mlp);

// gated and raised [rows, inner] are x's images before the activation; null: they are not kept.
void gated_mlp_forward(const GatedMLP& mlp, const float* x, float* gated, float* raised, float* out);

// Those that are null are not computed.
struct GatedMLPGradients {
  float* x = nullptr;
  float *gate = nullptr, *up = nullptr, *down = nullptr;
  float *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;
  LowRankGradient gate_adapter = {}, up_adapter = {}, down_adapter = {};
};

// gated and raised as kept, or null.
void gated_mlp_backward(const GatedMLP& mlp, const float* x, const float* gated, const float* raised,
                        const float* d_out, const GatedMLPGradients& gradients);

}  // namespace mix
