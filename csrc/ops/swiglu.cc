#include "ops/swiglu.h"

#include <algorithm>

#include "mix/vector.h"

namespace mix {
namespace {

constexpr int64_t kChunk = 4096;

MIX_INLINE void forward_chunk_body(const float* gate, const float* up, int64_t n, float* out) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) out[j] = gate[j] * sigmoid(gate[j]) * up[j];
}
MIX_KERNEL(void, forward_chunk, (const float* gate, const float* up, int64_t n, float* out), (gate, up, n, out))

MIX_INLINE void backward_chunk_body(const float* gate, const float* up, const float* d_out, int64_t n, float* d_gate,
                               float* d_up) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const float s = sigmoid(gate[j]), silu = gate[j] * s;
    d_gate[j] = d_out[j] * up[j] * (s + silu * (1.0f - s));
    d_up[j] = d_out[j] * silu;
  }
}
MIX_KERNEL(void, backward_chunk, (const float* gate, const float* up, const float* d_out, int64_t n, float* d_gate, float* d_up), (gate, up, d_out, n, d_gate, d_up))

}  // namespace

void swiglu_forward(const float* gate, const float* up, int64_t count, float* out) {
#pragma omp parallel for schedule(static) if (count > kChunk)
  for (int64_t i = 0; i < count; i += kChunk)
    forward_chunk(gate + i, up + i, std::min(kChunk, count - i), out + i);
}

void swiglu_backward(const float* gate, const float* up, const float* d_out, int64_t count, float* d_gate,
                     float* d_up) {
#pragma omp parallel for schedule(static) if (count > kChunk)
  for (int64_t i = 0; i < count; i += kChunk)
    backward_chunk(gate + i, up + i, d_out + i, std::min(kChunk, count - i), d_gate + i, d_up + i);
}

}  // namespace mix
