#include "ops/rotary.h"

#include "mix/vector.h"

namespace mix {
namespace {

MIX_INLINE void rotate_body(const float* x, const float* cos, const float* sin, int64_t half, float* out) {
#pragma omp simd
  for (int64_t j = 0; j < half; ++j) {
    const float low = x[j], high = x[j + half];
    out[j] = low * cos[j] - high * sin[j];
    out[j + half] = high * cos[j + half] + low * sin[j + half];
  }
}
MIX_KERNEL(void, rotate, (const float* x, const float* cos, const float* sin, int64_t half, float* out), (x, cos, sin, half, out))

MIX_INLINE void rotate_back_body(const float* x, const float* cos, const float* sin, int64_t half, float* out) {
#pragma omp simd
  for (int64_t j = 0; j < half; ++j) {
    const float low = x[j], high = x[j + half];
    out[j] = low * cos[j] + high * sin[j + half];
    out[j + half] = high * cos[j + half] - low * sin[j];
  }
}
MIX_KERNEL(void, rotate_back, (const float* x, const float* cos, const float* sin, int64_t half, float* out), (x, cos, sin, half, out))

}  // namespace

void rotary(const float* x, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t head_dim,
            bool inverse, float* out) {
  const int64_t half = head_dim / 2;
#pragma omp parallel for schedule(static) if (tokens > 1)
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t n = 0; n < heads; ++n) {
      const int64_t at = (t * heads + n) * head_dim;
      (inverse ? rotate_back : rotate)(x + at, cos + t * head_dim, sin + t * head_dim, half, out + at);
    }
  }
}

}  // namespace mix
