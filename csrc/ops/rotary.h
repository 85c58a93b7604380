// Rotary position embedding in its half-rotation form on the CPU (Su et al., RoFormer, 2021).
// x, out [T, N, H]; cos, sin [T, H]. Row t of the tables serves all heads of token t, so 1-D, 2-D and 3-axis
// positions differ only in the tables.
#pragma once

#include <cstdint>

namespace mix {

// inverse = true applies the transposed rotation, which is the gradient.
void rotary(const float* x, const float* cos, const float* sin, int64_t tokens, int64_t heads, int64_t head_dim,
            bool inverse, float* out);

}  // namespace mix
