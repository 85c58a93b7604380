#include "ops/attention_decode.h"

#include <algorithm>
#include <vector>

#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

constexpr int64_t kBlock = 128;

// x <- softmax(x).
MIX_INLINE void softmax_body(float* x, int64_t n) {
  float top = x[0];
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < n; ++j) top = x[j] > top ? x[j] : top;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    x[j] = fast_exp(x[j] - top);
    sum += x[j];
  }
  const float inverse = 1.0f / sum;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) x[j] *= inverse;
}
MIX_KERNEL(void, softmax, (float* x, int64_t n), (x, n))

// scores[G, seen] = scale * q[G, H] k[seen, H]^T; each key is read once, four of them side by side.
MIX_INLINE void score_keys_body(const float* q, int64_t group, const float* k, int64_t seen, int64_t head_dim,
                                float scale, float* scores) {
  int64_t s = 0;
  for (; s + 4 <= seen; s += 4, k += 4 * head_dim)
    for (int64_t g = 0; g < group; ++g) {
      const float *const query = q + g * head_dim, *const l = k + head_dim, *const m = l + head_dim,
                        *const n = m + head_dim;
      float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
#pragma omp simd reduction(+ : a, b, c, d)
      for (int64_t h = 0; h < head_dim; ++h) {
        a += query[h] * k[h];
        b += query[h] * l[h];
        c += query[h] * m[h];
        d += query[h] * n[h];
      }
      float* const to = scores + g * seen + s;
      to[0] = scale * a, to[1] = scale * b, to[2] = scale * c, to[3] = scale * d;
    }
  for (; s < seen; ++s, k += head_dim)
    for (int64_t g = 0; g < group; ++g) {
      const float* const query = q + g * head_dim;
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t h = 0; h < head_dim; ++h) sum += query[h] * k[h];
      scores[g * seen + s] = scale * sum;
    }
}
MIX_KERNEL(void, score_keys,
           (const float* q, int64_t group, const float* k, int64_t seen, int64_t head_dim, float scale, float* scores),
           (q, group, k, seen, head_dim, scale, scores))

// out[G, H] = weights[G, seen] v[seen, H], in blocks of values: sums of thousands of terms would lose digits.
MIX_INLINE void sum_values_body(const float* weights, int64_t group, const float* v, int64_t seen, int64_t head_dim,
                                float* block, float* out) {
  for (int64_t i = 0; i < group * head_dim; ++i) out[i] = 0.0f;
  for (int64_t begin = 0; begin < seen; begin += kBlock) {
    const int64_t end = begin + kBlock < seen ? begin + kBlock : seen;
    for (int64_t i = 0; i < group * head_dim; ++i) block[i] = 0.0f;
    int64_t s = begin;
    for (; s + 4 <= end; s += 4)
      for (int64_t g = 0; g < group; ++g) {
        const float *const w = weights + g * seen + s, *const x = v + s * head_dim;
        float* const sum = block + g * head_dim;
#pragma omp simd
        for (int64_t h = 0; h < head_dim; ++h)
          sum[h] += (w[0] * x[h] + w[1] * x[head_dim + h]) + (w[2] * x[2 * head_dim + h] + w[3] * x[3 * head_dim + h]);
      }
    for (; s < end; ++s)
      for (int64_t g = 0; g < group; ++g) {
        const float weight = weights[g * seen + s], *const x = v + s * head_dim;
        float* const sum = block + g * head_dim;
#pragma omp simd
        for (int64_t h = 0; h < head_dim; ++h) sum[h] += weight * x[h];
      }
#pragma omp simd
    for (int64_t i = 0; i < group * head_dim; ++i) out[i] += block[i];
  }
}
MIX_KERNEL(void, sum_values,
           (const float* weights, int64_t group, const float* v, int64_t seen, int64_t head_dim, float* block,
            float* out),
           (weights, group, v, seen, head_dim, block, out))

}  // namespace

void attend_group(const DecodeGroup& of, std::vector<float>& scores, float* out) {
  const int64_t numbers = of.group * of.head_dim;
  if (of.seen <= 0) {
    std::fill_n(out, numbers, 0.0f);
    return;
  }
  scores.resize(std::max<size_t>(scores.size(), of.group * (of.seen + of.head_dim)));
  score_keys(of.q, of.group, of.k, of.seen, of.head_dim, of.scale, scores.data());
  for (int64_t g = 0; g < of.group; ++g) softmax(scores.data() + g * of.seen, of.seen);
  sum_values(scores.data(), of.group, of.v, of.seen, of.head_dim, scores.data() + of.group * of.seen, out);
}

void attention_decode(const float* q, const float* k, const float* v, const int64_t* lengths, int64_t batch,
                      int64_t heads, int64_t kv_heads, int64_t slots, int64_t head_dim, float scale,
                      float* out) {
  const int64_t group = heads / kv_heads;
  parallel_tasks(
      batch * kv_heads, [] { return std::vector<float>(); },
      [&](int64_t task, std::vector<float>& scores) {
        const int64_t at = task * group * head_dim, cached = task * slots * head_dim;
        attend_group({q + at, k + cached, v + cached, lengths[task / kv_heads], group, head_dim, scale}, scores,
                     out + at);
      });
}

}  // namespace mix
