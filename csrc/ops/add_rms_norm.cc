#include "ops/add_rms_norm.h"

#include <cmath>

#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

MIX_INLINE void forward_row_body(const float* x, const float* branch, const float* weight, float eps, int64_t dim,
                                 float* sum, float* normed, float* inv_rms) {
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int64_t j = 0; j < dim; ++j) {
    const float both = x[j] + branch[j];
    sum[j] = both;
    squares += both * both;
  }
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(dim) + eps);
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j) normed[j] = sum[j] * inverse * weight[j];
  *inv_rms = inverse;
}
MIX_KERNEL(void, forward_row,
           (const float* x, const float* branch, const float* weight, float eps, int64_t dim, float* sum,
            float* normed, float* inv_rms),
           (x, branch, weight, eps, dim, sum, normed, inv_rms))

MIX_INLINE void backward_row_body(const float* sum, const float* weight, float inverse, const float* d_sum,
                                  const float* d_normed, int64_t dim, float* dx, float* d_branch,
                                  float* d_weight) {
  float projection = 0.0f;
#pragma omp simd reduction(+ : projection)
  for (int64_t j = 0; j < dim; ++j) projection += sum[j] * weight[j] * d_normed[j];
  const float shared = projection * inverse * inverse * inverse / static_cast<float>(dim);
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j) {
    const float d = d_sum[j] + (weight[j] * d_normed[j] * inverse - sum[j] * shared);
    dx[j] = d;
    d_branch[j] = d;
    d_weight[j] += d_normed[j] * sum[j] * inverse;
  }
}
MIX_KERNEL(void, backward_row,
           (const float* sum, const float* weight, float inverse, const float* d_sum, const float* d_normed,
            int64_t dim, float* dx, float* d_branch, float* d_weight),
           (sum, weight, inverse, d_sum, d_normed, dim, dx, d_branch, d_weight))

}  // namespace

void add_rms_norm_forward(const float* x, const float* branch, const float* weight, float eps, int64_t rows,
                          int64_t dim, float* sum, float* normed, float* inv_rms) {
#pragma omp parallel for schedule(static) if (rows * dim >= kWorthThreads)
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = r * dim;
    forward_row(x + at, branch + at, weight, eps, dim, sum + at, normed + at, inv_rms + r);
  }
}

void add_rms_norm_backward(const float* sum, const float* weight, const float* inv_rms, const float* d_sum,
                           const float* d_normed, int64_t rows, int64_t dim, float* dx, float* d_branch,
                           float* d_weight) {
  sum_rows(rows, dim, d_weight, [&](int64_t r, float* total) {
    const int64_t at = r * dim;
    backward_row(sum + at, weight, inv_rms[r], d_sum + at, d_normed + at, dim, dx + at, d_branch + at, total);
  });
}

}  // namespace mix
