// Paddle binding: mix_gemv(x, weight, bias?) -> out, the product of a few rows. It has no gradient.
#include <vector>

#include "ops/binding.h"
#include "ops/gemv.h"

namespace {

using paddle::Tensor;

// weight [I, O], or [O, I] where `transposed`; x [..., I] -> out [..., O].
std::vector<Tensor> gemv(const Tensor& x_in, const Tensor& weight_in, const paddle::optional<Tensor>& bias,
                         bool transposed) {
  const auto x = mix::dense(x_in), weight = mix::dense(weight_in);
  PD_CHECK(weight.shape().size() == 2, "gemv takes a matrix as weight");
  const int64_t inputs = weight.shape()[transposed ? 1 : 0], outputs = weight.shape()[transposed ? 0 : 1];
  auto shape = x.shape();
  PD_CHECK(!shape.empty() && shape.back() == inputs, "gemv: x's last axis must be the weight's inputs");
  PD_CHECK(!bias || (bias->numel() == outputs && !transposed), "gemv: the bias must have the weight's outputs");
  shape.back() = outputs;
  auto out = paddle::empty(shape, x.dtype(), x.place());
  const int64_t rows = x.numel() / inputs;
  const float* const numbers = mix::data<float>(x);
  if (transposed) {
    mix::gemv_transposed(numbers, mix::data<float>(weight), rows, inputs, outputs, mix::data<float>(out));
  } else {
    mix::gemv(numbers, mix::data<float>(weight), bias ? mix::data<float>(*bias) : nullptr, rows, inputs, outputs,
              mix::data<float>(out));
  }
  return {out};
}

}  // namespace

PD_BUILD_OP(mix_gemv)
    .Inputs({"x", "weight", paddle::Optional("bias")})
    .Outputs({"out"})
    .Attrs({"transposed: bool"})
    .SetKernelFn(PD_KERNEL(gemv));
