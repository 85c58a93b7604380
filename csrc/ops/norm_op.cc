// Paddle bindings of the norms: mix_rms_norm, mix_add_rms_norm, mix_layer_norm, mix_group_norm.
#include <vector>

#include "ops/add_rms_norm.h"
#include "ops/binding.h"
#include "ops/group_norm.h"
#include "ops/layer_norm.h"
#include "ops/rms_norm.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;
using MaybeTensor = paddle::optional<Tensor>;

struct Rows {
  int64_t rows, dim;
};

Rows rows_of(const char* op, const Tensor& x) {
  PD_CHECK(!x.shape().empty() && x.shape().back() > 0, op, ": x needs a last axis of at least 1, got ", x.numel(),
           " values in ", x.shape().size(), " axes");
  return {x.numel() / x.shape().back(), x.shape().back()};
}

void check_length(const char* op, const char* name, const Tensor& vector, const char* of, int64_t length) {
  PD_CHECK(vector.numel() == length, op, ": ", name, " has ", vector.numel(), " values, x's ", of, " ", length);
}

// The numbers of a weight or bias that may be left out; `kept` holds it while they are used.
const float* vector_or_null(const char* op, const char* name, const MaybeTensor& vector, const char* of,
                            int64_t length, Tensor& kept) {
  if (!vector) return nullptr;
  check_length(op, name, *vector, of, length);
  kept = mix::dense(*vector);
  return mix::data<float>(kept);
}

// An empty tensor for the gradient of a weight or bias, undefined where it was left out.
Tensor gradient_of(const MaybeTensor& vector) { return vector ? mix::like(*vector) : Tensor(); }

// The gradient of an output; zeros where nothing used it, for which Paddle hands over an undefined tensor.
Tensor gradient_or_zeros(const Tensor& gradient, const Tensor& output) {
  return mix::dense(gradient.defined() ? gradient
                                       : paddle::full(output.shape(), 0.0f, output.dtype(), output.place()));
}

float* data_or_null(Tensor& tensor) { return tensor.defined() ? mix::data<float>(tensor) : nullptr; }

Tensors rms_norm(const Tensor& x_in, const Tensor& weight_in, float eps) {
  const auto x = mix::dense(x_in), weight = mix::dense(weight_in);
  const auto [rows, dim] = rows_of("rms_norm", x);
  check_length("rms_norm", "weight", weight, "last axis", dim);
  auto out = mix::like(x), inv_rms = paddle::empty({rows}, x.dtype(), x.place());
  mix::rms_norm_forward(mix::data<float>(x), mix::data<float>(weight), eps, rows, dim, mix::data<float>(out),
                        mix::data<float>(inv_rms));
  return {out, inv_rms};
}

Tensors rms_norm_grad(const Tensor& x_in, const Tensor& weight_in, const Tensor& inv_rms, const Tensor& d_out_in) {
  const auto x = mix::dense(x_in), weight = mix::dense(weight_in), d_out = mix::dense(d_out_in);
  auto dx = mix::like(x), d_weight = mix::like(weight);
  mix::rms_norm_backward(mix::data<float>(x), mix::data<float>(weight), mix::data<float>(inv_rms),
                         mix::data<float>(d_out), inv_rms.numel(), weight.numel(), mix::data<float>(dx),
                         mix::data<float>(d_weight));
  return {dx, d_weight};
}

Tensors add_rms_norm(const Tensor& x_in, const Tensor& branch_in, const Tensor& weight_in, float eps) {
  const auto x = mix::dense(x_in), branch = mix::dense(branch_in), weight = mix::dense(weight_in);
  const auto [rows, dim] = rows_of("add_rms_norm", x);
  check_length("add_rms_norm", "weight", weight, "last axis", dim);
  PD_CHECK(branch.shape() == x.shape(), "add_rms_norm: branch has ", branch.numel(), " values in ",
           branch.shape().size(), " axes, x ", x.numel(), " in ", x.shape().size(), "; they need one shape");
  auto sum = mix::like(x), normed = mix::like(x), inv_rms = paddle::empty({rows}, x.dtype(), x.place());
  mix::add_rms_norm_forward(mix::data<float>(x), mix::data<float>(branch), mix::data<float>(weight), eps, rows, dim,
                            mix::data<float>(sum), mix::data<float>(normed), mix::data<float>(inv_rms));
  return {sum, normed, inv_rms};
}

Tensors add_rms_norm_grad(const Tensor& weight_in, const Tensor& sum, const Tensor& inv_rms,
                          const Tensor& d_sum_in, const Tensor& d_normed_in) {
  const auto weight = mix::dense(weight_in);
  const auto d_sum = gradient_or_zeros(d_sum_in, sum), d_normed = gradient_or_zeros(d_normed_in, sum);
  auto dx = mix::like(sum), d_branch = mix::like(sum), d_weight = mix::like(weight);
  mix::add_rms_norm_backward(mix::data<float>(sum), mix::data<float>(weight), mix::data<float>(inv_rms),
                             mix::data<float>(d_sum), mix::data<float>(d_normed), inv_rms.numel(), weight.numel(),
                             mix::data<float>(dx), mix::data<float>(d_branch), mix::data<float>(d_weight));
  return {dx, d_branch, d_weight};
}

Tensors layer_norm(const Tensor& x_in, const MaybeTensor& weight_in, const MaybeTensor& bias_in, float eps) {
  const auto x = mix::dense(x_in);
  const auto [rows, dim] = rows_of("layer_norm", x);
  Tensor weight, bias;
  const float* w = vector_or_null("layer_norm", "weight", weight_in, "last axis", dim, weight);
  const float* b = vector_or_null("layer_norm", "bias", bias_in, "last axis", dim, bias);
  auto out = mix::like(x), mean = paddle::empty({rows}, x.dtype(), x.place()), inv_std = mix::like(mean);
  mix::layer_norm_forward(mix::data<float>(x), w, b, eps, rows, dim, mix::data<float>(out), mix::data<float>(mean),
                          mix::data<float>(inv_std));
  return {out, mean, inv_std};
}

Tensors layer_norm_grad(const Tensor& x_in, const MaybeTensor& weight_in, const MaybeTensor& bias_in,
                        const Tensor& mean, const Tensor& inv_std, const Tensor& d_out_in) {
  const auto x = mix::dense(x_in), d_out = mix::dense(d_out_in);
  const auto [rows, dim] = rows_of("layer_norm", x);
  Tensor weight;
  const float* w = vector_or_null("layer_norm", "weight", weight_in, "last axis", dim, weight);
  auto dx = mix::like(x), d_weight = gradient_of(weight_in), d_bias = gradient_of(bias_in);
  mix::layer_norm_backward(mix::data<float>(x), w, mix::data<float>(mean), mix::data<float>(inv_std),
                           mix::data<float>(d_out), rows, dim, mix::data<float>(dx), data_or_null(d_weight),
                           data_or_null(d_bias));
  return {dx, d_weight, d_bias};
}

mix::GroupShape group_shape(const Tensor& x, int64_t groups, bool silu) {
  const auto shape = x.shape();
  PD_CHECK(shape.size() >= 2, "group_norm takes x (B, C, ...), got ", shape.size(), " axes");
  PD_CHECK(groups > 0 && shape[1] % groups == 0, "group_norm: groups is ", groups, ", x has ", shape[1],
           " channels; they must divide evenly");
  PD_CHECK(x.numel() > 0, "group_norm: x is empty");
  return {shape[0], shape[1], x.numel() / (shape[0] * shape[1]), groups, silu};
}

Tensors group_norm(const Tensor& x_in, const MaybeTensor& weight_in, const MaybeTensor& bias_in, int64_t groups,
                   float eps, bool silu) {
  const auto x = mix::dense(x_in);
  const auto shape = group_shape(x, groups, silu);
  Tensor weight, bias;
  const float* w = vector_or_null("group_norm", "weight", weight_in, "channels are", shape.channels, weight);
  const float* b = vector_or_null("group_norm", "bias", bias_in, "channels are", shape.channels, bias);
  auto out = mix::like(x), mean = paddle::empty({shape.batch, groups}, x.dtype(), x.place());
  auto inv_std = mix::like(mean);
  mix::group_norm_forward(shape, mix::data<float>(x), w, b, eps, mix::data<float>(out), mix::data<float>(mean),
                          mix::data<float>(inv_std));
  return {out, mean, inv_std};
}

Tensors group_norm_grad(const Tensor& x_in, const MaybeTensor& weight_in, const MaybeTensor& bias_in,
                        const Tensor& mean, const Tensor& inv_std, const Tensor& d_out_in, int64_t groups,
                        float /*eps*/, bool silu) {
  const auto x = mix::dense(x_in), d_out = mix::dense(d_out_in);
  const auto shape = group_shape(x, groups, silu);
  Tensor weight, bias;
  const float* w = vector_or_null("group_norm", "weight", weight_in, "channels are", shape.channels, weight);
  const float* b = vector_or_null("group_norm", "bias", bias_in, "channels are", shape.channels, bias);
  auto dx = mix::like(x), d_weight = gradient_of(weight_in), d_bias = gradient_of(bias_in);
  mix::group_norm_backward(shape, mix::data<float>(x), w, b, mix::data<float>(mean), mix::data<float>(inv_std),
                           mix::data<float>(d_out), mix::data<float>(dx), data_or_null(d_weight),
                           data_or_null(d_bias));
  return {dx, d_weight, d_bias};
}

}  // namespace

PD_BUILD_OP(mix_rms_norm)
    .Inputs({"x", "weight"})
    .Outputs({"out", "inv_rms"})
    .Attrs({"eps: float"})
    .SetKernelFn(PD_KERNEL(rms_norm));
PD_BUILD_GRAD_OP(mix_rms_norm)
    .Inputs({"x", "weight", "inv_rms", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad("weight")})
    .SetKernelFn(PD_KERNEL(rms_norm_grad));

PD_BUILD_OP(mix_add_rms_norm)
    .Inputs({"x", "branch", "weight"})
    .Outputs({"sum", "normed", "inv_rms"})
    .Attrs({"eps: float"})
    .SetKernelFn(PD_KERNEL(add_rms_norm));
PD_BUILD_GRAD_OP(mix_add_rms_norm)
    .Inputs({"weight", "sum", "inv_rms", paddle::Grad("sum"), paddle::Grad("normed")})
    .Outputs({paddle::Grad("x"), paddle::Grad("branch"), paddle::Grad("weight")})
    .SetKernelFn(PD_KERNEL(add_rms_norm_grad));

PD_BUILD_OP(mix_layer_norm)
    .Inputs({"x", paddle::Optional("weight"), paddle::Optional("bias")})
    .Outputs({"out", "mean", "inv_std"})
    .Attrs({"eps: float"})
    .SetKernelFn(PD_KERNEL(layer_norm));
PD_BUILD_GRAD_OP(mix_layer_norm)
    .Inputs({"x", paddle::Optional("weight"), paddle::Optional("bias"), "mean", "inv_std", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad(paddle::Optional("weight")), paddle::Grad(paddle::Optional("bias"))})
    .SetKernelFn(PD_KERNEL(layer_norm_grad));

PD_BUILD_OP(mix_group_norm)
    .Inputs({"x", paddle::Optional("weight"), paddle::Optional("bias")})
    .Outputs({"out", "mean", "inv_std"})
    .Attrs({"groups: int64_t", "eps: float", "silu: bool"})
    .SetKernelFn(PD_KERNEL(group_norm));
PD_BUILD_GRAD_OP(mix_group_norm)
    .Inputs({"x", paddle::Optional("weight"), paddle::Optional("bias"), "mean", "inv_std", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad(paddle::Optional("weight")), paddle::Grad(paddle::Optional("bias"))})
    .Attrs({"groups: int64_t", "eps: float", "silu: bool"})
    .SetKernelFn(PD_KERNEL(group_norm_grad));
