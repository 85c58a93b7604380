// The gate of a GEGLU feed-forward block on the CPU: out = value * gelu(gate), gelu in its exact form (Shazeer, 2020).
// R rows, F feed-forward width. x and dx are [R, 2 F], a row's values before its gates; out and d_out are [R, F].
#pragma once

#include <cstdint>

namespace mix {

void geglu_forward(const float* x, int64_t R, int64_t F, float* out);

void geglu_backward(const float* x, const float* d_out, int64_t R, int64_t F, float* dx);

}  // namespace mix
