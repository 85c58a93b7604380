// What plain loops spend their time in: sums over rows of arrays that belong to the test. They are compiled
// for speed and without sanitizers, whatever the flags of the rest.
#pragma once

#include <cstdint>

#ifdef __clang__
#define MIX_PLAIN __attribute__((noinline, no_sanitize("address", "undefined")))
#else
#define MIX_PLAIN __attribute__((noinline, optimize("O3"), no_sanitize("address", "undefined")))
#endif

namespace mix {
namespace test {

template <typename T>
MIX_PLAIN double dot(const float* a, const T* b, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// sums += factor * row
template <typename T>
MIX_PLAIN void add_row(double factor, const T* row, int64_t count, double* sums) {
  for (int64_t i = 0; i < count; ++i) sums[i] += factor * static_cast<double>(row[i]);
}

}  // namespace test
}  // namespace mix
