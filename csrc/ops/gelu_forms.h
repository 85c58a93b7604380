// The three forms of the Gaussian error linear unit, a number at a time (Hendrycks and Gimpel, 2016).
#pragma once

#include "mix/vector.h"

namespace mix {

// Each form gives the share of x that passes, and d(x * share) / dx.

struct Erf {
  // Phi(x), given exp(-x^2 / 2). The tail Phi(-|x|) is that exponential times a polynomial in
  // t = 1 / (1 + |x| / 4), without its constant: a minimax fit on |x| <= 14, relative error 8e-9 before rounding.
  static MIX_INLINE float share_of(float x, float bell) {
    const float t = 1.0f / (1.0f + 0.25f * (x < 0.0f ? -x : x));
    float p = 1.657962228e-2f;
    p = p * t - 6.279198242e-2f;
    p = p * t + 5.165184839e-2f;
    p = p * t + 2.843665361e-2f;
    p = p * t + 1.271100398e-2f;
    p = p * t + 8.665743634e-2f;
    p = p * t + 7.199919257e-2f;
    p = p * t + 9.551577679e-2f;
    p = p * t + 9.949254853e-2f;
    p = p * t + 9.974790401e-2f;
    const float tail = p * t * bell;
    return x < 0.0f ? tail : 1.0f - tail;
  }
  static MIX_INLINE float bell(float x) { return fast_exp(-0.5f * x * x); }
  static MIX_INLINE float slope_of(float x, float share, float bell) {
    return share + x * bell * 0.398942280f;  // 1 / sqrt(2 pi)
  }
  static MIX_INLINE float share(float x) { return share_of(x, bell(x)); }
  static MIX_INLINE float slope(float x) {
    const float b = bell(x);
    return slope_of(x, share_of(x, b), b);
  }
};

struct Tanh {
  static constexpr float kLinear = 1.59576912f, kCubic = 0.0713548163f;  // 2 sqrt(2 / pi), and 0.044715 of it
  // Beyond 12 the share is 0 or 1; the cube must not overflow.
  static MIX_INLINE float bounded(float x) { return x < -12.0f ? -12.0f : (x > 12.0f ? 12.0f : x); }
  static MIX_INLINE float share(float x) {
    const float b = bounded(x);
    return sigmoid(b * (kLinear + kCubic * b * b));
  }
  static MIX_INLINE float slope(float x) {
    const float b = bounded(x), s = sigmoid(b * (kLinear + kCubic * b * b));
    return s + b * s * (1.0f - s) * (kLinear + 3.0f * kCubic * b * b);
  }
};

struct Quick {
  static MIX_INLINE float share(float x) { return sigmoid(1.702f * x); }
  static MIX_INLINE float slope(float x) {
    const float s = sigmoid(1.702f * x);
    return s + 1.702f * x * s * (1.0f - s);
  }
};

}  // namespace mix
