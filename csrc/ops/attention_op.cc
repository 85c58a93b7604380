// Paddle bindings: mix_attention(q, k, v, cu_q, cu_k, mask?) -> out, lse (`narrow`: products in
// bfloat16), and mix_attention_decode.
#include "ops/attention.h"

#include <string>
#include <vector>

#include "ops/attention_decode.h"
#include "ops/binding.h"

namespace {

// The kernel reads whatever lies between two ends, so they must begin at 0, not fall and end at the last token.
void check_ends(const int32_t* ends, int64_t count, int64_t tokens, const char* name) {
  PD_CHECK(count >= 2 && ends[0] == 0, "attention: ", name, " has ", count, " numbers, expected 0 and an end a segment");
  for (int64_t s = 1; s < count; ++s)
    PD_CHECK(ends[s] >= ends[s - 1], "attention: ", name, " falls from ", ends[s - 1], " to ", ends[s], " at ", s);
  PD_CHECK(ends[count - 1] == tokens, "attention: ", name, " ends at ", ends[count - 1], ", expected ", tokens);
}

mix::AttentionShape shape_of(const paddle::Tensor& q, const paddle::Tensor& k, const paddle::Tensor& v,
                             const paddle::Tensor& cu_q, const paddle::Tensor& cu_k,
                             const paddle::optional<paddle::Tensor>& mask, bool causal, int64_t window,
                             float scale, bool narrow) {
  PD_CHECK(q.shape().size() == 3 && k.shape().size() == 3, "attention: q has ", q.shape().size(), " axes and k ",
           k.shape().size(), ", expected q [T, N, H] and k, v [T, K, H]");
  PD_CHECK(k.shape() == v.shape(), "attention: k and v must have one shape");
  PD_CHECK(q.shape()[2] == k.shape()[2], "attention: q has the head dim ", q.shape()[2], " and k ", k.shape()[2]);
  PD_CHECK(window >= 0, "attention: window is ", window, ", expected 0 (none) or more");
  mix::AttentionShape shape{};
  shape.cu_q = mix::data<int32_t>(cu_q);
  shape.cu_k = mix::data<int32_t>(cu_k);
  shape.segments = cu_q.numel() - 1;
  shape.heads = q.shape()[1];
  shape.kv_heads = k.shape()[1];
  shape.head_dim = q.shape()[2];
  PD_CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0, "attention: q has ", shape.heads, " heads and k ",
           shape.kv_heads, ", expected a multiple of k's");
  PD_CHECK(cu_k.numel() == cu_q.numel(), "attention: cu_k has ", cu_k.numel(), " numbers, cu_q ", cu_q.numel());
  check_ends(shape.cu_q, cu_q.numel(), q.shape()[0], "cu_q");
  check_ends(shape.cu_k, cu_k.numel(), k.shape()[0], "cu_k");
  shape.q_stride = shape.heads * shape.head_dim;
  shape.k_stride = shape.v_stride = shape.kv_heads * shape.head_dim;
  shape.scale = scale;
  shape.causal = causal;
  shape.window = window;
  shape.products = mix::products_of(narrow);
  if (mask) {
    const auto got = mask->shape();
    const int64_t queries = shape.cu_q[1], keys = shape.cu_k[1];
    PD_CHECK(mask->dtype() == paddle::DataType::BOOL && got.size() == 4 && got[0] == shape.segments &&
                 (got[1] == 1 || got[1] == shape.heads) && got[2] == queries && got[3] == keys,
             "attention: mask must be bool [", shape.segments, ", 1 or ", shape.heads, ", ", queries, ", ", keys, "]");
    for (int64_t s = 1; s <= shape.segments; ++s)
      PD_CHECK(shape.cu_q[s] == s * queries && shape.cu_k[s] == s * keys,
               "attention: a mask is for segments of one length, segment ", s - 1, " has another");
    shape.mask = mix::data<bool>(*mask);
    shape.mask_heads = mask->shape()[1];
  }
  return shape;
}

std::vector<paddle::Tensor> attention(const paddle::Tensor& q_in, const paddle::Tensor& k_in,
                                      const paddle::Tensor& v_in, const paddle::Tensor& cu_q,
                                      const paddle::Tensor& cu_k, const paddle::optional<paddle::Tensor>& mask,
                                      bool causal, int64_t window, float scale, bool narrow) {
  const auto q = mix::dense(q_in), k = mix::dense(k_in), v = mix::dense(v_in);
  const auto shape = shape_of(q, k, v, cu_q, cu_k, mask, causal, window, scale, narrow);
  auto out = paddle::empty(q.shape(), q.dtype(), q.place());
  auto lse = paddle::empty({q.shape()[0], q.shape()[1]}, q.dtype(), q.place());
  mix::attention_forward(shape, mix::data<float>(q), mix::data<float>(k), mix::data<float>(v), mix::data<float>(out),
                         mix::data<float>(lse));
  return {out, lse};
}

std::vector<paddle::Tensor> attention_grad(const paddle::Tensor& q_in, const paddle::Tensor& k_in,
                                           const paddle::Tensor& v_in, const paddle::Tensor& cu_q,
                                           const paddle::Tensor& cu_k, const paddle::optional<paddle::Tensor>& mask,
                                           const paddle::Tensor& out, const paddle::Tensor& lse,
                                           const paddle::Tensor& d_out_in, bool causal, int64_t window, float scale,
                                           bool narrow) {
  const auto q = mix::dense(q_in), k = mix::dense(k_in), v = mix::dense(v_in), d_out = mix::dense(d_out_in);
  const auto shape = shape_of(q, k, v, cu_q, cu_k, mask, causal, window, scale, narrow);
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
  PD_CHECK(q.shape().size() == 3 && k.shape().size() == 4, "attention_decode: q has ", q.shape().size(),
           " axes and k ", k.shape().size(), ", expected q [B, N, H] and k, v [B, K, C, H]");
  PD_CHECK(k.shape() == v.shape() && k.shape()[0] == q.shape()[0] && k.shape()[3] == q.shape()[2],
           "attention_decode: k and v must be [", q.shape()[0], ", K, C, ", q.shape()[2], "]");
  const int64_t batch = q.shape()[0], heads = q.shape()[1], head_dim = q.shape()[2];
  const int64_t kv_heads = k.shape()[1], slots = k.shape()[2];
  PD_CHECK(kv_heads > 0 && heads % kv_heads == 0, "attention_decode: q has ", heads, " heads and k ", kv_heads,
           ", expected a multiple of k's");
  PD_CHECK(lengths.numel() == batch, "attention_decode: ", lengths.numel(), " lengths, expected ", batch);
  const int64_t* ends = mix::data<int64_t>(lengths);
  for (int64_t b = 0; b < batch; ++b)
    PD_CHECK(ends[b] >= 0 && ends[b] <= slots, "attention_decode: length ", ends[b], " of row ", b, ", expected 0 to ", slots);
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
    .Attrs({"causal: bool", "window: int64_t", "scale: float", "narrow: bool"})
    .SetKernelFn(PD_KERNEL(attention));

PD_BUILD_GRAD_OP(mix_attention)
    .Inputs({"q", "k", "v", "cu_q", "cu_k", paddle::Optional("mask"), "out", "lse", paddle::Grad("out")})
    .Outputs({paddle::Grad("q"), paddle::Grad("k"), paddle::Grad("v")})
    .Attrs({"causal: bool", "window: int64_t", "scale: float", "narrow: bool"})
    .SetKernelFn(PD_KERNEL(attention_grad));
