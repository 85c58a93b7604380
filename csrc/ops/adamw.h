// AdamW over many tensors in one call on the CPU, in place (Loshchilov and Hutter, 2019).
//
//   g = grad_scale * gradient,  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//   p = p (1 - rate * decay) - rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
//
// Called through ctypes: it updates parameters that autograd must not see.
#pragma once

#include <cstdint>

extern "C" {

struct MixAdamW {
  double learning_rate;
  double beta1;
  double beta2;
  double epsilon;
  double weight_decay;
  double grad_scale;
  int64_t step;  // t, from 1
};

void mix_adamw(const MixAdamW* settings, int64_t tensors, const int64_t* sizes, float* const* parameters,
               const float* const* gradients, float* const* means, float* const* squares);
}
