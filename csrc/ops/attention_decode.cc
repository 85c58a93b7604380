#include "ops/attention_decode.h"

#include <algorithm>
#include <vector>

#include "mix/gemm.h"
#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

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

}  // namespace

void attention_decode(const float* q, const float* k, const float* v, const int64_t* lengths, int64_t batch,
                      int64_t heads, int64_t kv_heads, int64_t slots, int64_t head_dim, float scale,
                      float* out) {
  const int64_t group = heads / kv_heads;
  parallel_tasks(
      batch * kv_heads, [] { return std::vector<float>(); },
      [&](int64_t task, std::vector<float>& scores) {
        const int64_t seen = lengths[task / kv_heads];
        const int64_t at = task * group * head_dim, cached = task * slots * head_dim;
        if (seen <= 0) {
          std::fill_n(out + at, group * head_dim, 0.0f);
          return;
        }
        scores.resize(std::max<size_t>(scores.size(), group * seen));
        gemm(false, true, group, seen, head_dim, scale, q + at, head_dim, k + cached, head_dim, 0.0f, scores.data(),
             seen);
        for (int64_t g = 0; g < group; ++g) softmax(scores.data() + g * seen, seen);
        gemm(false, false, group, head_dim, seen, 1.0f, scores.data(), seen, v + cached, head_dim, 0.0f, out + at,
             head_dim);
      });
}

}  // namespace mix
