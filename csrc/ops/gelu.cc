#include "ops/gelu.h"

#include <algorithm>

#include "mix/parallel.h"
#include "mix/vector.h"
#include "ops/gelu_forms.h"

namespace mix {
namespace {

constexpr int64_t kChunk = 4096;

template <typename Form>
MIX_INLINE void forward_form(const float* x, int64_t n, float* out) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) out[j] = x[j] * Form::share(x[j]);
}

template <typename Form>
MIX_INLINE void backward_form(const float* x, const float* d_out, int64_t n, float* dx) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) dx[j] = d_out[j] * Form::slope(x[j]);
}

MIX_INLINE void forward_chunk_body(GeluForm form, const float* x, int64_t n, float* out) {
  if (form == GeluForm::kErf) return forward_form<Erf>(x, n, out);
  if (form == GeluForm::kTanh) return forward_form<Tanh>(x, n, out);
  forward_form<Quick>(x, n, out);
}
MIX_KERNEL(void, forward_chunk, (GeluForm form, const float* x, int64_t n, float* out), (form, x, n, out))

MIX_INLINE void backward_chunk_body(GeluForm form, const float* x, const float* d_out, int64_t n, float* dx) {
  if (form == GeluForm::kErf) return backward_form<Erf>(x, d_out, n, dx);
  if (form == GeluForm::kTanh) return backward_form<Tanh>(x, d_out, n, dx);
  backward_form<Quick>(x, d_out, n, dx);
}
MIX_KERNEL(void, backward_chunk, (GeluForm form, const float* x, const float* d_out, int64_t n, float* dx),
           (form, x, d_out, n, dx))

}  // namespace

void gelu_forward(GeluForm form, const float* x, int64_t count, float* out) {
#pragma omp parallel for schedule(static) if (count >= kWorthThreads)
  for (int64_t i = 0; i < count; i += kChunk) forward_chunk(form, x + i, std::min(kChunk, count - i), out + i);
}

void gelu_backward(GeluForm form, const float* x, const float* d_out, int64_t count, float* dx) {
#pragma omp parallel for schedule(static) if (count >= kWorthThreads)
  for (int64_t i = 0; i < count; i += kChunk)
    backward_chunk(form, x + i, d_out + i, std::min(kChunk, count - i), dx + i);
}

}  // namespace mix
