// The compiler's vectors, for kernels whose sums shall stay in registers.
#pragma once

namespace mix {

template <int LANES>
struct Lanes {
  typedef float Vector __attribute__((vector_size(LANES * 4)));
  typedef float Anywhere __attribute__((vector_size(LANES * 4), aligned(4), may_alias));  // in memory
};

}  // namespace mix
