// Layer normalisation of rows on the CPU (Ba, Kiros and Hinton, 2016), forward and backward.
// x, out [R, D]; weight and bias [D], each may be null; mean and inv_std [R] are kept for the backward pass.
#pragma once

#include <cstdint>

namespace mix {

void layer_norm_forward(const float* x, const float* weight, const float* bias, float eps, int64_t rows,
                        int64_t dim, float* out, float* mean, float* inv_std);

// dx [R, D], d_weight and d_bias [D], each written whole; d_weight and d_bias may be null.
void layer_norm_backward(const float* x, const float* weight, const float* mean, const float* inv_std,
                         const float* d_out, int64_t rows, int64_t dim, float* dx, float* d_weight,
                         float* d_bias);

}  // namespace mix
