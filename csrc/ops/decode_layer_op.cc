// Paddle binding: mix_decode_layer(x, keys, values, lengths, cos, sin, parameters) -> out; keys and values are written
// in place. parameters: input norm, q, k, v, out, post norm, gate, up, down, then the biases of q, k, v or none.
#include <vector>

#include "mix/aligned.h"
#include "ops/binding.h"
#include "ops/decode_layer.h"

namespace {

using paddle::Tensor;

mix::DecodeLayer describe(const Tensor& x, const Tensor& keys, const std::vector<Tensor>& p, float eps, float scale) {
  PD_CHECK(p.size() == 9 || p.size() == 12, "decode_layer takes 9 weights, and 3 biases or none");
  PD_CHECK(x.shape().size() == 2 && keys.shape().size() == 2, "decode_layer takes x [B, D] and keys [B * K * C, H]");
  const int64_t width = x.shape()[1], head_dim = keys.shape()[1];
  const auto matrix = [&](size_t at, int64_t inputs, int64_t outputs) {
    PD_CHECK(p[at].shape() == (std::vector<int64_t>{inputs, outputs}), "decode_layer: parameter ", at,
             " has another shape than [", inputs, ", ", outputs, "]");
    return mix::data<float>(p[at]);
  };
  const auto vector = [&](size_t at, int64_t count) -> const float* {
    if (at >= p.size()) return nullptr;
    PD_CHECK(p[at].numel() == count, "decode_layer: parameter ", at, " has ", p[at].numel(), " numbers, expected ",
             count);
    return mix::data<float>(p[at]);
  };
  PD_CHECK(p[1].shape().size() == 2 && p[6].shape().size() == 2, "decode_layer takes matrices as weights");
  PD_CHECK(p[2].shape().size() == 2, "decode_layer takes matrices as weights");
  const int64_t wide = p[1].shape()[1], narrow = p[2].shape()[1], inner = p[6].shape()[1];
  PD_CHECK(narrow > 0 && head_dim > 0 && narrow % head_dim == 0 && wide % narrow == 0, "decode_layer: q gives ", wide,
           " numbers and k ", narrow, ", expected multiples of k's and of the head dim ", head_dim);
  PD_CHECK(x.shape()[0] > 0 && keys.shape()[0] * head_dim % (x.shape()[0] * narrow) == 0, "decode_layer: keys have ",
           keys.shape()[0], " rows, expected a multiple of ", x.shape()[0] * narrow / head_dim);
  const int64_t kv_heads = narrow / head_dim, slots = keys.shape()[0] / (x.shape()[0] * kv_heads);
  return {x.shape()[0], width, wide / head_dim, kv_heads, head_dim, inner, slots, eps, scale,
          vector(0, width), matrix(1, width, wide), matrix(2, width, narrow), matrix(3, width, narrow),
          matrix(4, wide, width), vector(5, width), matrix(6, width, inner), matrix(7, width, inner),
          matrix(8, inner, width), vector(9, wide), vector(10, narrow), vector(11, narrow)};
}

std::vector<Tensor> decode_layer(const Tensor& x_in, Tensor& keys, Tensor& values, const Tensor& lengths,
                                 const Tensor& cos_in, const Tensor& sin_in, const std::vector<Tensor>& parameters_in,
                                 float eps, float scale) {
  const auto x = mix::dense(x_in), cos = mix::dense(cos_in), sin = mix::dense(sin_in);
  std::vector<Tensor> parameters;
  for (const auto& parameter : parameters_in) parameters.push_back(mix::dense(parameter));
  const auto layer = describe(x, keys, parameters, eps, scale);
  PD_CHECK(keys.shape() == values.shape() && keys.is_contiguous() && values.is_contiguous(),
           "decode_layer: keys and values have one shape, without gaps");
  PD_CHECK(cos.numel() == layer.rows * layer.head_dim && sin.numel() == cos.numel(), "decode_layer: tables have ",
           cos.numel(), " and ", sin.numel(), " numbers, expected ", layer.rows * layer.head_dim);
  PD_CHECK(lengths.numel() == layer.rows, "decode_layer: ", lengths.numel(), " lengths, expected ", layer.rows);
  const int64_t* const ends = mix::data<int64_t>(lengths);
  for (int64_t b = 0; b < layer.rows; ++b)
    PD_CHECK(ends[b] >= 1 && ends[b] <= layer.slots, "decode_layer: length ", ends[b], " of row ", b,
             ", expected 1 to ", layer.slots);
  auto out = paddle::empty(x.shape(), x.dtype(), x.place());
  mix::Aligned<float> scratch(mix::decode_layer_scratch(layer));
  mix::decode_layer(layer, mix::data<float>(x), mix::data<float>(cos), mix::data<float>(sin), ends,
                    mix::data<float>(keys), mix::data<float>(values), scratch.data(), mix::data<float>(out));
  return {out};
}

}  // namespace

PD_BUILD_OP(mix_decode_layer)
    .Inputs({"x", "keys", "values", "lengths", "cos", "sin", paddle::Vec("parameters")})
    .Outputs({"out", "keys_after", "values_after"})
    .Attrs({"eps: float", "scale: float"})
    .SetInplaceMap({{"keys", "keys_after"}, {"values", "values_after"}})
    .SetKernelFn(PD_KERNEL(decode_layer));
