// The output head and its cross entropy against the formula in double.
// Shapes: T rows of hidden, R of them with a label, D their width, V vocabulary.
#include <algorithm>

#include "ops/linear_cross_entropy.h"
#include "tests/kernel_case.h"

namespace {

using namespace mix::test;

void run(int64_t T, int64_t D, int64_t V, int64_t every, bool narrow = false) {
  std::vector<int64_t> rows, labels;
  for (int64_t t = 0; t < T; t += every) rows.push_back(t), labels.push_back(t * 7 % V);
  const int64_t R = static_cast<int64_t>(rows.size());
  Case one("linear_cross_entropy " + std::to_string(R) + " of " + std::to_string(T) + "x" +
           std::to_string(D) + ", vocabulary " + std::to_string(V) + (narrow ? ", narrow" : ""));
  const float factor = 1.0f / std::sqrt(static_cast<float>(D));
  const Array hidden = draw(1, T * D), weight = draw(2, V * D, factor);
  Exact loss(1, 0.0), dh(T * D, 0.0), dw(V * D, 0.0);
  for (int64_t r = 0; r < R; ++r) {
    Exact z(V, 0.0);
    double sum = 0.0;
    for (int64_t v = 0; v < V; ++v)
      for (int64_t d = 0; d < D; ++d)
        z[v] += static_cast<double>(hidden[rows[r] * D + d]) * weight[v * D + d];
    const double top = *std::max_element(z.begin(), z.end());
    for (const double logit : z) sum += std::exp(logit - top);
    loss[0] += std::log(sum) + top - z[labels[r]];
    for (int64_t v = 0; v < V; ++v) {
      const double dz = std::exp(z[v] - top) / sum - (v == labels[r] ? 1.0 : 0.0);
      for (int64_t d = 0; d < D; ++d) {
        dh[rows[r] * D + d] += dz * weight[v * D + d];
        dw[v * D + d] += dz * hidden[rows[r] * D + d];
      }
    }
  }
  const mix::HeadLoss head{hidden.data(), weight.data(), rows.data(), labels.data(), R, D, V,
                           narrow ? mix::Products::kBfloat16 : mix::Products::kFloat32};
  Array scratch = unwritten(mix::head_loss_scratch(head)), found_dh(T * D, 0.0f), found_dw = unwritten(V * D);
  const double found = mix::head_loss(head, scratch.data(), found_dh.data(), found_dw.data());
  one.within(narrow ? kNarrowLimit : kForwardLimit, "loss", {static_cast<float>(found)}, loss);
  one.within(narrow ? kNarrowLimit : kGradientLimit, "dhidden", found_dh, dh);
  one.within(narrow ? kNarrowLimit : kGradientLimit, "dweight", found_dw, dw);
  one.that(mix::head_loss(head, scratch.data(), nullptr, nullptr) == found, "the loss alone is another");
}

}  // namespace

MIX_CASES(linear_cross_entropy) {
  run(1, 1, 1, 1);
  run(7, 17, 64, 2);
  run(64, 80, 1025, 1);
  run(130, 257, 300, 1);
  run(64, 64, 257, 3, true);
}
