#include "ops/linear.h"

#include <algorithm>

#include "mix/gemm.h"
#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

MIX_INLINE void add_row_body(const float* x, int64_t n, float* sum) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) sum[j] += x[j];
}
MIX_KERNEL(void, add_row, (const float* x, int64_t n, float* sum), (x, n, sum))

}  // namespace

void linear_forward(const LinearShape& shape, const float* x, const float* weight, const float* bias, float* out) {
  if (bias != nullptr) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < shape.rows; ++r) std::copy_n(bias, shape.outputs, out + r * shape.outputs);
  }
  gemm(false, false, shape.rows, shape.outputs, shape.inputs, 1.0f, x, shape.inputs, weight, shape.outputs,
       bias == nullptr ? 0.0f : 1.0f, out, shape.outputs, shape.products);
}

void linear_backward(const LinearShape& shape, const float* x, const float* weight, const float* d_out, float* dx,
                     float* d_weight, float* d_bias) {
  const int64_t rows = shape.rows, inputs = shape.inputs, outputs = shape.outputs;
  if (dx != nullptr)
    gemm(false, true, rows, inputs, outputs, 1.0f, d_out, outputs, weight, outputs, 0.0f, dx, inputs, shape.products);
  if (d_weight != nullptr)
    gemm(true, false, inputs, outputs, rows, 1.0f, x, inputs, d_out, outputs, 0.0f, d_weight, outputs,
         shape.products);
  if (d_bias != nullptr)
    sum_rows(rows, outputs, d_bias, [&](int64_t r, float* sum) { add_row(d_out + r * outputs, outputs, sum); });
}

}  // namespace mix
