// Paddle binding of the convolution: mix_conv2d. `narrow` and `wanted` as in linear_op.cc.
#include <vector>

#include "ops/binding.h"
#include "ops/conv2d.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

// padding: rows above and below x, columns before and behind it.
mix::ConvShape shape_of(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t stride,
                        const std::vector<int>& padding, bool narrow) {
  const auto of_x = x.shape(), of_weight = weight.shape();
  PD_CHECK(of_x.size() == 4 && of_weight.size() == 4, "conv2d takes x (B, C, H, W) and weight (O, C, K, K), got ",
           of_x.size(), " and ", of_weight.size(), " axes");
  PD_CHECK(of_x[1] == of_weight[1] && of_weight[2] == of_weight[3], "conv2d: weight takes ", of_weight[1],
           " channels with a kernel of ", of_weight[2], " x ", of_weight[3], ", x has ", of_x[1],
           "; kernels are square");
  const bool of_image = bias.shape().size() == 2;
  PD_CHECK(bias.numel() == (of_image ? of_x[0] : 1) * of_weight[0], "conv2d: bias has ", bias.numel(),
           " values, weight gives ", of_weight[0], of_image ? " for each image" : "");
  PD_CHECK(stride > 0 && padding.size() == 4, "conv2d: stride is ", stride, " and padding has ", padding.size(),
           " values, expected 1 or more and 4");
  const int64_t K = of_weight[2];
  const int64_t height = of_x[2] + padding[0] + padding[1] - K, width = of_x[3] + padding[2] + padding[3] - K;
  PD_CHECK(x.numel() > 0 && height >= 0 && width >= 0, "conv2d: x is ", of_x[2], " x ", of_x[3],
           ", smaller than a kernel of ", K, " with its padding");
  return {of_x[0],           of_x[1],           of_x[2], of_x[3], of_weight[0], K, stride, padding[0], padding[2],
          height / stride + 1, width / stride + 1, mix::products_of(narrow), of_image};
}

Tensors conv2d(const Tensor& x_in, const Tensor& weight_in, const Tensor& bias_in, int64_t stride,
               const std::vector<int>& padding, bool narrow, int64_t) {
  const auto x = mix::dense(x_in), weight = mix::dense(weight_in), bias = mix::dense(bias_in);
  const auto shape = shape_of(x, weight, bias, stride, padding, narrow);
  auto out = paddle::empty({shape.batch, shape.outputs, shape.out_height, shape.out_width}, x.dtype(), x.place());
  mix::conv2d_forward(shape, mix::data<float>(x), mix::data<float>(weight), mix::data<float>(bias),
                      mix::data<float>(out));
  return {out};
}

Tensors conv2d_grad(const Tensor& x_in, const Tensor& weight_in, const Tensor& bias_in, const Tensor& d_out_in,
                    int64_t stride, const std::vector<int>& padding, bool narrow, int64_t wanted) {
  const auto x = mix::dense(x_in), weight = mix::dense(weight_in), bias = mix::dense(bias_in);
  const auto d_out = mix::dense(d_out_in);
  mix::Gradients gradients(wanted);
  for (const auto* input : {&x, &weight, &bias}) gradients.add(*input);
  mix::conv2d_backward(shape_of(x, weight, bias, stride, padding, narrow), mix::data<float>(x),
                       mix::data<float>(weight), mix::data<float>(d_out), gradients.at(0), gradients.at(1),
                       gradients.at(2));
  return gradients.tensors();
}

}  // namespace

PD_BUILD_OP(mix_conv2d)
    .Inputs({"x", "weight", "bias"})
    .Outputs({"out"})
    .Attrs({"stride: int64_t", "padding: std::vector<int>", "narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(conv2d));
PD_BUILD_GRAD_OP(mix_conv2d)
    .Inputs({"x", "weight", "bias", paddle::Grad("out")})
    .Outputs({paddle::Grad("x"), paddle::Grad("weight"), paddle::Grad("bias")})
    .Attrs({"stride: int64_t", "padding: std::vector<int>", "narrow: bool", "wanted: int64_t"})
    .SetKernelFn(PD_KERNEL(conv2d_grad));
