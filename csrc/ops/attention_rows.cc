#include "ops/attention_rows.h"

#include <cmath>
#include <limits>

#include "mix/vector.h"

namespace mix {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

MIX_INLINE float row_max_body(const float* x, int64_t n) {
  float best = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : best)
  for (int64_t j = 0; j < n; ++j) best = x[j] > best ? x[j] : best;
  return best;
}
MIX_KERNEL(float, row_max, (const float* x, int64_t n), (x, n))

// x <- exp(x - shift); returns the sum.
MIX_INLINE float exp_row_body(float* x, int64_t n, float shift) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    x[j] = fast_exp(x[j] - shift);
    sum += x[j];
  }
  return sum;
}
MIX_KERNEL(float, exp_row, (float* x, int64_t n, float shift), (x, n, shift))

MIX_INLINE void multiply_row_body(float* x, int64_t n, float factor) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) x[j] *= factor;
}
MIX_KERNEL(void, multiply_row, (float* x, int64_t n, float factor), (x, n, factor))

MIX_INLINE float dot_product_body(const float* a, const float* b, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += a[j] * b[j];
  return sum;
}
MIX_KERNEL(float, dot_product, (const float* a, const float* b, int64_t n), (a, b, n))

// dS = P * (dP - delta), in place of dP.
MIX_INLINE void score_gradient_body(const float* p, float* dp, int64_t n, float delta) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) dp[j] = p[j] * (dp[j] - delta);
}
MIX_KERNEL(void, score_gradient, (const float* p, float* dp, int64_t n, float delta), (p, dp, n, delta))

void zero_outside(float* row, int64_t width, int64_t begin, int64_t end) {
  std::fill(row, row + begin, 0.0f);
  std::fill(row + end, row + width, 0.0f);
}

}  // namespace

void apply_mask(const AttentionShape& shape, int64_t segment, int64_t head, int64_t row, int64_t q_len, int64_t k_len,
                int64_t begin, int64_t count, float* scores) {
  if (shape.mask == nullptr) return;
  const int64_t plane = segment * shape.mask_heads + (shape.mask_heads == 1 ? 0 : head);
  const bool* mask = shape.mask + (plane * q_len + row) * k_len + begin;
  for (int64_t j = 0; j < count; ++j)
    if (!mask[j]) scores[j] = kNothing;
}

RowSum exponential_row(float* row, int64_t width, int64_t begin, int64_t end) {
  zero_outside(row, width, begin, end);
  const int64_t count = end - begin;
  const float top = row_max(row + begin, count);
  if (!(top > kNothing)) {
    // nothing is visible, or all that is is NaN, which a maximum passes over and a result must not
    const bool nan = std::any_of(row + begin, row + end, [](float score) { return std::isnan(score); });
    const float all = nan ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    std::fill(row + begin, row + end, all);
    return {nan ? all : kNothing, 1.0f};
  }
  const float sum = exp_row(row + begin, count, top);
  return {top + std::log(sum), 1.0f / sum};
}

void probability_row(float* row, int64_t width, int64_t begin, int64_t end, float log_sum) {
  zero_outside(row, width, begin, end);
  if (log_sum > kNothing)
    exp_row(row + begin, end - begin, log_sum);
  else
    std::fill(row + begin, row + end, 0.0f);
}

void score_gradient_row(const float* p, float* dp, int64_t width, int64_t begin, int64_t end, float delta) {
  zero_outside(dp, width, begin, end);
  score_gradient(p + begin, dp + begin, end - begin, delta);
}

float dot(const float* a, const float* b, int64_t n) { return dot_product(a, b, n); }

void scale_row(float* x, int64_t n, float factor) { multiply_row(x, n, factor); }

}  // namespace mix
