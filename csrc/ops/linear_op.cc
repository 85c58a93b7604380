// Paddle bindings of linear maps: mix_linear, mix_product without a bias, mix_qkv, three maps of one x, and
// mix_adapted_linear, one to three of them with adapters. `narrow`: products in bfloat16. `wanted`: one bit for each
// input whose gradient is asked for, from the lowest on, told going forward; Paddle's custom operators would ask for all.
#include <string>
#include <vector>

#include "ops/adapters.h"
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

// The matrices of adapters, if there are any: `places` says whose they are.
struct Adapters {
  Tensors parameters;
  mix::AdapterPlaces places{0, {}};
};

// Of each weight's map, with its bias or none.
Tensors forward(const Tensor& x_in, const Tensors& weights_in, const Tensors& biases, bool narrow,
                const Adapters& adapters = {}) {
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
                    mix::data<float>(outs[i]), adapters.places.of(adapters.parameters, i, inputs, outputs)});
  }
  mix::linear_forward(shape_of(x, weights[0], narrow), mix::data<float>(x), maps.data(),
                      static_cast<int64_t>(maps.size()));
  return outs;
}

// The gradients of x, of the weights, of the biases and of the adapters, in this order.
Tensors backward(const Tensor& x_in, const Tensors& weights_in, const Tensors& biases, const Tensors& d_outs_in,
                 bool narrow, int64_t wanted, const Adapters& adapters = {}) {
  const auto x = mix::dense(x_in);
  mix::Gradients gradients(wanted);
  gradients.add(x);
  for (const auto& weight : weights_in) gradients.add(weight);
  for (const auto& bias : biases) gradients.add(bias);
  for (const auto& matrix : adapters.parameters) gradients.add(matrix);
  const size_t before = 1 + weights_in.size() + biases.size();
  Tensors weights, d_outs;
  std::vector<mix::LinearGradient> maps;
  for (size_t i = 0; i < weights_in.size(); ++i) {
    weights.push_back(mix::dense(weights_in[i]));
    d_outs.push_back(mix::dense(d_outs_in[i]));
    const int64_t inputs = weights[i].shape()[0], outputs = weights[i].shape()[1];
    maps.push_back({outputs, mix::data<float>(weights[i]), mix::data<float>(d_outs[i]), gradients.at(1 + i),
                    biases.empty() ? nullptr : gradients.at(1 + weights_in.size() + i),
                    adapters.places.of(adapters.parameters, i, inputs, outputs),
                    adapters.places.gradient(gradients, before, i)});
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

struct Maps {
  Tensors weights, biases;
  Adapters adapters;
};

// parameters: the weights, then a bias for each or none, then the adapters'.
Maps maps_of(const Tensors& parameters, const std::vector<float>& scales, bool biased) {
  const size_t count = scales.size(), first = biased ? 2 * count : count;
  PD_CHECK(parameters.size() == first + 2 * mix::adapters_among(scales), "adapted_linear: ", parameters.size(),
           " parameters do not go with ", count, " maps");
  Maps maps{mix::part(parameters, 0, count), mix::part(parameters, count, first), {}};
  for (const auto& matrix : mix::part(parameters, first, parameters.size()))
    maps.adapters.parameters.push_back(mix::dense(matrix));
  maps.adapters.places = {0, scales};
  return maps;
}

Tensors adapted(const Tensor& x, const Tensors& parameters, const std::vector<float>& scales, bool biased, bool narrow,
                int64_t) {
  const Maps maps = maps_of(parameters, scales, biased);
  Tensors outs = forward(x, maps.weights, maps.biases, narrow, maps.adapters);
  // Paddle wants to know the number of outputs: those of maps that are not there are empty
  while (outs.size() < 3) outs.push_back(paddle::empty({0}, x.dtype(), x.place()));
  return outs;
}

Tensors adapted_grad(const Tensor& x, const Tensors& parameters, const Tensor& first, const Tensor& second,
                     const Tensor& third, const std::vector<float>& scales, bool biased, bool narrow, int64_t wanted) {
  const Maps maps = maps_of(parameters, scales, biased);
  const Tensors d_outs = mix::part({first, second, third}, 0, scales.size());
  return backward(x, maps.weights, maps.biases, d_outs, narrow, wanted, maps.adapters);
}

}  // namespace

PD_BUILD_OP(mix_adapted_linear)
    .Inputs({"x", paddle::Vec("parameters")})
    .Outputs({"first", "second", "third"})
    .Attrs({"scales: std::vector<float>", "biased: bool", "narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(adapted));
PD_BUILD_GRAD_OP(mix_adapted_linear)
    .Inputs({"x", paddle::Vec("parameters"), paddle::Grad("first"), paddle::Grad("second"), paddle::Grad("third")})
    .Outputs({paddle::Grad("x"), paddle::Grad(paddle::Vec("parameters"))})
    .Attrs({"scales: std::vector<float>", "biased: bool", "narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(adapted_grad));

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
