// Paddle binding: mix_linear_cross_entropy(hidden, weight, rows, labels) -> loss, d_hidden, d_weight.
#include <memory>
#include <vector>

#include "ops/binding.h"
#include "ops/linear_cross_entropy.h"

namespace {

using paddle::Tensor;

// rows and labels [R] int64 on the host. A gradient that is not wanted comes back empty.
std::vector<Tensor> linear_cross_entropy(const Tensor& hidden_in, const Tensor& weight_in, const Tensor& rows,
                                         const Tensor& labels, bool want_hidden, bool want_weight, bool narrow) {
  const auto hidden = mix::dense(hidden_in), weight = mix::dense(weight_in);
  PD_CHECK(hidden.shape().size() == 2 && weight.shape().size() == 2 && hidden.shape()[1] == weight.shape()[1],
           "linear_cross_entropy takes hidden [T, D] and weight [V, D]");
  PD_CHECK(rows.numel() == labels.numel(), "linear_cross_entropy takes a label for each row named");
  const mix::HeadLoss head{mix::data<float>(hidden),   mix::data<float>(weight), mix::data<int64_t>(rows),
                           mix::data<int64_t>(labels), rows.numel(),             weight.shape()[1],
                           weight.shape()[0],
                           mix::products_of(narrow)};
  for (int64_t r = 0; r < head.count; ++r)
    PD_CHECK(head.labels[r] >= 0 && head.labels[r] < head.vocab && head.rows[r] >= 0 &&
                 head.rows[r] < hidden.shape()[0],
             "label ", head.labels[r], " of row ", head.rows[r], " is outside [0, ", head.vocab, ")");
  const auto dtype = hidden.dtype();
  const auto place = hidden.place();
  const std::unique_ptr<float[]> scratch(new float[mix::head_loss_scratch(head)]);
  auto loss = paddle::empty({}, dtype, place);
  auto d_hidden = paddle::empty(want_hidden ? hidden.shape() : std::vector<int64_t>{0}, dtype, place);
  auto d_weight = paddle::empty(want_weight ? weight.shape() : std::vector<int64_t>{0}, dtype, place);
  if (want_hidden && head.count < hidden.shape()[0])
    std::fill_n(mix::data<float>(d_hidden), hidden.numel(), 0.0f);
  *mix::data<float>(loss) = static_cast<float>(
      mix::head_loss(head, scratch.get(), want_hidden ? mix::data<float>(d_hidden) : nullptr,
                     want_weight ? mix::data<float>(d_weight) : nullptr));
  return {loss, d_hidden, d_weight};
}

}  // namespace

PD_BUILD_OP(mix_linear_cross_entropy)
    .Inputs({"hidden", "weight", "rows", "labels"})
    .Outputs({"loss", "d_hidden", "d_weight"})
    .Attrs({"want_hidden: bool", "want_weight: bool", "narrow: bool"})
    .SetKernelFn(PD_KERNEL(linear_cross_entropy));
