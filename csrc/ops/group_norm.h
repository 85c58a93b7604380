// Group normalisation on the CPU (Wu and He, 2018), forward and backward; with `silu`, the result times its sigmoid.
// x, out [B, C, I] with I the product of all further axes; groups of C / groups channels; weight and bias [C],
// each may be null; mean and inv_std [B, groups] are kept for the backward pass.
#pragma once

#include <cstdint>

namespace mix {

struct GroupShape {
  int64_t batch;
  int64_t channels;
  int64_t inner;
  int64_t groups;
  bool silu = false;
};

void group_norm_forward(const GroupShape& shape, const float* x, const float* weight, const float* bias, float eps,
                        float* out, float* mean, float* inv_std);

// dx [B, C, I], d_weight and d_bias [C], each written whole; d_weight and d_bias may be null.
void group_norm_backward(const GroupShape& shape, const float* x, const float* weight, const float* bias,
                         const float* mean, const float* inv_std, const float* d_out, float* dx, float* d_weight, float* d_bias);

}  // namespace mix
