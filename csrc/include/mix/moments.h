// Mean and variance of a run of numbers in one pass over memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mix/vector.h"

namespace mix {

struct Moments {
  float mean;
  float variance;  // the biased one
};

// Each chunk is read twice, the second time from the nearest cache: squares are taken around its own mean, so
// nothing cancels where the mean is far from 0. Chunks are joined in double (Chan, Golub and LeVeque, 1983).
MIX_INLINE Moments moments(const float* x, int64_t count) {
  constexpr int64_t kChunk = 4096;
  double mean = 0.0, squares = 0.0;
  for (int64_t start = 0; start < count; start += kChunk) {
    const float* part = x + start;
    const int64_t n = std::min(kChunk, count - start);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; ++j) sum += part[j];
    const float centre = sum / static_cast<float>(n);
    float rest = 0.0f, around = 0.0f;
#pragma omp simd reduction(+ : rest, around)
    for (int64_t j = 0; j < n; ++j) {
      const float d = part[j] - centre;
      rest += d;
      around += d * d;
    }
    // `rest` is what the rounded mean left over.
    const double inside = static_cast<double>(rest) / n;
    const double shift = centre + inside - mean, share = static_cast<double>(n) / (start + n);
    squares += around - inside * rest + shift * shift * start * share;
    mean += shift * share;
  }
  return {static_cast<float>(mean), static_cast<float>(squares / count)};
}

}  // namespace mix
