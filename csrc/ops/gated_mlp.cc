#include "ops/gated_mlp.h"

#include "ops/linear.h"
#include "ops/swiglu.h"

namespace mix {

void gated_mlp_forward(const GatedMLP& mlp, const float* x, float* gated, float* raised, float* h, float* out) {
  const LinearMap in[] = {{mlp.inner, mlp.gate, mlp.gate_bias, gated}, {mlp.inner, mlp.up, mlp.up_bias, raised}};
  linear_forward({mlp.rows, mlp.width, mlp.products}, x, in, 2);
  swiglu_forward(gated, raised, mlp.rows * mlp.inner, h);
  const LinearMap back{mlp.outputs, mlp.down, mlp.down_bias, out};
  linear_forward({mlp.rows, mlp.inner, mlp.products}, h, &back, 1);
}

void gated_mlp_backward(const GatedMLP& mlp, const float* x, const float* gated, const float* raised,
                        const float* d_out, float* scratch, const GatedMLPGradients& gradients) {
  const int64_t numbers = mlp.rows * mlp.inner;
  float *const h = scratch, *const dh = h + numbers, *const d_raised = dh + numbers;
  swiglu_forward(gated, raised, numbers, h);
  const LinearGradient back{mlp.outputs, mlp.down, d_out, gradients.down, gradients.down_bias};
  linear_backward({mlp.rows, mlp.inner, mlp.products}, h, &back, 1, dh);
  float* const d_gated = h;  // which has served
  swiglu_backward(gated, raised, dh, numbers, d_gated, d_raised);
  const LinearGradient in[] = {{mlp.inner, mlp.gate, d_gated, gradients.gate, gradients.gate_bias},
                               {mlp.inner, mlp.up, d_raised, gradients.up, gradients.up_bias}};
  linear_backward({mlp.rows, mlp.width, mlp.products}, x, in, 2, gradients.x);
}

}  // namespace mix
