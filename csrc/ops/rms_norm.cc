#include "ops/rms_norm.h"

#include <cmath>

#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

MIX_INLINE void forward_row_body(const float* x, const float* weight, float eps, int64_t dim, float* out,
                            float* inv_rms) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < dim; ++j) sum += x[j] * x[j];
  const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(dim) + eps);
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j) out[j] = x[j] * inverse * weight[j];
  *inv_rms = inverse;
}
MIX_KERNEL(void, forward_row, (const float* x, const float* weight, float eps, int64_t dim, float* out, float* inv_rms), (x, weight, eps, dim, out, inv_rms))

MIX_INLINE void backward_row_body(const float* x, const float* weight, float inverse, const float* d_out, int64_t dim,
                             float* dx, float* d_weight) {
  float projection = 0.0f;
#pragma omp simd reduction(+ : projection)
  for (int64_t j = 0; j < dim; ++j) projection += x[j] * weight[j] * d_out[j];
  const float shared = projection * inverse * inverse * inverse / static_cast<float>(dim);
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j) {
    dx[j] = weight[j] * d_out[j] * inverse - x[j] * shared;
    d_weight[j] += d_out[j] * x[j] * inverse;
  }
}
MIX_KERNEL(void, backward_row, (const float* x, const float* weight, float inverse, const float* d_out, int64_t dim, float* dx, float* d_weight), (x, weight, inverse, d_out, dim, dx, d_weight))

}  // namespace

void rms_norm_forward(const float* x, const float* weight, float eps, int64_t rows, int64_t dim, float* out,
                      float* inv_rms) {
#pragma omp parallel for schedule(static) if (rows * dim >= kWorthThreads)
  for (int64_t r = 0; r < rows; ++r) forward_row(x + r * dim, weight, eps, dim, out + r * dim, inv_rms + r);
}

void rms_norm_backward(const float* x, const float* weight, const float* inv_rms, const float* d_out, int64_t rows,
                       int64_t dim, float* dx, float* d_weight) {
  sum_rows(rows, dim, d_weight, [&](int64_t r, float* sum) {
    backward_row(x + r * dim, weight, inv_rms[r], d_out + r * dim, dim, dx + r * dim, sum);
  });
}

}  // namespace mix
