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

void linear_forward(const float* x, const float* weight, const float* bias, int64_t rows, int64_t inputs,
                    int64_t outputs, float* out) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) std::copy_n(bias, outputs, out + r * outputs);
  gemm(false, false, rows, outputs, inputs, 1.0f, x, inputs, weight, outputs, 1.0f, out, outputs);
}

void linear_backward(const float* x, const float* weight, const float* d_out, int64_t rows, int64_t inputs,
                     int64_t outputs, float* dx, float* d_weight, float* d_bias) {
  gemm(false, true, rows, inputs, outputs, 1.0f, d_out, outputs, weight, outputs, 0.0f, dx, inputs);
  gemm(true, false, inputs, outputs, rows, 1.0f, x, inputs, d_out, outputs, 0.0f, d_weight, outputs);
  sum_rows(rows, outputs, d_bias, [&](int64_t r, float* sum) { add_row(d_out + r * outputs, outputs, sum); });
}

}  // namespace mix
