// Paddle bindings of the row-wise kernels: mix_swiglu, mix_rotary.
#include <vector>

#include "ops/binding.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;
using mix::like;

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
                                                                         intptr_t distance, void (*wait)(int)) {
  mix::host_view() = {start, size, distance, wait};
}
