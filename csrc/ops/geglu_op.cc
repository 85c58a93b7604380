// Paddle binding of geglu: mix_geglu.
#include "ops/geglu.h"

#include <utility>
#include <vector>

#include "ops/binding.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

// x's rows and half of its last axis.
std::pair<int64_t, int64_t> rows_and_width(const Tensor& x) {
  const int64_t both = x.shape().empty() ? 1 : x.shape().back();
  PD_CHECK(both % 2 == 0, "geglu: x's last axis is ", both, ", expected an even one (values, then gates)");
  return {both == 0 ? 0 : x.numel() / both, both / 2};
}

Tensors geglu(const Tensor& x_in) {
  const auto x = mix::dense(x_in);
  const auto [R, F] = rows_and_width(x);
  auto shape = x.shape();
  shape.back() = F;
  auto out = paddle::empty(shape, x.dtype(), x.place());
  mix::geglu_forward(mix::data<float>(x), R, F, mix::data<float>(out));
  return {out};
}

Tensors geglu_grad(const Tensor& x_in, const Tensor& d_out_in) {
  const auto x = mix::dense(x_in), d_out = mix::dense(d_out_in);
  const auto [R, F] = rows_and_width(x);
  PD_CHECK(d_out.numel() == R * F, "geglu: d_out has ", d_out.numel(), " numbers, expected ", R * F);
  auto dx = mix::like(x);
  mix::geglu_backward(mix::data<float>(x), mix::data<float>(d_out), R, F, mix::data<float>(dx));
  return {dx};
}

}  // namespace

PD_BUILD_OP(mix_geglu).Inputs({"x"}).Outputs({"out"}).SetKernelFn(PD_KERNEL(geglu));
PD_BUILD_GRAD_OP(mix_geglu)
    .Inputs({"x", paddle::Grad("out")})
    .Outputs({paddle::Grad("x")})
    .SetKernelFn(PD_KERNEL(geglu_grad));
