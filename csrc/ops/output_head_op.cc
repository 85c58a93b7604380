// Paddle binding: mix_output_head(hidden, weight) -> logits, for inference: it has no gradient.
#include <vector>

#include "mix/gemm.h"
#include "ops/binding.h"
#include "ops/gemv.h"

namespace {

using paddle::Tensor;

// hidden [T, D], weight [V, D] -> logits [T, V]
std::vector<Tensor> logits(const Tensor& hidden_in, const Tensor& weight_in) {
  const auto hidden = mix::dense(hidden_in), weight = mix::dense(weight_in);
  PD_CHECK(hidden.shape().size() == 2 && weight.shape().size() == 2 && hidden.shape()[1] == weight.shape()[1],
           "output_head takes hidden [T, D] and weight [V, D]");
  const int64_t T = hidden.shape()[0], D = hidden.shape()[1], V = weight.shape()[0];
  auto out = paddle::empty({T, V}, hidden.dtype(), hidden.place());
  const float *const rows = mix::data<float>(hidden), *const words = mix::data<float>(weight);
  if (T <= mix::kFewRows)
    mix::gemv_transposed(rows, words, T, D, V, mix::data<float>(out));
  else
    mix::gemm(false, true, T, V, D, 1.0f, rows, D, words, D, 0.0f, mix::data<float>(out), V);
  return {out};
}

}  // namespace

PD_BUILD_OP(mix_output_head).Inputs({"hidden", "weight"}).Outputs({"logits"}).SetKernelFn(PD_KERNEL(logits));
