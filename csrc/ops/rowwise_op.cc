// Paddle bindings of the row-wise kernels: mix_rms_norm, mix_swiglu, mix_rotary.
#include <vector>

#include "ops/binding.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

Tensor like(const Tensor& tensor) { return paddle::empty(tensor.shape(), tensor.dtype(), tensor.place()); }

Tensors rms_norm(const Tensor& x_in, const Tensor& weight, float eps) {
  const auto x = mix::dense(x_in);
  PD_CHECK(!x.shape().empty(), "rms_norm: x has no axis, expected [..., D]");
  const int64_t dim = x.shape().back(), rows = dim == 0 ? 0 : x.numel() / dim;
  PD_CHECK(weight.numel() == dim, "rms_norm: weight has ", weight.numel(), " numbers, expected ", dim);
  auto out = like(x);
  auto inv_rms = paddle::empty({rows}, x.dtype(), x.place());
  mix::rms_norm_forward(mix::data<float>(x), mix::data<float>(weight), eps, rows, dim, mix::data<float>(out),
                        mix::data<float>(inv_rms));
  return {out, inv_rms};
}

Tensors rms_norm_grad(const Tensor& x_in, const Tensor& weight, const Tensor& inv_rms, const Tensor& d_out_in) {
  const auto x = mix::dense(x_in), d_out = mix::dense(d_out_in);
  auto dx = like(x), d_weight = like(weight);
  mix::rms_norm_backward(mix::data<float>(x), mix::data<float>(weight), mix::data<float>(inv_rms), mix::data<float>(d_out),
                         inv_rms.numel(), weight.numel(), mix::data<float>(dx), mix::data<float>(d_weight));
  return {dx, d_weight};
}

Tensors swiglu(const Tensor& gate_in, const Tensor& up_in) {
  const auto gate = mix::dense(gate_in), up = mix::dense(up_in);
  PD_CHECK(gate.shape() == up.shape(), "swiglu: gate and up must have one shape, they have ", gate.numel(), " and ",
           up.numel(), " numbers");
  auto out = like(gate);
  mix::swiglu_forward(mix::data<float>(gate), mix::data<float>(up), gate.numel(), mix::data<float>(out));
  return {out};
}

Tensors swiglu_grad(const Tensor& gate_in, const Tensor& up_in, const Tensor& d_out_in) {
  const auto gate = mix::dense(gate_in), up = mix::dense(up_in), d_out = mix::dense(d_out_in);
  auto d_gate = like(gate), d_up = like(up);
  mix::swiglu_backward(mix::data<float>(gate), mix::data<float>(up), mix::data<float>(d_out), gate.numel(),
                       mix::data<float>(d_gate), mix::data<float>(d_up));
  return {d_gate, d_up};
}

Tensor rotate(const Tensor& x_in, const Tensor& cos_in, const Tensor& sin_in, bool inverse) {
  const auto x = mix::dense(x_in), cos = mix::dense(cos_in), sin = mix::dense(sin_in);
  PD_CHECK(x.shape().size() == 3 && x.shape()[2] % 2 == 0, "rotary: x must be [T, N, H] with H even");
  const int64_t tokens = x.shape()[0], heads = x.shape()[1], head_dim = x.shape()[2];
  PD_CHECK(cos.numel() == tokens * head_dim && sin.numel() == cos.numel(), "rotary: tables have ", cos.numel(), " and ",
           sin.numel(), " numbers, expected ", tokens * head_dim);
  auto out = like(x);
  mix::rotary(mix::data<float>(x), mix::data<float>(cos), mix::data<float>(sin), tokens, heads, head_dim, inverse,
              mix::data<float>(out));
  return out;
}

Tensors rotary(const Tensor& x, const Tensor& cos, const Tensor& sin) { return {rotate(x, cos, sin, false)}; }

Tensors rotary_grad(const Tensor& cos, const Tensor& sin, const Tensor& d_out) {
  return {rotate(d_out, cos, sin, true)};
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

PD_BUILD_OP(mix_swiglu).Inputs({"gate", "up"}).Outputs({"out"}).SetKernelFn(PD_KERNEL(swiglu));
PD_BUILD_GRAD_OP(mix_swiglu)
    .Inputs({"gate", "up", paddle::Grad("out")})
    .Outputs({paddle::Grad("gate"), paddle::Grad("up")})
    .SetKernelFn(PD_KERNEL(swiglu_grad));

PD_BUILD_OP(mix_rotary).Inputs({"x", "cos", "sin"}).Outputs({"out"}).SetKernelFn(PD_KERNEL(rotary));
PD_BUILD_GRAD_OP(mix_rotary)
    .Inputs({"cos", "sin", paddle::Grad("out")})
    .Outputs({paddle::Grad("x")})
    .SetKernelFn(PD_KERNEL(rotary_grad));

extern "C" __attribute__((visibility("default"))) void mix_set_host_view(uintptr_t start, size_t size,
                                                                         intptr_t distance, void (*wait)()) {
  mix::host_view() = {start, size, distance, wait};
}
