#include "ops/gated_mlp.h"

#include "mix/aligned.h"
#include "ops/linear.h"
#include "ops/swiglu.h"

namespace mix {
namespace {

// 1,024 tokens of width 1,408 take 11 MiB a layer to keep, and 6 to 10 % of a training step to make again.
constexpr int64_t kKept = int64_t{1} << 22;

void images(const GatedMLP& mlp, const float* x, float* gated, float* raised) {
  const LinearMap in[] = {{mlp.inner, mlp.gate, mlp.gate_bias, gated, mlp.gate_adapter},
                          {mlp.inner, mlp.up, mlp.up_bias, raised, mlp.up_adapter}};
  linear_forward({mlp.rows, mlp.width, mlp.products}, x, in, 2);
}

}  // namespace

bool gated_mlp_keeps(const GatedMLP& mlp) {
  return mlp.rows * mlp.inner < kKept;
}

// Pieces of scratch are asked for one by one: they fit between what is kept.
using Piece = Aligned<float>;

void gated_mlp_forward(const GatedMLP& mlp, const float* x, float* gated, float* raised, float* out) {
  const int64_t numbers = mlp.rows * mlp.inner;
  Piece h(numbers), other(raised == nullptr ? numbers : 0);
  if (gated == nullptr) gated = h.data(), raised = other.data();
  images(mlp, x, gated, raised);
  swiglu_forward(gated, raised, numbers, h.data());
  const LinearMap back{mlp.outputs, mlp.down, mlp.down_bias, out, mlp.down_adapter};
  linear_forward({mlp.rows, mlp.inner, mlp.products}, h.data(), &back, 1);
}

void gated_mlp_backward(const GatedMLP& mlp, const float* x, const float* gated, const float* raised,
                        const float* d_out, const GatedMLPGradients& gradients) {
  const int64_t numbers = mlp.rows * mlp.inner;
  Piece h(numbers), dh(numbers), d_raised(numbers), gated_again(gated == nullptr ? numbers : 0);
  if (gated == nullptr) {
    images(mlp, x, gated_again.data(), d_raised.data());
    gated = gated_again.data(), raised = d_raised.data();  // whose gradient takes its place
  }
  swiglu_forward(gated, raised, numbers, h.data());
  const LinearGradient back{mlp.outputs,          mlp.down,         d_out,                 gradients.down,
                            gradients.down_bias, mlp.down_adapter, gradients.down_adapter};
  linear_backward({mlp.rows, mlp.inner, mlp.products}, h.data(), &back, 1, dh.data());
  float* const d_gated = h.data();  // which has served
  swiglu_backward(gated, raised, dh.data(), numbers, d_gated, d_raised.data());
  const LinearGradient in[] = {{mlp.inner, mlp.gate, d_gated, gradients.gate, gradients.gate_bias, mlp.gate_adapter,
                                gradients.gate_adapter},
                               {mlp.inner, mlp.up, d_raised.data(), gradients.up, gradients.up_bias, mlp.up_adapter,
                                gradients.up_adapter}};
  linear_backward({mlp.rows, mlp.width, mlp.products}, x, in, 2, gradients.x);
}

}  // namespace mix
