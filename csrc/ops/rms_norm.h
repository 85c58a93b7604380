// Root-mean-square normalisation of rows on the CPU (Zhang and Sennrich, 2019), forward and backward.
// x, out [R, D]; weight [D]; inv_rms [R] is kept for the backward pass. Statistics are float32.
#pragma once

#include <cstdint>

namespace mix {

void rms_norm_forward(const float* x, const float* weight, float eps, int64_t rows, int64_t dim, float* out,
                      float* inv_rms);

// dx [R, D] and d_weight [D], both written whole.
void rms_norm_backward(const float* x, const float* weight, const float* inv_rms, const float* d_out, int64_t rows,
                       int64_t dim, float* dx, float* d_weight);

}  // namespace mix
