// Paddle binding of gelu: mix_gelu.
#include "ops/gelu.h"

#include <vector>

#include "ops/binding.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

mix::GeluForm form_of(int number) {
  PD_CHECK(number >= 0 && number <= static_cast<int>(mix::GeluForm::kQuick), "gelu has the forms 0 to 2, got ",
           number);
  return static_cast<mix::GeluForm>(number);
}

Tensors gelu(const Tensor& x_in, int form) {
  const auto x = mix::dense(x_in);
  auto out = mix::like(x);
  mix::gelu_forward(form_of(form), mix::data<float>(x), x.numel(), mix::data<float>(out));
  return {out};
}

Tensors gelu_grad(const Tensor& x_in, const Tensor& d_out_in, int form) {
  const auto x = mix::dense(x_in), d_out = mix::dense(d_out_in);
  auto dx = mix::like(x);
  mix::gelu_backward(form_of(form), mix::data<float>(x), mix::data<float>(d_out), x.numel(),
                     mix::data<float>(dx));
  return {dx};
}

}  // namespace

PD_BUILD_OP(mix_gelu).Inputs({"x"}).Outputs({"out"}).Attrs({"form: int"}).SetKernelFn(PD_KERNEL(gelu));
PD_BUILD_GRAD_OP(mix_gelu)
    .Inputs({"x", paddle::Grad("out")})
    .Outputs({paddle::Grad("x")})
    .Attrs({"form: int"})
    .SetKernelFn(PD_KERNEL(gelu_grad));
