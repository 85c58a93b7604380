#include "ops/attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "mix/gemm.h"
#include "mix/parallel.h"
#include "ops/attention_rows.h"
#include "ops/attention_tiles.h"

namespace mix {
namespace {

constexpr int64_t kQueryBlock = 64, kMostQueries = 256;
constexpr int64_t kScores = 1 << 16;  // of a block: with their gradients they fit the second-level cache

// Queries of a segment that are taken together: more where there are few keys, so that products are not too small.
// Causal ones and windows see fewer keys the fewer they are.
int64_t query_block(const AttentionShape& shape, int64_t segment) {
  const int64_t k_len = shape.cu_k[segment + 1] - shape.cu_k[segment];
  if (shape.causal || shape.window > 0 || k_len == 0) return kQueryBlock;
  return std::clamp(kScores / k_len / 16 * 16, kQueryBlock, kMostQueries);
}

void forward_block(const AttentionShape& shape, int64_t segment, int64_t head, int64_t i0, const float* q,
                   const float* k, const float* v, float* out, float* lse, std::vector<float>& scores) {
  const int64_t q0 = shape.cu_q[segment], q_len = shape.cu_q[segment + 1] - q0;
  const int64_t k0 = shape.cu_k[segment], k_len = shape.cu_k[segment + 1] - k0;
  const int64_t rows = std::min(query_block(shape, segment), q_len - i0), dim = shape.head_dim;
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
    const RowSum sum = exponential_row(row, width, std::max<int64_t>(0, own.begin - keys.begin), own.end - keys.begin);
    lse[(q0 + i0 + i) * shape.heads + head] = sum.log;
    scale_row(row, width, sum.inverse);
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
  const int64_t block = query_block(shape, segment);
  for (int64_t i0 = 0; i0 < q_len; i0 += block) {
    const int64_t rows = std::min(block, q_len - i0);
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
      probability_row(p_row, width, begin, end, lse[(q0 + i0 + i) * shape.heads + head]);
      const int64_t at = o_offset + i * o_stride;
      score_gradient_row(p_row, dp_row, width, begin, end, dot(out + at, d_out + at, dim));
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
  if (attention_on_tiles(shape)) return attention_forward_tiles(shape, q, k, v, out, lse);
  struct Task {
    int64_t segment, head, row;
  };
  std::vector<Task> tasks;
  for (int64_t s = 0; s < shape.segments; ++s)
    for (int64_t n = 0; n < shape.heads; ++n)
      for (int64_t i = shape.cu_q[s]; i < shape.cu_q[s + 1]; i += query_block(shape, s))
        tasks.push_back({s, n, i - shape.cu_q[s]});
  parallel_tasks(
      static_cast<int64_t>(tasks.size()), [] { return std::vector<float>(); },
      [&](int64_t t, std::vector<float>& scores) {
        forward_block(shape, tasks[t].segment, tasks[t].head, tasks[t].row, q, k, v, out, lse, scores);
      });
}

void attention_backward(const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const float* out, const float* lse, const float* d_out, float* dq, float* dk, float* dv) {
  if (attention_on_tiles(shape))
    return attention_backward_tiles(shape, q, k, v, out, lse, d_out, dq, dk, dv);
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
