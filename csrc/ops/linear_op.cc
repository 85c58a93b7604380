// Paddle bindings of the linear map: mix_linear, and mix_product without a bias. `narrow`: products in bfloat16.
// Which gradients are wanted is told going forward; Paddle's custom operators would ask for all of them.
#include <string>
#include <vector>

#include "ops/binding.h"
#include "ops/linear.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

mix::LinearShape shape_of(const Tensor& x, const Tensor& weight, bool narrow) {
  PD_CHECK(weight.shape().size() == 2, "linear: weight has ", weight.shape().size(), " axes, expected 2 (I, O)");
  const int64_t inputs = weight.shape()[0], outputs = weight.shape()[1];
  PD_CHECK(!x.shape().empty() && x.shape().back() == inputs, "linear: x's last axis has ",
           x.shape().empty() ? 0 : x.shape().back(), " values, weight takes ", inputs);
  const int64_t rows = inputs == 0 ? 0 : x.numel() / inputs;
  return {rows, inputs, outputs, narrow ? mix::Products::kBfloat16 : mix::Products::kFloat32};
}

Tensors forward(const Tensor& x_in, const Tensor& weight_in, const Tensor* bias, bool narrow) {
  const auto x = mix::dense(x_in), weight = mix::dense(weight_in);
  const auto shape = shape_of(x, weight, narrow);
  PD_CHECK(bias == nullptr || bias->numel() == shape.outputs, "linear: bias has ", bias ? bias->numel() : 0,
           " values, weight gives ", shape.outputs);
  auto axes = x.shape();
  axes.back() = shape.outputs;
  auto out = paddle::empty(axes, x.dtype(), x.place());
  mix::linear_forward(shape, mix::data<float>(x), mix::data<float>(weight),
                      bias == nullptr ? nullptr : mix::data<float>(*bias), mix::data<float>(out));
  return {out};
}

Tensors backward(const Tensor& x_in, const Tensor& weight_in, const Tensor* bias, const Tensor& d_out_in, bool narrow,
                 bool want_x, bool want_weight) {
  const auto x = mix::dense(x_in), weight = mix::dense(weight_in), d_out = mix::dense(d_out_in);
  // Paddle wants a tensor in every place; one that nobody asked for has a single number
  const auto gradient = [](const Tensor& t, bool wanted) {
    return paddle::empty(wanted ? t.shape() : std::vector<int64_t>{1}, t.dtype(), t.place());
  };
  Tensors gradients{gradient(x, want_x), gradient(weight, want_weight)};
  if (bias != nullptr) gradients.push_back(gradient(*bias, true));
  const auto to = [&](size_t i, bool wanted) { return wanted ? mix::data<float>(gradients[i]) : nullptr; };
  mix::linear_backward(shape_of(x, weight, narrow), mix::data<float>(x), mix::data<float>(weight),
                       mix::data<float>(d_out), to(0, want_x), to(1, want_weight), to(2, bias != nullptr));
  return gradients;
}

Tensors linear(const Tensor& x, const Tensor& weight, const Tensor& bias, bool narrow, bool, bool) {
  return forward(x, weight, &bias, narrow);
}

Tensors linear_grad(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& d_out, bool narrow,
                    bool want_x, bool want_weight) {
  return backward(x, weight, &bias, d_out, narrow, want_x, want_weight);
}

Tensors product(const Tensor& x, const Tensor& weight, bool narrow, bool, bool) {
  return forward(x, weight, nullptr, narrow);
}

Tensors product_grad(const Tensor& x, const Tensor& weight, const Tensor& d_out, bool narrow, bool want_x,
                     bool want_weight) {
  return backward(x, weight, nullptr, d_out, narrow, want_x, want_weight);
}

}  // namespace

PD_BUILD_OP(mix_linear)
    .Inputs({"x", "weight", "bias"})
    .Outputs({"out"})
    .Attrs({"narrow: bool", "want_x: bool", "want_weight: bool"})
    .SetKernelFn(PD_KERNEL(linear));
PD_BUILD_GRAD_OP(mix_linear)
    .Inputs({"x", "weight", "bias", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad("weight"), paddle::Grad("bias")})
    .Attrs({"narrow: bool", "want_x: bool", "want_weight: bool"})
    .SetKernelFn(PD_KERNEL(linear_grad));

PD_BUILD_OP(mix_product)
    .Inputs({"x", "weight"})
    .Outputs({"out"})
    .Attrs({"narrow: bool", "want_x: bool", "want_weight: bool"})
    .SetKernelFn(PD_KERNEL(product));
PD_BUILD_GRAD_OP(mix_product)
    .Inputs({"x", "weight", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad("weight")})
    .Attrs({"narrow: bool", "want_x: bool", "want_weight: bool"})
    .SetKernelFn(PD_KERNEL(product_grad));
