// Two-dimensional convolution with a square kernel on the CPU (contract: docs/operators.md), as a product of the
// weights with patches of the image.
// x [B, C, H, W], weight [O, C, K, K], bias [O] or [B, O], out [B, O, out_height, out_width]; all row-major, zeros
// around x.
#pragma once

#include <cstdint>

#include "mix/gemm.h"

namespace mix {

struct ConvShape {
  int64_t batch, channels, height, width;
  int64_t outputs, kernel, stride;
  int64_t top, left;  // rows of zeros above x, columns of zeros before it
  int64_t out_height, out_width;
  Products products;
  bool bias_of_image = false;  // each image has its own
};

// bias may be null.
void conv2d_forward(const ConvShape& shape, const float* x, const float* weight, const float* bias, float* out);

// dx, d_weight and d_bias have the shapes of x, weight and bias; each may be null.
void conv2d_backward(const ConvShape& shape, const float* x, const float* weight, const float* d_out, float* dx,
                     float* d_weight, float* d_bias);

}  // namespace mix
