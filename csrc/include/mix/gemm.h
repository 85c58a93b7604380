// Matrix product of float32 on row-major pointers.
#pragma once

#include <cstdint>

namespace mix {

// How the factors enter a product; sums are float32 always.
//   kFloat32: with all 24 bits of their significands.
//   kBfloat16: rounded to bfloat16 first, where the processor has such products (has_bfloat16_products).
enum class Products { kFloat32, kBfloat16 };

// C[m, n] = alpha * op(A) op(B) + beta * C; ld* are the row strides as stored. Results do not depend on the number
// of threads. Inside an OpenMP parallel region the calling thread alone computes.
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc, Products products = Products::kFloat32);

// Whether kBfloat16 is another thing than kFloat32 on this processor.
bool has_bfloat16_products();

}  // namespace mix
