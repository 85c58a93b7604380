// Products of float32 matrices on units that multiply bfloat16: Intel's AMX, or AVX-512's dot product.
//
// A float32 number is the sum of three bfloat16 parts of 8 bits each. Of the nine products of parts, the six that
// reach above 2^-24 of the largest are summed in float32, which is as exact as a float32 product (Henry, Tang and
// Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019). With
// two parts, three products reach above 2^-16. One part is the product of factors rounded to bfloat16.
#pragma once

#include <cstdint>

#include "mix/gemm.h"

namespace mix {

struct Patches;  // patches.h

enum class TileUnit { kNone, kDotProduct, kAmx };

// What this processor has; MIX_CPU_ISA below `amx` hides AMX, below `avx512` both.
TileUnit tile_unit();

// In how many parts tiles take the factors of a product; 0: they are no gain. gemm.cc
int tile_parts(int64_t m, int64_t n, int64_t k, Products how);

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

// Factors that a kernel packs itself, to multiply them several times. A right factor holds its lanes in an order
// that only right factors have. Numbers beyond `lanes` and `depths` are 0, up to a whole block both ways.
struct Packed {
  const uint16_t* numbers;
  int64_t tiles;  // of depth, kPackedDepth each
};
constexpr int64_t kPackedDepth = 32;
constexpr int64_t kPackedLanes = 32;

int64_t packed_numbers(int parts, int64_t lanes, int64_t depths);
Packed pack_left(int parts, const Factor& from, int64_t lanes, int64_t depths, uint16_t* to);
Packed pack_right(int parts, const Factor& from, int64_t lanes, int64_t depths, uint16_t* to);

// A thread that multiplies packed factors holds one.
class TileThread {
 public:
  TileThread();
  ~TileThread();
  TileThread(const TileThread&) = delete;
  TileThread& operator=(const TileThread&) = delete;
};

// C[rows, columns] = alpha * A B, or that `add`ed to it, over tiles [begin, end) of B's depth and as many of A's from
// its first on. Both begin with the first lane packed.
void multiply_packed(int parts, const Packed& a, const Packed& b, int64_t rows, int64_t columns, int64_t begin,
                     int64_t end, float alpha, bool add, float* c, int64_t ldc);

// Where lane `lane` of a packed factor begins, a multiple of kPackedLanes.
Packed from_lane(int parts, const Packed& factor, int64_t lane);

// A right factor and where its product goes.
struct Right {
  Factor b;
  int64_t columns;
  const float* bias;  // [columns], begins the sums of each row; or null
  float* c;
  int64_t ldc;
  const Patches* patches = nullptr;  // in place of b
  bool by_tap = false;               // columns are the taps of the patches, else their places
};

// C[m, columns] = alpha * A B + bias + beta * C for each right factor, A packed once for all; factors are taken in
// `parts` (1, 2 or 3) parts. Infinities give NaN with more than one. Needs a tile_unit; the same bits for any number
// of threads.
void gemm_tiles(int parts, const Factor& a, const Right* rights, int64_t count, int64_t m, int64_t k, float alpha,
                float beta);

}  // namespace mix
