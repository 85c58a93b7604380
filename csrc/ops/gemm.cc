// Which routine computes a product: tiles where the processor has a unit for them and the product is large enough to
// pay for the packing, else the BLAS that Paddle's wheel carries.
#include "mix/gemm.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "ops/gemm_tiles.h"

extern "C" void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a,
                            int lda, const float* b, int ldb, float beta, float* c, int ldc);

namespace mix {
namespace {

void by_blas(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
             const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;
  cblas_sgemm(kRowMajor, trans_a ? kTrans : kNoTrans, trans_b ? kTrans : kNoTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), alpha, a, static_cast<int>(lda), b, static_cast<int>(ldb),
              beta, c, static_cast<int>(ldc));
}

}  // namespace

int tile_parts(int64_t m, int64_t n, int64_t k, Products how) {
  if (omp_in_parallel()) return 0;
  // of a few rows (a token that is decoded) rounding the weights costs more than the product
  if (how == Products::kBfloat16 && has_bfloat16_products() && m >= 16) return 1;
  if (tile_unit() != TileUnit::kAmx || std::min({m, n, k}) < 64) return 0;
  // below these the packing costs more than the tiles save (docs/performance.md)
  const int64_t numbers = m * n * k;
  const bool pays = how == Products::kGradient ? numbers > int64_t{1} << 21
                                               : numbers >= int64_t{1} << 22 && m >= 96 && std::max(m, n) >= 256;
  if (!pays) return 0;
  return how == Products::kGradient ? 2 : 3;
}

bool has_bfloat16_products() { return tile_unit() != TileUnit::kNone; }

void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc, Products products) {
  const int parts = tile_parts(m, n, k, products);
  if (parts == 0) return by_blas(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  const Right right{{b, ldb, trans_b}, n, nullptr, c, ldc};
  gemm_tiles(parts, {a, lda, !trans_a}, &right, 1, m, k, alpha, beta);
}

void gemm_each(bool trans_a, bool trans_b, int64_t m, int64_t k, const float* a, int64_t lda, const Product* products,
               int64_t count, Products how) {
  int64_t columns = 0;
  for (int64_t i = 0; i < count; ++i) columns += products[i].n;
  const int parts = tile_parts(m, columns, k, how);
  if (parts != 0) {
    std::vector<Right> rights;
    for (int64_t i = 0; i < count; ++i)
      rights.push_back({{products[i].b, products[i].ldb, trans_b}, products[i].n, products[i].bias, products[i].c,
                        products[i].ldc});
    return gemm_tiles(parts, {a, lda, !trans_a}, rights.data(), count, m, k, 1.0f, 0.0f);
  }
  for (int64_t i = 0; i < count; ++i) {
    const Product& one = products[i];
    if (one.bias != nullptr) {
#pragma omp parallel for schedule(static)
      for (int64_t r = 0; r < m; ++r) std::copy_n(one.bias, one.n, one.c + r * one.ldc);
    }
    by_blas(trans_a, trans_b, m, one.n, k, 1.0f, a, lda, one.b, one.ldb, one.bias == nullptr ? 0.0f : 1.0f, one.c,
            one.ldc);
  }
}

}  // namespace mix

extern "C" __attribute__((visibility("default"))) int mix_has_bfloat16_products() {
  return mix::has_bfloat16_products() ? 1 : 0;
}
