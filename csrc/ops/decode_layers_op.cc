// Paddle binding: mix_decode_layers(x, keys, values, lengths, cos, sin, parameters) -> out; keys and values, one of each a
// layer, are written in place. parameters, layer after layer: input norm, q, k, v, out, post norm, gate, up, down, then
// the biases of q, k, v where `biased`, then the scales of the seven matrices where these are int8, [outputs, inputs].
#include <vector>

#include "ops/binding.h"
#include "ops/decode_layers.h"

namespace {

using paddle::Tensor;
using Tensors = std::vector<Tensor>;

constexpr size_t kMatrices[] = {1, 2, 3, 4, 6, 7, 8};  // where they lie in a layer's parameters

// What the parameters of one layer are.
struct Order {
  bool biased, in_steps;

  size_t scales() const { return biased ? 12 : 9; }
  size_t each() const { return scales() + (in_steps ? 7 : 0); }
  int64_t outputs(const Tensor& matrix) const { return matrix.shape()[in_steps ? 0 : 1]; }
};

// The shape of a layer whose parameters begin at p.
mix::DecodeShape shape_of(const Tensor& x, const Tensor& keys, const Tensor* p, const Order& order, float eps,
                          float scale) {
  PD_CHECK(x.shape().size() == 2 && keys.shape().size() == 2, "decode_layers takes x [B, D] and keys [B * K * C, H]");
  for (const int at : {1, 2, 6}) PD_CHECK(p[at].shape().size() == 2, "decode_layers takes matrices as weights");
  const int64_t rows = x.shape()[0], head_dim = keys.shape()[1];
  const int64_t wide = order.outputs(p[1]), narrow = order.outputs(p[2]);
  PD_CHECK(narrow > 0 && head_dim > 0 && narrow % head_dim == 0 && wide % narrow == 0, "decode_layers: q gives ", wide,
           " numbers and k ", narrow, ", expected multiples of k's and of the head dim ", head_dim);
  PD_CHECK(rows > 0 && keys.shape()[0] * head_dim % (rows * narrow) == 0, "decode_layers: keys have ",
           keys.shape()[0], " rows, expected a multiple of ", rows * narrow / head_dim);
  const int64_t kv_heads = narrow / head_dim, slots = keys.shape()[0] / (rows * kv_heads);
  return {rows, x.shape()[1], wide / head_dim, kv_heads, head_dim, order.outputs(p[6]), slots, eps, scale};
}

// Layer `index`, whose parameters begin at p, held against the shape of the first.
mix::DecodeLayer layer_of(const mix::DecodeShape& shape, size_t index, const Tensor* p, const Order& order,
                          Tensor& keys, Tensor& values) {
  const int64_t width = shape.width, inner = shape.inner;
  const int64_t wide = shape.heads * shape.head_dim, narrow = shape.kv_heads * shape.head_dim;
  const auto vector = [&](size_t at, int64_t count) {
    PD_CHECK(p[at].numel() == count, "decode_layers: parameter ", at, " of layer ", index, " has ", p[at].numel(),
             " numbers, expected ", count);
    return mix::data<float>(p[at]);
  };
  const auto matrix = [&](size_t number, int64_t inputs, int64_t outputs) -> mix::DecodeMatrix {
    const size_t at = kMatrices[number];
    const int64_t rows = order.in_steps ? outputs : inputs, columns = order.in_steps ? inputs : outputs;
    PD_CHECK(p[at].shape() == (std::vector<int64_t>{rows, columns}), "decode_layers: parameter ", at, " of layer ",
             index, " has another shape than [", rows, ", ", columns, "]");
    PD_CHECK((p[at].dtype() == paddle::DataType::INT8) == order.in_steps, "decode_layers: parameter ", at,
             " of layer ", index, " is ", order.in_steps ? "not int8" : "int8", ", as the first matrix is",
             order.in_steps ? "" : " not");
    if (!order.in_steps) return {mix::data<float>(p[at]), nullptr, nullptr};
    return {nullptr, mix::data<int8_t>(p[at]), vector(order.scales() + number, outputs)};
  };
  const std::vector<int64_t> slots{shape.rows * shape.kv_heads * shape.slots, shape.head_dim};
  PD_CHECK(keys.shape() == slots && values.shape() == slots && keys.is_contiguous() && values.is_contiguous(),
           "decode_layers: keys and values of layer ", index, " are not [", slots[0], ", ", slots[1], "] without gaps");
  mix::DecodeLayer layer{};
  layer.input_norm = vector(0, width), layer.post_norm = vector(5, width);
  layer.q = matrix(0, width, wide), layer.k = matrix(1, width, narrow), layer.v = matrix(2, width, narrow);
  layer.out = matrix(3, wide, width);
  layer.gate = matrix(4, width, inner), layer.up = matrix(5, width, inner), layer.down = matrix(6, inner, width);
  if (order.biased) layer.q_bias = vector(9, wide), layer.k_bias = vector(10, narrow), layer.v_bias = vector(11, narrow);
  layer.keys = mix::data<float>(keys), layer.values = mix::data<float>(values);
  return layer;
}

Tensors decode_layers(const Tensor& x_in, Tensors& keys, Tensors& values, const Tensor& lengths, const Tensor& cos_in,
                      const Tensor& sin_in, const Tensors& parameters_in, bool biased, float eps, float scale) {
  const auto x = mix::dense(x_in), cos = mix::dense(cos_in), sin = mix::dense(sin_in);
  const Order order{biased, parameters_in.size() > 1 && parameters_in[1].dtype() == paddle::DataType::INT8};
  const size_t each = order.each(), count = keys.size();
  PD_CHECK(count > 0 && values.size() == count && parameters_in.size() == count * each, "decode_layers: ", count,
           " layers' keys, ", values.size(), " layers' values and ", parameters_in.size(), " parameters, expected ", each,
           " a layer");
  Tensors parameters;
  for (const auto& parameter : parameters_in)
    parameters.push_back(parameter.dtype() == paddle::DataType::INT8 ? mix::in_order(parameter)
                                                                     : mix::dense(parameter));
  const auto shape = shape_of(x, keys[0], parameters.data(), order, eps, scale);
  PD_CHECK(cos.numel() == shape.rows * shape.head_dim && sin.numel() == cos.numel(), "decode_layers: tables have ",
           cos.numel(), " and ", sin.numel(), " numbers, expected ", shape.rows * shape.head_dim);
  PD_CHECK(lengths.numel() == shape.rows, "decode_layers: ", lengths.numel(), " lengths, expected ", shape.rows);
  const int64_t* const ends = mix::data<int64_t>(lengths);
  for (int64_t b = 0; b < shape.rows; ++b)
    PD_CHECK(ends[b] >= 1 && ends[b] <= shape.slots, "decode_layers: length ", ends[b], " of row ", b,
             ", expected 1 to ", shape.slots);
  std::vector<mix::DecodeLayer> layers;
  for (size_t i = 0; i < count; ++i)
    layers.push_back(layer_of(shape, i, parameters.data() + i * each, order, keys[i], values[i]));
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
