// gemm and gemv against plain double loops.
#include <omp.h>

#include "mix/gemm.h"
#include "ops/gemv.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

// Rows are longer than a matrix is wide: after each but the last lie `kGap` numbers that belong to nobody.
constexpr int64_t kGap = 3;

struct Matrix {
  int64_t rows, cols;

  int64_t stride() const { return cols + kGap; }
  int64_t numbers() const { return (rows - 1) * stride() + cols; }
};

double limit_of(mix::Products products) {
  switch (products) {
    case mix::Products::kBfloat16: return kNarrowLimit;
    case mix::Products::kGradient: return kGradientLimit;
    default: return kForwardLimit;
  }
}

// One shape with all transposes: C [m, n] = alpha op(A) op(B) + beta C.
void gemm(int64_t m, int64_t n, int64_t k, float alpha, float beta, mix::Products products) {
  const bool narrow = products == mix::Products::kBfloat16;
  for (const bool trans_a : {false, true})
    for (const bool trans_b : {false, true}) {
      Case one("gemm " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) +
               (trans_a ? " T" : " N") + (trans_b ? "T" : "N") + (beta != 0.0f ? ", added" : "") +
               (narrow ? ", narrow" : products == mix::Products::kGradient ? ", for a gradient" : ""));
      const Matrix of_a = trans_a ? Matrix{k, m} : Matrix{m, k}, of_b = trans_b ? Matrix{n, k} : Matrix{k, n};
      const Matrix of_c{m, n};
      const Array a = draw(1, of_a.numbers()), b = draw(2, of_b.numbers());
      // what beta = 0 overwrites may be anything, also NaN
      const Array before = beta == 0.0f ? unwritten(of_c.numbers()) : draw(3, of_c.numbers());
      Exact exact(m * n);
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0.0;
          for (int64_t l = 0; l < k; ++l)
            sum += static_cast<double>(a[trans_a ? l * of_a.stride() + i : i * of_a.stride() + l]) *
                   b[trans_b ? j * of_b.stride() + l : l * of_b.stride() + j];
          exact[i * n + j] = alpha * sum;
          if (beta != 0.0f) exact[i * n + j] += static_cast<double>(beta) * before[i * of_c.stride() + j];
        }
      const auto product = [&](Array& c) {
        mix::gemm(trans_a, trans_b, m, n, k, alpha, a.data(), of_a.stride(), b.data(), of_b.stride(), beta,
                  c.data(), of_c.stride(), products);
      };
      Array c = before, alone = before, found(m * n);
      product(c);
      bool gaps_kept = true;
      for (int64_t at = 0; at < of_c.numbers(); ++at) {
        const int64_t i = at / of_c.stride(), j = at % of_c.stride();
        if (j < n)
          found[i * n + j] = c[at];
        else
          gaps_kept = gaps_kept && (std::isnan(before[at]) ? std::isnan(c[at]) : c[at] == before[at]);
      }
      one.within(limit_of(products), "C", found, exact);
      one.that(gaps_kept, "numbers between the rows of C are changed");
      const int threads = omp_get_max_threads();
      omp_set_num_threads(1);
      product(alone);
      omp_set_num_threads(threads);
      one.same("C with one thread", c, alone);
    }
}

void gemv(int64_t R, int64_t I, int64_t O) {
  Case one("gemv " + std::to_string(R) + "x" + std::to_string(I) + "x" + std::to_string(O));
  const Array x = draw(1, R * I), weight = draw(2, I * O), bias = draw(3, O);
  Exact out(R * O, 0.0), biased(R * O), transposed(R * O, 0.0);
  for (int64_t r = 0; r < R; ++r)
    for (int64_t o = 0; o < O; ++o) {
      for (int64_t i = 0; i < I; ++i) {
        out[r * O + o] += static_cast<double>(x[r * I + i]) * weight[i * O + o];
        transposed[r * O + o] += static_cast<double>(x[r * I + i]) * weight[o * I + i];
      }
      biased[r * O + o] = out[r * O + o] + bias[o];
    }
  Array found = unwritten(R * O), found_biased = unwritten(R * O), found_transposed = unwritten(R * O);
  mix::gemv(x.data(), weight.data(), nullptr, R, I, O, found.data());
  mix::gemv(x.data(), weight.data(), bias.data(), R, I, O, found_biased.data());
  mix::gemv_transposed(x.data(), weight.data(), R, I, O, found_transposed.data());
  one.forward("out", found, out);
  one.forward("with a bias", found_biased, biased);
  one.forward("transposed", found_transposed, transposed);
  Array again = unwritten(R * O);
  mix::gemv(x.data(), weight.data(), nullptr, R, I, O, again.data());
  one.same("out", found, again);
}

}  // namespace

MIX_CASES(gemm) {
  using mix::Products;
  for (const Products products : {Products::kFloat32, Products::kGradient, Products::kBfloat16}) {
    gemm(1, 1, 1, 1.0f, 0.0f, products);
    gemm(7, 17, 33, 1.0f, 0.0f, products);
    gemm(17, 33, 65, -0.5f, 0.0f, products);
    gemm(65, 31, 64, 2.0f, 1.0f, products);
    gemm(129, 257, 259, 1.0f, 0.0f, products);
    gemm(129, 257, 300, 0.5f, -2.0f, products);
  }
}

MIX_CASES(gemv) {
  for (const int64_t R : {1, 3, 8}) {
    gemv(R, 1, 1);
    gemv(R, 7, 17);
    gemv(R, 64, 1);
    gemv(R, 65, 1025);
    gemv(R, 2051, 33);
  }
}
