#include "ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

constexpr int64_t kChunk = 1 << 14;

// The settings as the inner loop needs them, corrections for the moments' start at zero folded in.
struct Update {
  float beta1, beta2, keep1, keep2, scale, shrink, rate, root_correction, epsilon;
};

MIX_INLINE void update_chunk_body(const Update& u, int64_t n, float* p, const float* gradient, float* m, float* v) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const float g = gradient[j] * u.scale;
    m[j] = u.beta1 * m[j] + u.keep1 * g;
    v[j] = u.beta2 * v[j] + u.keep2 * g * g;
    p[j] = p[j] * u.shrink - u.rate * m[j] / (std::sqrt(v[j]) * u.root_correction + u.epsilon);
  }
}
MIX_KERNEL(void, update_chunk, (const Update& u, int64_t n, float* p, const float* gradient, float* m, float* v),
           (u, n, p, gradient, m, v))

}  // namespace
}  // namespace mix

void mix_adamw(const MixAdamW* s, int64_t tensors, const int64_t* sizes, float* const* parameters,
               const float* const* gradients, float* const* means, float* const* squares) {
  const double correction1 = 1.0 - std::pow(s->beta1, static_cast<double>(s->step));
  const double correction2 = 1.0 - std::pow(s->beta2, static_cast<double>(s->step));
  const mix::Update update{static_cast<float>(s->beta1),
                           static_cast<float>(s->beta2),
                           static_cast<float>(1.0 - s->beta1),
                           static_cast<float>(1.0 - s->beta2),
                           static_cast<float>(s->grad_scale),
                           static_cast<float>(1.0 - s->learning_rate * s->weight_decay),
                           static_cast<float>(s->learning_rate / correction1),
                           static_cast<float>(1.0 / std::sqrt(correction2)),
                           static_cast<float>(s->epsilon)};
  struct Chunk {
    int64_t tensor, begin;
  };
  std::vector<Chunk> chunks;
  for (int64_t t = 0; t < tensors; ++t)
    for (int64_t begin = 0; begin < sizes[t]; begin += mix::kChunk) chunks.push_back({t, begin});
  mix::parallel_tasks(
      static_cast<int64_t>(chunks.size()), [] { return 0; },
      [&](int64_t i, int) {
        const auto [t, begin] = chunks[i];
        mix::update_chunk(update, std::min(mix::kChunk, sizes[t] - begin), parameters[t] + begin,
                          gradients[t] + begin, means[t] + begin, squares[t] + begin);
      });
}
