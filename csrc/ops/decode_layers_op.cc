// Paddle binding: mix_decode_layers(x, keys, values, lengths, cos, sin, parameters) -> out; keys and values, one of each a
// layer, are written in place. parameters, layer after layer: input norm, q, k, v, out, post norm, gate, up, down, then
// the biases of q, k, v where `biased`.
#include <vector>

#include "ops/binding.h"
#include "ops/decode_layers.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

// The shape of a layer whose parameters begin at p.
mix::DecodeShape shape_of(const Tensor& x, const Tensor& keys, const Tensor* p, float eps, float scale) {
  PD_CHECK(x.shape().size() == 2 && keys.shape().size() == 2, "decode_layers takes x [B, D] and keys [B * K * C, H]");
  for (const int at : {1, 2, 6}) PD_CHECK(p[at].shape().size() == 2, "decode_layers takes matrices as weights");
  const int64_t rows = x.shape()[0], head_dim = keys.shape()[1];
  const int64_t wide = p[1].shape()[1], narrow = p[2].shape()[1];
  PD_CHECK(narrow > 0 && head_dim > 0 && narrow % head_dim == 0 && wide % narrow == 0, "decode_layers: q gives ", wide,
           " numbers and k ", narrow, ", expected multiples of k's and of the head dim ", head_dim);
  PD_CHECK(rows > 0 && keys.shape()[0] * head_dim % (rows * narrow) == 0, "decode_layers: keys have ",
           keys.shape()[0], " rows, expected a multiple of ", rows * narrow / head_dim);
  const int64_t kv_heads = narrow / head_dim, slots = keys.shape()[0] / (rows * kv_heads);
  return {rows, x.shape()[1], wide / head_dim, kv_heads, head_dim, p[6].shape()[1], slots, eps, scale};
}

// Layer `index`, whose parameters begin at p, held against the shape of the first.
mix::DecodeLayer layer_of(const mix::DecodeShape& shape, size_t index, const Tensor* p, bool biased, Tensor& keys,
                          Tensor& values) {
  const int64_t width = shape.width, inner = shape.inner;
  const int64_t wide = shape.heads * shape.head_dim, narrow = shape.kv_heads * shape.head_dim;
  const auto matrix = [&](size_t at, int64_t inputs, int64_t outputs) {
    PD_CHECK(p[at].shape() == (std::vector<int64_t>{inputs, outputs}), "decode_layers: parameter ", at, " of layer ",
             index, " has another shape than [", inputs, ", ", outputs, "]");
    return mix::data<float>(p[at]);
  };
  const auto vector = [&](size_t at, int64_t count) {
    PD_CHECK(p[at].numel() == count, "decode_layers: parameter ", at, " of layer ", index, " has ", p[at].numel(),
             " numbers, expected ", count);
    return mix::data<float>(p[at]);
  };
  const std::vector<int64_t> slots{shape.rows * shape.kv_heads * shape.slots, shape.head_dim};
  PD_CHECK(keys.shape() == slots && values.shape() == slots && keys.is_contiguous() && values.is_contiguous(),
           "decode_layers: keys and values of layer ", index, " are not [", slots[0], ", ", slots[1], "] without gaps");
  return {vector(0, width), matrix(1, width, wide), matrix(2, width, narrow), matrix(3, width, narrow),
          matrix(4, wide, width), vector(5, width), matrix(6, width, inner), matrix(7, width, inner),
          matrix(8, inner, width), biased ? vector(9, wide) : nullptr, biased ? vector(10, narrow) : nullptr,
          biased ? vector(11, narrow) : nullptr, mix::data<float>(keys), mix::data<float>(values)};
}

Tensors decode_layers(const Tensor& x_in, Tensors& keys, Tensors& values, const Tensor& lengths, const Tensor& cos_in,
                      const Tensor& sin_in, const Tensors& parameters_in, bool biased, float eps, float scale) {
  const auto x = mix::dense(x_in), cos = mix::dense(cos_in), sin = mix::dense(sin_in);
  const size_t each = biased ? 12 : 9, count = keys.size();
  PD_CHECK(count > 0 && values.size() == count && parameters_in.size() == count * each, "decode_layers: ", count,
           " layers' keys, ", values.size(), " layers' values and ", parameters_in.size(), " parameters, expected ", each,
           " a layer");
  Tensors parameters;
  for (const auto& parameter : parameters_in) parameters.push_back(mix::dense(parameter));
  const auto shape = shape_of(x, keys[0], parameters.data(), eps, scale);
  PD_CHECK(cos.numel() == shape.rows * shape.head_dim && sin.numel() == cos.numel(), "decode_layers: tables have ",
           cos.numel(), " and ", sin.numel(), " numbers, expected ", shape.rows * shape.head_dim);
  PD_CHECK(lengths.numel() == shape.rows, "decode_layers: ", lengths.numel(), " lengths, expected ", shape.rows);
  const int64_t* const ends = mix::data<int64_t>(lengths);
  for (int64_t b = 0; b < shape.rows; ++b)
    PD_CHECK(ends[b] >= 1 && ends[b] <= shape.slots, "decode_layers: length ", ends[b], " of row ", b,
             ", expected 1 to ", shape.slots);
  std::vector<mix::DecodeLayer> layers;
  for (size_t i = 0; i < count; ++i)
    layers.push_back(layer_of(shape, i, parameters.data() + i * each, biased, keys[i], values[i]));
  auto out = paddle::empty(x.shape(), x.dtype(), x.place());
  mix::decode_layers(shape, layers.data(), static_cast<int64_t>(count), mix::data<float>(x), mix::data<float>(cos),
                     mix::data<float>(sin), ends, mix::data<float>(out));
  return {out};
}

}  // namespace

PD_BUILD_OP(mix_decode_layers)
    .Inputs({"x", paddle::Vec("keys"), paddle::Vec("values"), "lengths", "cos", "sin", paddle::Vec("parameters")})
    .Outputs({"out", paddle::Vec("keys_after"), paddle::Vec("values_after")})
    .Attrs({"biased: bool", "eps: float", "scale: float"})
    .SetInplaceMap({{paddle::Vec("keys"), paddle::Vec("keys_after")},
                    {paddle::Vec("values"), paddle::Vec("values_after")}})
    .SetKernelFn(PD_KERNEL(decode_layers));
