// Products of float32 matrices on units that multiply bfloat16: Intel's AMX, or AVX-512's dot product.
//
// A float32 number is the sum of three bfloat16 parts of 8 bits each. Of the nine products of parts, the six that
// reach above 2^-24 of the largest are summed in float32, which is as exact as a float32 product (Henry, Tang and
// Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019). One
// part instead of three is the product of factors rounded to bfloat16.
#pragma once

#include <cstdint>

namespace mix {

enum class TileUnit { kNone, kDotProduct, kAmx };

// What this processor has; MIX_CPU_ISA below `amx` hides AMX, below `avx512` both.
TileUnit tile_unit();

// A factor of a product. Lanes are rows of C for the left one, columns for the right one; `depth_inner` says that
// a lane's numbers along the shared axis lie side by side, else the lanes of one depth do.
struct Factor {
  const float* numbers;
  int64_t stride;  // floats from one lane (or depth) to the next
  bool depth_inner;

  const float* at(int64_t lane, int64_t depth) const {
    return numbers + (depth_inner ? lane * stride + depth : depth * stride + lane);
  }
};

// C[m, n] = alpha * A B + beta * C, each factor in `parts` (1 or 3) parts. Infinities give NaN with three parts.
// Needs a tile_unit; the same bits for any number of threads.
void gemm_tiles(int parts, const Factor& a, const Factor& b, int64_t m, int64_t n, int64_t k, float alpha,
                float beta, float* c, int64_t ldc);

}  // namespace mix
