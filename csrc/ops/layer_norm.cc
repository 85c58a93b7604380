#include "ops/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "mix/moments.h"
#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

MIX_INLINE void forward_row_body(const float* x, const float* weight, const float* bias, float eps, int64_t dim,
                                 float* out, float* mean, float* inv_std) {
  const Moments of_row = moments(x, dim);
  const float centre = of_row.mean, inverse = 1.0f / std::sqrt(of_row.variance + eps);
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j) out[j] = (x[j] - centre) * inverse * weight[j] + bias[j];
  *mean = centre;
  *inv_std = inverse;
}
MIX_KERNEL(void, forward_row,
           (const float* x, const float* weight, const float* bias, float eps, int64_t dim, float* out, float* mean,
            float* inv_std),
           (x, weight, bias, eps, dim, out, mean, inv_std))

MIX_INLINE void backward_row_body(const float* x, const float* weight, float mean, float inverse,
                                  const float* d_out, int64_t dim, float* dx) {
  float along = 0.0f, constant = 0.0f;
#pragma omp simd reduction(+ : along, constant)
  for (int64_t j = 0; j < dim; ++j) {
    const float g = d_out[j] * weight[j];
    along += g * ((x[j] - mean) * inverse);
    constant += g;
  }
  along /= static_cast<float>(dim);
  constant /= static_cast<float>(dim);
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j)
    dx[j] = inverse * (d_out[j] * weight[j] - constant - (x[j] - mean) * inverse * along);
}
MIX_KERNEL(void, backward_row,
           (const float* x, const float* weight, float mean, float inverse, const float* d_out, int64_t dim,
            float* dx),
           (x, weight, mean, inverse, d_out, dim, dx))

MIX_INLINE void add_row_body(const float* x, float mean, float inverse, const float* d_out, int64_t dim,
                             float* d_weight, float* d_bias) {
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j) {
    d_weight[j] += d_out[j] * ((x[j] - mean) * inverse);
    d_bias[j] += d_out[j];
  }
}
MIX_KERNEL(void, add_row,
           (const float* x, float mean, float inverse, const float* d_out, int64_t dim, float* d_weight,
            float* d_bias),
           (x, mean, inverse, d_out, dim, d_weight, d_bias))

// The vector, or `value` in every place where it is null.
const float* or_all(const float* vector, float value, int64_t dim, std::vector<float>& room) {
  if (vector != nullptr) return vector;
  room.assign(dim, value);
  return room.data();
}

}  // namespace

void layer_norm_forward(const float* x, const float* weight, const float* bias, float eps, int64_t rows,
                        int64_t dim, float* out, float* mean, float* inv_std) {
  std::vector<float> ones, zeros;
  weight = or_all(weight, 1.0f, dim, ones);
  bias = or_all(bias, 0.0f, dim, zeros);
#pragma omp parallel for schedule(static) if (rows * dim >= kWorthThreads)
  for (int64_t r = 0; r < rows; ++r)
    forward_row(x + r * dim, weight, bias, eps, dim, out + r * dim, mean + r, inv_std + r);
}

void layer_norm_backward(const float* x, const float* weight, const float* mean, const float* inv_std,
                         const float* d_out, int64_t rows, int64_t dim, float* dx, float* d_weight,
                         float* d_bias) {
  std::vector<float> ones;
  weight = or_all(weight, 1.0f, dim, ones);
  if (d_weight == nullptr && d_bias == nullptr) {
#pragma omp parallel for schedule(static) if (rows * dim >= kWorthThreads)
    for (int64_t r = 0; r < rows; ++r)
      backward_row(x + r * dim, weight, mean[r], inv_std[r], d_out + r * dim, dim, dx + r * dim);
    return;
  }
  std::vector<float> sums(2 * dim);
  sum_rows(rows, 2 * dim, sums.data(), [&](int64_t r, float* sum) {
    backward_row(x + r * dim, weight, mean[r], inv_std[r], d_out + r * dim, dim, dx + r * dim);
    add_row(x + r * dim, mean[r], inv_std[r], d_out + r * dim, dim, sum, sum + dim);
  });
  if (d_weight != nullptr) std::copy_n(sums.data(), dim, d_weight);
  if (d_bias != nullptr) std::copy_n(sums.data() + dim, dim, d_bias);
}

}  // namespace mix
