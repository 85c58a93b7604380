#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "mix/gemm.h"
#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

constexpr int64_t kQueryBlock = 64;

struct KeyRange {
  int64_t begin;
  int64_t end;
};

// Keys that query row `i` of a segment may see before any mask.
inline KeyRange visible(const AttentionShape& shape, int64_t i, int64_t q_len, int64_t k_len) {
  const int64_t diagonal = i + k_len - q_len;
  KeyRange range{0, k_len};
  if (shape.causal) range.end = std::max<int64_t>(0, std::min(k_len, diagonal + 1));
  if (shape.window > 0) {
    range.begin = std::max<int64_t>(0, diagonal - shape.window + 1);
    if (!shape.causal) range.end = std::min(k_len, diagonal + shape.window);
  }
  range.begin = std::min(range.begin, range.end);
  return range;
}

// Keys that any query of rows [i0, i1) may see: both ends of `visible` grow with the row.
inline KeyRange visible_block(const AttentionShape& shape, int64_t i0, int64_t i1, int64_t q_len, int64_t k_len) {
  const int64_t begin = visible(shape, i0, q_len, k_len).begin;
  const int64_t end = visible(shape, i1 - 1, q_len, k_len).end;
  return {std::min(begin, end), end};
}

inline void apply_mask(const AttentionShape& shape, int64_t segment, int64_t head, int64_t row, int64_t q_len,
                       int64_t k_len, int64_t begin, int64_t count, float* scores) {
  if (shape.mask == nullptr) return;
  const int64_t plane = segment * shape.mask_heads + (shape.mask_heads == 1 ? 0 : head);
  const bool* mask = shape.mask + (plane * q_len + row) * k_len + begin;
  for (int64_t j = 0; j < count; ++j)
    if (!mask[j]) scores[j] = -std::numeric_limits<float>::infinity();
}

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

MIX_INLINE void scale_row_body(float* x, int64_t n, float factor) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) x[j] *= factor;
}
MIX_KERNEL(void, scale_row, (float* x, int64_t n, float factor), (x, n, factor))

MIX_INLINE float dot_body(const float* a, const float* b, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += a[j] * b[j];
  return sum;
}
MIX_KERNEL(float, dot, (const float* a, const float* b, int64_t n), (a, b, n))

// dS = P * (dP - delta), in place of dP.
MIX_INLINE void score_gradient_body(const float* p, float* dp, int64_t n, float delta) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) dp[j] = p[j] * (dp[j] - delta);
}
MIX_KERNEL(void, score_gradient, (const float* p, float* dp, int64_t n, float delta), (p, dp, n, delta))

inline void zero_outside(float* row, int64_t width, int64_t begin, int64_t end) {
  std::fill(row, row + begin, 0.0f);
  std::fill(row + end, row + width, 0.0f);
}

// Turns a row of scores into probabilities and returns its log-sum-exp (-inf where nothing is visible).
inline float softmax_row(float* row, int64_t width, int64_t begin, int64_t end) {
  zero_outside(row, width, begin, end);
  const int64_t count = end - begin;
  const float top = row_max(row + begin, count);
  if (!(top > -std::numeric_limits<float>::infinity())) {
    // nothing is visible, or all that is is NaN, which a maximum passes over and a result must not
    const bool nan = std::any_of(row + begin, row + end, [](float score) { return std::isnan(score); });
    std::fill(row + begin, row + end, nan ? std::numeric_limits<float>::quiet_NaN() : 0.0f);
    return nan ? std::numeric_limits<float>::quiet_NaN() : -std::numeric_limits<float>::infinity();
  }
  const float sum = exp_row(row + begin, count, top);
  scale_row(row + begin, count, 1.0f / sum);
  return top + std::log(sum);
}

void forward_block(const AttentionShape& shape, int64_t segment, int64_t head, int64_t i0, const float* q,
                   const float* k, const float* v, float* out, float* lse, std::vector<float>& scores) {
  const int64_t q0 = shape.cu_q[segment], q_len = shape.cu_q[segment + 1] - q0;
  const int64_t k0 = shape.cu_k[segment], k_len = shape.cu_k[segment + 1] - k0;
  const int64_t rows = std::min(kQueryBlock, q_len - i0), dim = shape.head_dim;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const KeyRange keys = visible_block(shape, i0, i0 + rows, q_len, k_len);
  const int64_t width = keys.end - keys.begin, out_stride = shape.heads * dim;
  float* out_block = out + (q0 + i0) * out_stride + head * dim;
  if (width <= 0) {
    for (int64_t i = 0; i < rows; ++i) {
      std::fill_n(out_block + i * out_stride, dim, 0.0f);
      lse[(q0 + i0 + i) * shape.heads + head] = -std::numeric_limits<float>::infinity();
    }
    return;
  }
  scores.resize(std::max<size_t>(scores.size(), rows * width));
  gemm(false, true, rows, width, dim, shape.scale, q + (q0 + i0) * shape.q_stride + head * dim, shape.q_stride,
       k + (k0 + keys.begin) * shape.k_stride + kv_head * dim, shape.k_stride, 0.0f, scores.data(), width);
  for (int64_t i = 0; i < rows; ++i) {
    float* row = scores.data() + i * width;
    const KeyRange own = visible(shape, i0 + i, q_len, k_len);
    apply_mask(shape, segment, head, i0 + i, q_len, k_len, keys.begin, width, row);
    lse[(q0 + i0 + i) * shape.heads + head] =
        softmax_row(row, width, std::max<int64_t>(0, own.begin - keys.begin), own.end - keys.begin);
  }
  gemm(false, false, rows, dim, width, 1.0f, scores.data(), width,
       v + (k0 + keys.begin) * shape.v_stride + kv_head * dim, shape.v_stride, 0.0f, out_block, out_stride);
}

struct BackwardBuffers {
  std::vector<float> p;
  std::vector<float> dp;
};

// One query head's share of a segment's gradients; dk and dv accumulate over the heads of a group.
void backward_head(const AttentionShape& shape, int64_t segment, int64_t head, const float* q, const float* k,
                   const float* v, const float* out, const float* lse, const float* d_out, float* dq, float* dk,
                   float* dv, BackwardBuffers& buffers) {
  const int64_t q0 = shape.cu_q[segment], q_len = shape.cu_q[segment + 1] - q0;
  const int64_t k0 = shape.cu_k[segment], k_len = shape.cu_k[segment + 1] - k0;
  const int64_t dim = shape.head_dim, kv_head = head / (shape.heads / shape.kv_heads);
  const int64_t o_stride = shape.heads * dim, d_stride = shape.kv_heads * dim;
  for (int64_t i0 = 0; i0 < q_len; i0 += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, q_len - i0);
    const KeyRange keys = visible_block(shape, i0, i0 + rows, q_len, k_len);
    const int64_t width = keys.end - keys.begin, o_offset = (q0 + i0) * o_stride + head * dim;
    if (width <= 0) {
      for (int64_t i = 0; i < rows; ++i) std::fill_n(dq + o_offset + i * o_stride, dim, 0.0f);
      continue;
    }
    buffers.p.resize(std::max<size_t>(buffers.p.size(), rows * width));
    buffers.dp.resize(std::max<size_t>(buffers.dp.size(), rows * width));
    float *p = buffers.p.data(), *dp = buffers.dp.data();
    const float* q_block = q + (q0 + i0) * shape.q_stride + head * dim;
    const float* k_block = k + (k0 + keys.begin) * shape.k_stride + kv_head * dim;
    const float* v_block = v + (k0 + keys.begin) * shape.v_stride + kv_head * dim;
    const int64_t d_offset = (k0 + keys.begin) * d_stride + kv_head * dim;
    gemm(false, true, rows, width, dim, shape.scale, q_block, shape.q_stride, k_block, shape.k_stride, 0.0f, p,
         width);
    gemm(false, true, rows, width, dim, 1.0f, d_out + o_offset, o_stride, v_block, shape.v_stride, 0.0f, dp,
         width);
    for (int64_t i = 0; i < rows; ++i) {
      float *p_row = p + i * width, *dp_row = dp + i * width;
      const KeyRange own = visible(shape, i0 + i, q_len, k_len);
      const int64_t begin = std::max<int64_t>(0, own.begin - keys.begin), end = own.end - keys.begin;
      apply_mask(shape, segment, head, i0 + i, q_len, k_len, keys.begin, width, p_row);
      zero_outside(p_row, width, begin, end);
      zero_outside(dp_row, width, begin, end);
      const float shift = lse[(q0 + i0 + i) * shape.heads + head];
      if (!(shift > -std::numeric_limits<float>::infinity())) {
        std::fill(p_row + begin, p_row + end, 0.0f);
      } else {
        exp_row(p_row + begin, end - begin, shift);
      }
      const int64_t at = o_offset + i * o_stride;
      score_gradient(p_row + begin, dp_row + begin, end - begin, dot(out + at, d_out + at, dim));
    }
    gemm(true, false, width, dim, rows, 1.0f, p, width, d_out + o_offset, o_stride, 1.0f, dv + d_offset, d_stride);
    gemm(false, false, rows, dim, width, shape.scale, dp, width, k_block, shape.k_stride, 0.0f, dq + o_offset,
         o_stride);
    gemm(true, false, width, dim, rows, shape.scale, dp, width, q_block, shape.q_stride, 1.0f, dk + d_offset,
         d_stride);
  }
}

}  // namespace

void attention_forward(const AttentionShape& shape, const float* q, const float* k, const float* v, float* out,
                       float* lse) {
  struct Task {
    int64_t segment, head, row;
  };
  std::vector<Task> tasks;
  for (int64_t s = 0; s < shape.segments; ++s)
    for (int64_t n = 0; n < shape.heads; ++n)
      for (int64_t i = shape.cu_q[s]; i < shape.cu_q[s + 1]; i += kQueryBlock)
        tasks.push_back({s, n, i - shape.cu_q[s]});
  parallel_tasks(
      static_cast<int64_t>(tasks.size()), [] { return std::vector<float>(); },
      [&](int64_t t, std::vector<float>& scores) {
        forward_block(shape, tasks[t].segment, tasks[t].head, tasks[t].row, q, k, v, out, lse, scores);
      });
}

void attention_backward(const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const float* out, const float* lse, const float* d_out, float* dq, float* dk, float* dv) {
  const int64_t group = shape.heads / shape.kv_heads, dim = shape.head_dim, d_stride = shape.kv_heads * dim;
  parallel_tasks(
      shape.segments * shape.kv_heads, [] { return BackwardBuffers(); },
      [&](int64_t t, BackwardBuffers& buffers) {
        const int64_t s = t / shape.kv_heads, h = t % shape.kv_heads;
        for (int64_t j = shape.cu_k[s]; j < shape.cu_k[s + 1]; ++j) {
          std::fill_n(dk + j * d_stride + h * dim, dim, 0.0f);
          std::fill_n(dv + j * d_stride + h * dim, dim, 0.0f);
        }
        for (int64_t n = h * group; n < (h + 1) * group; ++n)
          backward_head(shape, s, n, q, k, v, out, lse, d_out, dq, dk, dv, buffers);
      });
}

}  // namespace mix
