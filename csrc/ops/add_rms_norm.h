// Residual addition and root-mean-square normalisation of the sum on the CPU, forward and backward.
// x, branch, sum, normed [R, D]; weight [D]; inv_rms [R] is kept for the backward pass, with the sum.
#pragma once

#include <cstdint>

namespace mix {

// sum = x + branch, normed = sum * inv_rms * weight.
void add_rms_norm_forward(const float* x, const float* branch, const float* weight, float eps, int64_t rows,
                          int64_t dim, float* sum, float* normed, float* inv_rms);

// The gradient of x and of the branch is the same: d_sum and what comes through the norm. Both [R, D] are
// written, because Paddle adds to gradients in place. d_weight [D].
void add_rms_norm_backward(const float* sum, const float* weight, const float* inv_rms, const float* d_sum,
                           const float* d_normed, int64_t rows, int64_t dim, float* dx, float* d_branch,
                           float* d_weight);

}  // namespace mix
