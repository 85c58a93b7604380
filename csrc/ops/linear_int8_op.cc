// Paddle binding: mix_linear_int8(x, weight, scale, bias?) -> out, with the gradient of x. `narrow`: products in bfloat16.
#include <memory>
#include <vector>

#include "ops/binding.h"
#include "ops/linear_int8.h"

namespace {

using paddle::Tensor;

mix::Int8Shape shape_of(const Tensor& x, const Tensor& weight, const Tensor& scale, bool narrow) {
  PD_CHECK(weight.dtype() == paddle::DataType::INT8 && weight.shape().size() == 2,
           "linear_int8 takes an int8 matrix as weight");
  const int64_t outputs = weight.shape()[0], inputs = weight.shape()[1];
  PD_CHECK(!x.shape().empty() && x.shape().back() == inputs, "linear_int8: x's last axis must be the weight's inputs");
  PD_CHECK(scale.numel() == outputs, "linear_int8: there must be a scale for each of the weight's outputs");
  return {x.numel() / inputs, inputs, outputs, mix::products_of(narrow)};
}

// x [..., I] float32, weight [O, I] int8, scale and bias [O] float32 -> out [..., O].
std::vector<Tensor> linear_int8(const Tensor& x_in, const Tensor& weight_in, const Tensor& scale_in,
                                const paddle::optional<Tensor>& bias_in, bool narrow) {
  const auto x = mix::dense(x_in), scale = mix::dense(scale_in), weight = mix::in_order(weight_in);
  const auto sizes = shape_of(x, weight, scale, narrow);
  auto axes = x.shape();
  axes.back() = sizes.outputs;
  auto out = paddle::empty(axes, x.dtype(), x.place());
  const std::unique_ptr<float[]> scratch(new float[mix::linear_int8_scratch(sizes)]);
  Tensor bias;
  if (bias_in) {
    bias = mix::dense(*bias_in);
    PD_CHECK(bias.numel() == sizes.outputs, "linear_int8: the bias must have the weight's outputs");
  }
  mix::linear_int8(sizes, mix::data<float>(x), mix::data<int8_t>(weight), mix::data<float>(scale),
                   bias_in ? mix::data<float>(bias) : nullptr, scratch.get(), mix::data<float>(out));
  return {out};
}

std::vector<Tensor> linear_int8_grad(const Tensor& weight_in, const Tensor& scale_in, const Tensor& d_out_in,
                                     bool narrow) {
  const auto scale = mix::dense(scale_in), d_out = mix::dense(d_out_in), weight = mix::in_order(weight_in);
  auto axes = d_out.shape();
  axes.back() = weight.shape()[1];
  auto dx = paddle::empty(axes, d_out.dtype(), d_out.place());
  const auto sizes = shape_of(dx, weight, scale, narrow);
  const std::unique_ptr<float[]> scratch(new float[mix::linear_int8_backward_scratch(sizes)]);
  mix::linear_int8_backward(sizes, mix::data<int8_t>(weight), mix::data<float>(scale), mix::data<float>(d_out),
                            scratch.get(), mix::data<float>(dx));
  return {dx};
}

}  // namespace

PD_BUILD_OP(mix_linear_int8)
    .Inputs({"x", "weight", "scale", paddle::Optional("bias")})
    .Outputs({"out"})
    .Attrs({"narrow: bool"})
    .SetKernelFn(PD_KERNEL(linear_int8));
PD_BUILD_GRAD_OP(mix_linear_int8)
    .Inputs({"weight", "scale", paddle::Grad("out")})
    .Outputs({paddle::Grad("x")})
    .Attrs({"narrow: bool"})
    .SetKernelFn(PD_KERNEL(linear_int8_grad));
