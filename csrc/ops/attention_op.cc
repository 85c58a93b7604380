// Paddle bindings: mix_attention(q, k, v, cu_q, cu_k, mask?) -> out, lse, and mix_attention_decode.
#include "ops/attention.h"

#include <string>
#include <vector>

#include "ops/attention_decode.h"
#include "ops/binding.h"

namespace {

mix::AttentionShape shape_of(const paddle::Tensor& q, const paddle::Tensor& k, const paddle::Tensor& cu_q,
                             const paddle::Tensor& cu_k, const paddle::optional<paddle::Tensor>& mask, bool causal,
                             int64_t window, float scale) {
  PD_CHECK(q.shape().size() == 3 && k.shape().size() == 3, "attention takes q [T, N, H] and k, v [T, K, H]");
  mix::AttentionShape shape{};
  shape.cu_q = mix::data<int32_t>(cu_q);
  shape.cu_k = mix::data<int32_t>(cu_k);
  shape.segments = cu_q.numel() - 1;
  shape.heads = q.shape()[1];
  shape.kv_heads = k.shape()[1];
  shape.head_dim = q.shape()[2];
  PD_CHECK(shape.heads % shape.kv_heads == 0, "query heads must be a multiple of key heads");
  PD_CHECK(shape.cu_q[shape.segments] == q.shape()[0] && shape.cu_k[shape.segments] == k.shape()[0],
           "the last entry of cu_seqlens must be the number of packed tokens");
  shape.q_stride = shape.heads * shape.head_dim;
  shape.k_stride = shape.v_stride = shape.kv_heads * shape.head_dim;
  shape.scale = scale;
  shape.causal = causal;
  shape.window = window;
  if (mask) {
    shape.mask = mix::data<bool>(*mask);
    shape.mask_heads = mask->shape()[1];
  }
  return shape;
}

std::vector<paddle::Tensor> forward(const paddle::Tensor& q_in, const paddle::Tensor& k_in,
                                    const paddle::Tensor& v_in, const paddle::Tensor& cu_q,
                                    const paddle::Tensor& cu_k, const paddle::optional<paddle::Tensor>& mask,
                                    bool causal, int64_t window, float scale) {
  const auto q = mix::dense(q_in), k = mix::dense(k_in), v = mix::dense(v_in);
  const auto shape = shape_of(q, k, cu_q, cu_k, mask, causal, window, scale);
  auto out = paddle::empty(q.shape(), q.dtype(), q.place());
  auto lse = paddle::empty({q.shape()[0], q.shape()[1]}, q.dtype(), q.place());
  mix::attention_forward(shape, mix::data<float>(q), mix::data<float>(k), mix::data<float>(v), mix::data<float>(out),
                         mix::data<float>(lse));
  return {out, lse};
}

std::vector<paddle::Tensor> backward(const paddle::Tensor& q_in, const paddle::Tensor& k_in,
                                     const paddle::Tensor& v_in, const paddle::Tensor& cu_q,
                                     const paddle::Tensor& cu_k, const paddle::optional<paddle::Tensor>& mask,
                                     const paddle::Tensor& out, const paddle::Tensor& lse,
                                     const paddle::Tensor& d_out_in, bool causal, int64_t window, float scale) {
  const auto q = mix::dense(q_in), k = mix::dense(k_in), v = mix::dense(v_in), d_out = mix::dense(d_out_in);
  const auto shape = shape_of(q, k, cu_q, cu_k, mask, causal, window, scale);
  auto dq = paddle::empty(q.shape(), q.dtype(), q.place());
  auto dk = paddle::empty(k.shape(), k.dtype(), k.place());
  auto dv = paddle::empty(v.shape(), v.dtype(), v.place());
  mix::attention_backward(shape, mix::data<float>(q), mix::data<float>(k), mix::data<float>(v), mix::data<float>(out),
                          mix::data<float>(lse), mix::data<float>(d_out), mix::data<float>(dq), mix::data<float>(dk),
                          mix::data<float>(dv));
  return {dq, dk, dv};
}

std::vector<paddle::Tensor> decode(const paddle::Tensor& q_in, const paddle::Tensor& k_in,
                                   const paddle::Tensor& v_in, const paddle::Tensor& lengths,
                                   float scale) {
  const auto q = mix::dense(q_in), k = mix::dense(k_in), v = mix::dense(v_in);
  PD_CHECK(q.shape().size() == 3 && k.shape().size() == 4, "decode takes q [B, N, H] and k, v [B, K, C, H]");
  const int64_t batch = q.shape()[0], heads = q.shape()[1], head_dim = q.shape()[2];
  const int64_t kv_heads = k.shape()[1], slots = k.shape()[2];
  PD_CHECK(heads % kv_heads == 0 && lengths.numel() == batch,
           "query heads must be a multiple of key heads, and lengths have one number a row");
  const int64_t* ends = mix::data<int64_t>(lengths);
  for (int64_t b = 0; b < batch; ++b)
    PD_CHECK(ends[b] >= 0 && ends[b] <= slots, "a row's length must fit the cache");
  auto out = paddle::empty(q.shape(), q.dtype(), q.place());
  mix::attention_decode(mix::data<float>(q), mix::data<float>(k), mix::data<float>(v), ends, batch, heads, kv_heads, slots,
                        head_dim, scale, mix::data<float>(out));
  return {out};
}

}  // namespace

PD_BUILD_OP(mix_attention_decode)
    .Inputs({"q", "k", "v", "lengths"})
    .Outputs({"out"})
    .Attrs({"scale: float"})
    .SetKernelFn(PD_KERNEL(decode));

PD_BUILD_OP(mix_attention)
    .Inputs({"q", "k", "v", "cu_q", "cu_k", paddle::Optional("mask")})
    .Outputs({"out", "lse"})
    .Attrs({"causal: bool", "window: int64_t", "scale: float"})
    .SetKernelFn(PD_KERNEL(forward));

PD_BUILD_GRAD_OP(mix_attention)
    .Inputs({"q", "k", "v", "cu_q", "cu_k", paddle::Optional("mask"), "out", "lse", paddle::Grad("out")})
    .Outputs({paddle::Grad("q"), paddle::Grad("k"), paddle::Grad("v")})
    .Attrs({"causal: bool", "window: int64_t", "scale: float"})
    .SetKernelFn(PD_KERNEL(backward));
