// Matrix product of float32 on row-major pointers.
#pragma once

#include <cstdint>

namespace mix {

// How the factors enter a product; sums are float32 always.
//   kFloat32: with all 24 bits of their significands; within 1e-6 of float64, relative in norm.
//   kGradient: with 16 bits at least, within 1e-5; what the backward passes of float32 operators ask for.
//   kBfloat16: rounded to bfloat16 first, where the processor has such products (has_bfloat16_products).
enum class Products { kFloat32, kGradient, kBfloat16 };

// The products of a backward pass whose forward pass has these.
constexpr Products backward_of(Products forward) {
  return forward == Products::kFloat32 ? Products::kGradient : forward;
}

// C[m, n] = alpha * op(A) op(B) + beta * C; ld* are the row strides as stored. Results do not depend on the number
// of threads. Inside an OpenMP parallel region the calling thread alone computes.
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc, Products products = Products::kFloat32);

// One product of several that have the left factor in common.
struct Product {
  int64_t n;
  const float* b;
  int64_t ldb;
  const float* bias;  // [n], added to each row of C; or null
  float* c;
  int64_t ldc;
};

// C[m, n] = op(A) op(B) + bias for each of `products`.
void gemm_each(bool trans_a, bool trans_b, int64_t m, int64_t k, const float* a, int64_t lda, const Product* products,
               int64_t count, Products how);

// Whether kBfloat16 is another thing than kFloat32 on this processor.
bool has_bfloat16_products();

}  // namespace mix
