// Gaussian error linear unit on the CPU in its three forms (Hendrycks and Gimpel, 2016), forward and backward.
// All arrays have `count` elements.
#pragma once

#include <cstdint>

namespace mix {

enum class GeluForm : int {
  kErf,    // x Phi(x), Phi the normal distribution
  kTanh,   // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
  kQuick,  // x sigmoid(1.702 x)
};

void gelu_forward(GeluForm form, const float* x, int64_t count, float* out);

void gelu_backward(GeluForm form, const float* x, const float* d_out, int64_t count, float* dx);

}  // namespace mix
