// Paddle bindings of linear maps: mix_linear, mix_product without a bias, and mix_qkv, three maps of one x. `narrow`:
// products in bfloat16. `wanted`: one bit for each input whose gradient is asked for, from the lowest on, told going forward;
// Paddle's custom operators would ask for all of them.
#include <string>
#include <vector>

#include "ops/binding.h"
#include "ops/linear.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

mix::LinearShape shape_of(const Tensor& x, const Tensor& weight, bool narrow) {
  PD_CHECK(weight.shape().size() == 2, "linear: weight has ", weight.shape().size(), " axes, expected 2 (I, O)");
  const int64_t inputs = weight.shape()[0];
  PD_CHECK(!x.shape().empty() && x.shape().back() == inputs, "linear: x's last axis has ",
           x.shape().empty() ? 0 : x.shape().back(), " values, weight takes ", inputs);
  return {inputs == 0 ? 0 : x.numel() / inputs, inputs, mix::products_of(narrow)};
}

// Of each weight's map, with its bias or none.
Tensors forward(const Tensor& x_in, const Tensors& weights_in, const Tensors& biases, bool narrow) {
  const auto x = mix::dense(x_in);
  Tensors weights, outs;
  std::vector<mix::LinearMap> maps;
  for (size_t i = 0; i < weights_in.size(); ++i) {
    weights.push_back(mix::dense(weights_in[i]));
    const int64_t inputs = weights[i].shape()[0], outputs = weights[i].shape()[1];
    PD_CHECK(inputs == x.shape().back(), "linear: x's last axis has ", x.shape().back(), " values, weight takes ",
             inputs);
    PD_CHECK(biases.empty() || biases[i].numel() == outputs, "linear: bias has ",
             biases.empty() ? 0 : biases[i].numel(), " values, weight gives ", outputs);
    auto axes = x.shape();
    axes.back() = outputs;
    outs.push_back(paddle::empty(axes, x.dtype(), x.place()));
    maps.push_back({outputs, mix::data<float>(weights[i]), biases.empty() ? nullptr : mix::data<float>(biases[i]),
                    mix::data<float>(outs[i])});
  }
  mix::linear_forward(shape_of(x, weights[0], narrow), mix::data<float>(x), maps.data(),
                      static_cast<int64_t>(maps.size()));
  return outs;
}

// The gradients of x, of the weights and of the biases, in this order.
Tensors backward(const Tensor& x_in, const Tensors& weights_in, const Tensors& biases, const Tensors& d_outs_in,
                 bool narrow, int64_t wanted) {
  const auto x = mix::dense(x_in);
  mix::Gradients gradients(wanted);
  gradients.add(x);
  for (const auto& weight : weights_in) gradients.add(weight);
  for (const auto& bias : biases) gradients.add(bias);
  Tensors weights, d_outs;
  std::vector<mix::LinearGradient> maps;
  for (size_t i = 0; i < weights_in.size(); ++i) {
    weights.push_back(mix::dense(weights_in[i]));
    d_outs.push_back(mix::dense(d_outs_in[i]));
    maps.push_back({weights[i].shape()[1], mix::data<float>(weights[i]), mix::data<float>(d_outs[i]),
                    gradients.at(1 + i), biases.empty() ? nullptr : gradients.at(1 + weights_in.size() + i)});
  }
  mix::linear_backward(shape_of(x, weights[0], narrow), mix::data<float>(x), maps.data(),
                       static_cast<int64_t>(maps.size()), gradients.at(0));
  return gradients.tensors();
}

Tensors linear(const Tensor& x, const Tensor& weight, const Tensor& bias, bool narrow, int64_t) {
  return forward(x, {weight}, {bias}, narrow);
}

Tensors linear_grad(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& d_out, bool narrow,
                    int64_t wanted) {
  return backward(x, {weight}, {bias}, {d_out}, narrow, wanted);
}

Tensors product(const Tensor& x, const Tensor& weight, bool narrow, int64_t) {
  return forward(x, {weight}, {}, narrow);
}

Tensors product_grad(const Tensor& x, const Tensor& weight, const Tensor& d_out, bool narrow,
                     int64_t wanted) {
  return backward(x, {weight}, {}, {d_out}, narrow, wanted);
}

// parameters: three weights, then three biases or none.
Tensors qkv(const Tensor& x, const Tensors& parameters, bool narrow, int64_t) {
  return forward(x, mix::part(parameters, 0, 3), mix::part(parameters, 3, parameters.size()), narrow);
}

Tensors qkv_grad(const Tensor& x, const Tensors& parameters, const Tensor& d_q, const Tensor& d_k, const Tensor& d_v,
                 bool narrow, int64_t wanted) {
  return backward(x, mix::part(parameters, 0, 3), mix::part(parameters, 3, parameters.size()), {d_q, d_k, d_v}, narrow,
                  wanted);
}

}  // namespace

PD_BUILD_OP(mix_qkv)
    .Inputs({"x", paddle::Vec("parameters")})
    .Outputs({"q", "k", "v"})
    .Attrs({"narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(qkv));
PD_BUILD_GRAD_OP(mix_qkv)
    .Inputs({"x", paddle::Vec("parameters"), paddle::Grad("q"), paddle::Grad("k"), paddle::Grad("v")})
    .Outputs({paddle::Grad("x"), paddle::Grad(paddle::Vec("parameters"))})
    .Attrs({"narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(qkv_grad));

PD_BUILD_OP(mix_linear)
    .Inputs({"x", "weight", "bias"})
    .Outputs({"out"})
    .Attrs({"narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(linear));
PD_BUILD_GRAD_OP(mix_linear)
    .Inputs({"x", "weight", "bias", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad("weight"), paddle::Grad("bias")})
    .Attrs({"narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(linear_grad));

PD_BUILD_OP(mix_product)
    .Inputs({"x", "weight"})
    .Outputs({"out"})
    .Attrs({"narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(product));
PD_BUILD_GRAD_OP(mix_product)
    .Inputs({"x", "weight", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad("weight")})
    .Attrs({"narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(product_grad));
