#include "ops/rms_norm.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

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
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) forward_row(x + r * dim, weight, eps, dim, out + r * dim, inv_rms + r);
}

void rms_norm_backward(const float* x, const float* weight, const float* inv_rms, const float* d_out, int64_t rows,
                       int64_t dim, float* dx, float* d_weight) {
  // One partial weight gradient a thread, added in thread order: the same result for the same thread count.
  const int threads = omp_get_max_threads();
  std::vector<float> partial(static_cast<size_t>(threads) * dim, 0.0f);
#pragma omp parallel num_threads(threads)
  {
    float* own = partial.data() + static_cast<size_t>(omp_get_thread_num()) * dim;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r)
      backward_row(x + r * dim, weight, inv_rms[r], d_out + r * dim, dim, dx + r * dim, own);
  }
  std::fill_n(d_weight, dim, 0.0f);
  for (int t = 0; t < threads; ++t)
    for (int64_t j = 0; j < dim; ++j) d_weight[j] += partial[static_cast<size_t>(t) * dim + j];
}

}  // namespace mix
