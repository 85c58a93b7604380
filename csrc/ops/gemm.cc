// Which routine computes a product: tiles where the processor has a unit for them and the product is large enough to
// pay for the packing, else the BLAS that Paddle's wheel carries.
#include "mix/gemm.h"

#include <omp.h>

#include "ops/gemm_tiles.h"

extern "C" void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a,
                            int lda, const float* b, int ldb, float beta, float* c, int ldc);

namespace mix {
namespace {

// Below these the packing costs more than the tiles save (docs/performance.md).
bool pays(int64_t m, int64_t n, int64_t k) { return m >= 128 && n >= 256 && k >= 256 && !omp_in_parallel(); }

}  // namespace

bool has_bfloat16_products() { return tile_unit() != TileUnit::kNone; }

void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc, Products products) {
  const Factor left{a, lda, !trans_a}, right{b, ldb, trans_b};
  // of a few rows (a token that is decoded) rounding the weights costs more than the product
  if (products == Products::kBfloat16 && has_bfloat16_products() && m >= 16 && !omp_in_parallel())
    return gemm_tiles(1, left, right, m, n, k, alpha, beta, c, ldc);
  if (tile_unit() == TileUnit::kAmx && pays(m, n, k))
    return gemm_tiles(3, left, right, m, n, k, alpha, beta, c, ldc);
  constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;
  cblas_sgemm(kRowMajor, trans_a ? kTrans : kNoTrans, trans_b ? kTrans : kNoTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), alpha, a, static_cast<int>(lda), b, static_cast<int>(ldb),
              beta, c, static_cast<int>(ldc));
}

}  // namespace mix

extern "C" __attribute__((visibility("default"))) int mix_has_bfloat16_products() {
  return mix::has_bfloat16_products() ? 1 : 0;
}
