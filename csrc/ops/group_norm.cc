#include "ops/group_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "mix/moments.h"
#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

// One group of one row: `channels` runs of `inner` numbers, one after the other.
MIX_INLINE void forward_group_body(const float* x, const float* weight, const float* bias, float eps,
                                   int64_t channels, int64_t inner, bool silu, float* out, float* mean,
                                   float* inv_std) {
  const Moments of_group = moments(x, channels * inner);
  const float centre = of_group.mean, inverse = 1.0f / std::sqrt(of_group.variance + eps);
  for (int64_t c = 0; c < channels; ++c) {
    const float scale = weight == nullptr ? inverse : inverse * weight[c];
    const float shift = bias == nullptr ? 0.0f : bias[c];
    const float* from = x + c * inner;
    float* to = out + c * inner;
    if (silu) {
#pragma omp simd
      for (int64_t j = 0; j < inner; ++j) {
        const float normed = (from[j] - centre) * scale + shift;
        to[j] = normed * sigmoid(normed);
      }
    } else {
#pragma omp simd
      for (int64_t j = 0; j < inner; ++j) to[j] = (from[j] - centre) * scale + shift;
    }
  }
  *mean = centre;
  *inv_std = inverse;
}
MIX_KERNEL(void, forward_group,
           (const float* x, const float* weight, const float* bias, float eps, int64_t channels, int64_t inner,
            bool silu, float* out, float* mean, float* inv_std),
           (x, weight, bias, eps, channels, inner, silu, out, mean, inv_std))

// d_normed = d_out times the slope of silu where the channel's numbers were.
MIX_INLINE void through_silu_body(const float* x, float mean, float scale, float shift, const float* d_out,
                                  int64_t inner, float* d_normed) {
#pragma omp simd
  for (int64_t j = 0; j < inner; ++j) {
    const float normed = (x[j] - mean) * scale + shift, s = sigmoid(normed);
    d_normed[j] = d_out[j] * (s + normed * s * (1.0f - s));
  }
}
MIX_KERNEL(void, through_silu,
           (const float* x, float mean, float scale, float shift, const float* d_out, int64_t inner, float* d_normed),
           (x, mean, scale, shift, d_out, inner, d_normed))

// along[c] = sum of d_out * normalised x over the channel, constant[c] = sum of d_out: this row's part of the
// gradients of weight and bias, from which the group's own sums follow. dx may be d_out.
MIX_INLINE void backward_group_body(const float* x, const float* weight, float mean, float inverse,
                                    const float* d_out, int64_t channels, int64_t inner, float* dx, float* along,
                                    float* constant) {
  constexpr int64_t kChunk = 4096;
  double all_along = 0.0, all_constant = 0.0;
  for (int64_t c = 0; c < channels; ++c) {
    double sum_along = 0.0, sum_constant = 0.0;
    for (int64_t start = c * inner; start < (c + 1) * inner; start += kChunk) {
      const int64_t end = std::min(start + kChunk, (c + 1) * inner);
      float part_along = 0.0f, part_constant = 0.0f;
#pragma omp simd reduction(+ : part_along, part_constant)
      for (int64_t j = start; j < end; ++j) {
        part_along += d_out[j] * ((x[j] - mean) * inverse);
        part_constant += d_out[j];
      }
      sum_along += part_along;
      sum_constant += part_constant;
    }
    const double w = weight == nullptr ? 1.0 : weight[c];
    all_along += w * sum_along;
    all_constant += w * sum_constant;
    along[c] = static_cast<float>(sum_along);
    constant[c] = static_cast<float>(sum_constant);
  }
  const double count = static_cast<double>(channels * inner);
  const float slope = static_cast<float>(all_along / count), level = static_cast<float>(all_constant / count);
  for (int64_t c = 0; c < channels; ++c) {
    const float w = weight == nullptr ? 1.0f : weight[c];
#pragma omp simd
    for (int64_t j = c * inner; j < (c + 1) * inner; ++j)
      dx[j] = inverse * (w * d_out[j] - level - (x[j] - mean) * inverse * slope);
  }
}
MIX_KERNEL(void, backward_group,
           (const float* x, const float* weight, float mean, float inverse, const float* d_out, int64_t channels,
            int64_t inner, float* dx, float* along, float* constant),
           (x, weight, mean, inverse, d_out, channels, inner, dx, along, constant))

// total[c] = sum over the batch of parts[b, c].
void sum_batch(const std::vector<float>& parts, int64_t batch, int64_t channels, float* total) {
  if (total == nullptr) return;
  std::fill_n(total, channels, 0.0f);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < channels; ++c) total[c] += parts[b * channels + c];
}

}  // namespace

void group_norm_forward(const GroupShape& s, const float* x, const float* weight, const float* bias, float eps,
                        float* out, float* mean, float* inv_std) {
  const int64_t channels = s.channels / s.groups;
#pragma omp parallel for schedule(static) if (s.batch * s.channels * s.inner >= kWorthThreads)
  for (int64_t i = 0; i < s.batch * s.groups; ++i) {
    const int64_t first = i % s.groups * channels, start = i * channels * s.inner;
    forward_group(x + start, weight == nullptr ? nullptr : weight + first, bias == nullptr ? nullptr : bias + first,
                  eps, channels, s.inner, s.silu, out + start, mean + i, inv_std + i);
  }
}

void group_norm_backward(const GroupShape& s, const float* x, const float* weight, const float* bias,
                         const float* mean, const float* inv_std, const float* d_out, float* dx, float* d_weight, float* d_bias) {
  const int64_t channels = s.channels / s.groups;
  std::vector<float> along(s.batch * s.channels), constant(s.batch * s.channels);
#pragma omp parallel for schedule(static) if (s.batch * s.channels * s.inner >= kWorthThreads)
  for (int64_t i = 0; i < s.batch * s.groups; ++i) {
    const int64_t first = i % s.groups * channels, start = i * channels * s.inner;
    const float* d_normed = d_out + start;
    if (s.silu) {
      for (int64_t c = 0; c < channels; ++c) {
        const float scale = weight == nullptr ? inv_std[i] : inv_std[i] * weight[first + c];
        const int64_t at = start + c * s.inner;
        through_silu(x + at, mean[i], scale, bias == nullptr ? 0.0f : bias[first + c], d_out + at, s.inner, dx + at);
      }
      d_normed = dx + start;
    }
    backward_group(x + start, weight == nullptr ? nullptr : weight + first, mean[i], inv_std[i], d_normed,
                   channels, s.inner, dx + start, along.data() + i * channels, constant.data() + i * channels);
  }
  sum_batch(along, s.batch, s.channels, d_weight);
  sum_batch(constant, s.batch, s.channels, d_bias);
}

}  // namespace mix
