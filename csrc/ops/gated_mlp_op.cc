// Paddle bindings: mix_gated_mlp(x, parameters) -> out, gated, raised, and mix_adapted_mlp, whose maps have adapters.
// parameters: the weights of gate, up and down, then their biases or none, then those of the
// adapters (adapters.h). gated and raised are kept for going back, or empty: where nothing learns, and in large blocks.
#include <vector>

#include "ops/adapters.h"
#include "ops/binding.h"
#include "ops/gated_mlp.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;
using Scales = std::vector<float>;

// Where the parts of `parameters` begin.
struct Layout {
  size_t biases;  // 3 or 0 of them
  mix::AdapterPlaces adapters;
};

Layout layout_of(const Tensors& p, const Scales& scales) {
  const size_t adapters = 2 * mix::adapters_among(scales);
  PD_CHECK(p.size() == 3 + adapters || p.size() == 6 + adapters, "gated_mlp takes 3 weights, 3 biases or none, and ",
           adapters, " matrices of adapters; it got ", p.size(), " in all");
  const size_t biases = p.size() - 3 - adapters;
  return {biases, {3 + biases, scales}};
}

mix::GatedMLP describe(const Tensor& x, const Tensors& p, const Layout& layout, bool narrow) {
  for (size_t i = 0; i < 3; ++i) PD_CHECK(p[i].shape().size() == 2, "gated_mlp takes matrices as weights");
  const int64_t width = p[0].shape()[0], inner = p[0].shape()[1], outputs = p[2].shape()[1];
  PD_CHECK(!x.shape().empty() && x.shape().back() == width, "gated_mlp: x's last axis must be gate's inputs");
  PD_CHECK(p[1].shape() == p[0].shape() && p[2].shape()[0] == inner,
           "gated_mlp: gate and up have one shape, and down takes what they give");
  const auto bias = [&](size_t i, int64_t expected) -> const float* {
    if (layout.biases == 0) return nullptr;
    PD_CHECK(p[i].numel() == expected, "gated_mlp: a bias has ", p[i].numel(), " values, its weight gives ", expected);
    return mix::data<float>(p[i]);
  };
  return {width == 0 ? 0 : x.numel() / width, width, inner, outputs,
          mix::data<float>(p[0]), mix::data<float>(p[1]), mix::data<float>(p[2]),
          bias(3, inner), bias(4, inner), bias(5, outputs), mix::products_of(narrow),
          layout.adapters.of(p, 0, width, inner), layout.adapters.of(p, 1, width, inner),
          layout.adapters.of(p, 2, inner, outputs)};
}

Tensors dense_of(const Tensors& tensors) {
  Tensors all;
  for (const auto& tensor : tensors) all.push_back(mix::dense(tensor));
  return all;
}

Tensors adapted_mlp(const Tensor& x_in, const Tensors& parameters_in, const Scales& scales, bool narrow,
                    bool learning, int64_t) {
  const auto x = mix::dense(x_in);
  const auto parameters = dense_of(parameters_in);
  const auto mlp = describe(x, parameters, layout_of(parameters, scales), narrow);
  auto axes = x.shape(), inner_axes = axes;
  axes.back() = mlp.outputs, inner_axes.back() = mlp.inner;
  const auto empty = [&](const std::vector<int64_t>& shape) { return paddle::empty(shape, x.dtype(), x.place()); };
  auto out = empty(axes);
  const bool keeps = learning && mix::gated_mlp_keeps(mlp);
  auto gated = empty(keeps ? inner_axes : std::vector<int64_t>{0}), raised = keeps ? empty(inner_axes) : gated;
  mix::gated_mlp_forward(mlp, mix::data<float>(x), keeps ? mix::data<float>(gated) : nullptr,
                         keeps ? mix::data<float>(raised) : nullptr, mix::data<float>(out));
  return {out, gated, raised};
}

Tensors adapted_mlp_grad(const Tensor& x_in, const Tensors& parameters_in, const Tensor& gated, const Tensor& raised,
                         const Tensor& d_out_in, const Scales& scales, bool narrow, bool, int64_t wanted) {
  const auto x = mix::dense(x_in), d_out = mix::dense(d_out_in);
  const auto parameters = dense_of(parameters_in);
  const auto layout = layout_of(parameters, scales);
  const auto mlp = describe(x, parameters, layout, narrow);
  mix::Gradients gradients(wanted);
  gradients.add(x);
  for (const auto& parameter : parameters) gradients.add(parameter);
  const bool kept = mix::gated_mlp_keeps(mlp);
  const auto bias = [&](size_t i) { return layout.biases == 0 ? nullptr : gradients.at(i); };
  const auto adapter = [&](size_t map) { return layout.adapters.gradient(gradients, 1, map); };
  mix::gated_mlp_backward(mlp, mix::data<float>(x), kept ? mix::data<float>(gated) : nullptr,
                          kept ? mix::data<float>(raised) : nullptr, mix::data<float>(d_out),
                          {gradients.at(0), gradients.at(1), gradients.at(2), gradients.at(3), bias(4), bias(5), bias(6),
                           adapter(0), adapter(1), adapter(2)});
  return gradients.tensors();
}

Tensors gated_mlp(const Tensor& x, const Tensors& parameters, bool narrow, bool learning, int64_t wanted) {
  return adapted_mlp(x, parameters, {}, narrow, learning, wanted);
}

Tensors gated_mlp_grad(const Tensor& x, const Tensors& parameters, const Tensor& gated, const Tensor& raised,
                       const Tensor& d_out, bool narrow, bool learning, int64_t wanted) {
  return adapted_mlp_grad(x, parameters, gated, raised, d_out, {}, narrow, learning, wanted);
}

}  // namespace

PD_BUILD_OP(mix_gated_mlp)
    .Inputs({"x", paddle::Vec("parameters")})
    .Outputs({"out", "gated", "raised"})
    .Attrs({"narrow: bool", "learning: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(gated_mlp));
PD_BUILD_GRAD_OP(mix_gated_mlp)
    .Inputs({"x", paddle::Vec("parameters"), "gated", "raised", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad(paddle::Vec("parameters"))})
    .Attrs({"narrow: bool", "learning: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(gated_mlp_grad));

PD_BUILD_OP(mix_adapted_mlp)
    .Inputs({"x", paddle::Vec("parameters")})
    .Outputs({"out", "gated", "raised"})
    .Attrs({"scales: std::vector<float>", "narrow: bool", "learning: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(adapted_mlp));
PD_BUILD_GRAD_OP(mix_adapted_mlp)
    .Inputs({"x", paddle::Vec("parameters"), "gated", "raised", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad(paddle::Vec("parameters"))})
    .Attrs({"scales: std::vector<float>", "narrow: bool", "learning: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(adapted_mlp_grad));
