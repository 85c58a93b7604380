// The gate of a SwiGLU feed-forward block on the CPU: out = silu(gate) * up (Shazeer, 2020).
// All arrays have `count` elements.
#pragma once

#include <cstdint>

namespace mix {

void swiglu_forward(const float* gate, const float* up, int64_t count, float* out);

void swiglu_backward(const float* gate, const float* up, const float* d_out, int64_t count, float* d_gate,
                     float* d_up);

}  // namespace mix
