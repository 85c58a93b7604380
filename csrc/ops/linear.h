// Affine map of rows on the CPU: out = x W + b, and its gradients. x [R, I], W [I, O], b [O], out [R, O].
#pragma once

#include <cstdint>

namespace mix {

void linear_forward(const float* x, const float* weight, const float* bias, int64_t rows, int64_t inputs,
                    int64_t outputs, float* out);

// dx [R, I], d_weight [I, O] and d_bias [O], each written whole.
void linear_backward(const float* x, const float* weight, const float* d_out, int64_t rows, int64_t inputs,
                     int64_t outputs, float* dx, float* d_weight, float* d_bias);

}  // namespace mix
