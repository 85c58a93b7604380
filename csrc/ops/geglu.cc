#include "ops/geglu.h"

#include "mix/parallel.h"
#include "mix/vector.h"
#include "ops/gelu_forms.h"

namespace mix {
namespace {

MIX_INLINE void forward_row_body(const float* x, int64_t F, float* out) {
  const float *value = x, *gate = x + F;
#pragma omp simd
  for (int64_t j = 0; j < F; ++j) out[j] = value[j] * gate[j] * Erf::share(gate[j]);
}
MIX_KERNEL(void, forward_row, (const float* x, int64_t F, float* out), (x, F, out))

MIX_INLINE void backward_row_body(const float* x, const float* d_out, int64_t F, float* dx) {
  const float *value = x, *gate = x + F;
  float *d_value = dx, *d_gate = dx + F;
#pragma omp simd
  for (int64_t j = 0; j < F; ++j) {
    const float g = gate[j], bell = Erf::bell(g), share = Erf::share_of(g, bell);
    d_value[j] = d_out[j] * g * share;
    d_gate[j] = d_out[j] * value[j] * Erf::slope_of(g, share, bell);
  }
}
MIX_KERNEL(void, backward_row, (const float* x, const float* d_out, int64_t F, float* dx), (x, d_out, F, dx))

}  // namespace

void geglu_forward(const float* x, int64_t R, int64_t F, float* out) {
#pragma omp parallel for schedule(static) if (R * F >= kWorthThreads)
  for (int64_t r = 0; r < R; ++r) forward_row(x + 2 * r * F, F, out + r * F);
}

void geglu_backward(const float* x, const float* d_out, int64_t R, int64_t F, float* dx) {
#pragma omp parallel for schedule(static) if (R * F >= kWorthThreads)
  for (int64_t r = 0; r < R; ++r) backward_row(x + 2 * r * F, d_out + r * F, F, dx + 2 * r * F);
}

}  // namespace mix
