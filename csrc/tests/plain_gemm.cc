// The one function of a BLAS that the kernels call, for programs that run without Paddle's libraries.
// Sums are double: a test then shows the errors of the kernels, not those of this product.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tests/plain_rows.h"

extern "C" void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                            const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc) {
  constexpr int kRowMajor = 101, kTrans = 112;
  const bool ta = trans_a == kTrans, tb = trans_b == kTrans;
  if (order != kRowMajor || lda < (ta ? m : k) || ldb < (tb ? k : n) || ldc < n) {
    std::fprintf(stderr, "cblas_sgemm: order %d, m %d, n %d, k %d do not fit lda %d, ldb %d, ldc %d\n", order, m,
                 n, k, lda, ldb, ldc);
    std::abort();
  }
  std::vector<double> right(static_cast<size_t>(k) * n), sums(n);  // op(B), each number of it read once
  for (int64_t l = 0; l < k; ++l)
    for (int64_t j = 0; j < n; ++j) right[l * n + j] = b[tb ? j * ldb + l : l * ldb + j];
  for (int64_t i = 0; i < m; ++i) {
    sums.assign(n, 0.0);
    for (int64_t l = 0; l < k; ++l)
      mix::test::add_row(a[ta ? l * lda + i : i * lda + l], right.data() + l * n, n, sums.data());
    for (int64_t j = 0; j < n; ++j) {
      float& out = c[i * ldc + j];
      out = static_cast<float>(alpha * sums[j] + (beta == 0.0f ? 0.0 : static_cast<double>(beta) * out));
    }
  }
}
