// Paddle binding: mix_linear_int8(x, weight, scale, bias?) -> out. It has no gradient.
#include <memory>
#include <vector>

#include "ops/binding.h"
#include "ops/linear_int8.h"

namespace {

using paddle::Tensor;

// x [..., I] float32, weight [O, I] int8, scale and bias [O] float32 -> out [..., O].
std::vector<Tensor> linear_int8(const Tensor& x_in, const Tensor& weight_in, const Tensor& scale_in,
                                const paddle::optional<Tensor>& bias_in) {
  const auto x = mix::dense(x_in), scale = mix::dense(scale_in);
  PD_CHECK(weight_in.dtype() == paddle::DataType::INT8 && weight_in.shape().size() == 2,
           "linear_int8 takes an int8 matrix as weight");
  const auto weight = weight_in.is_contiguous() ? weight_in : weight_in.contiguous();
  const int64_t outputs = weight.shape()[0], inputs = weight.shape()[1];
  auto shape = x.shape();
  PD_CHECK(!shape.empty() && shape.back() == inputs, "linear_int8: x's last axis must be the weight's inputs");
  PD_CHECK(scale.numel() == outputs, "linear_int8: there must be a scale for each of the weight's outputs");
  shape.back() = outputs;
  auto out = paddle::empty(shape, x.dtype(), x.place());
  const mix::Int8Shape sizes{x.numel() / inputs, inputs, outputs};
  const std::unique_ptr<float[]> scratch(new float[mix::linear_int8_scratch(sizes)]);
  Tensor bias;
  if (bias_in) {
    bias = mix::dense(*bias_in);
    PD_CHECK(bias.numel() == outputs, "linear_int8: the bias must have the weight's outputs");
  }
  mix::linear_int8(sizes, mix::data<float>(x), mix::data<int8_t>(weight), mix::data<float>(scale),
                   bias_in ? mix::data<float>(bias) : nullptr, scratch.get(), mix::data<float>(out));
  return {out};
}

}  // namespace

PD_BUILD_OP(mix_linear_int8)
    .Inputs({"x", "weight", "scale", paddle::Optional("bias")})
    .Outputs({"out"})
    .SetKernelFn(PD_KERNEL(linear_int8));
