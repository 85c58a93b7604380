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

// Calls run(threads) for other numbers of threads: they share rows, columns or both.
template <typename Run>
void with_threads(Run run) {
  const int before = omp_get_max_threads();
  for (const int threads : {1, 3, 4}) {
    omp_set_num_threads(threads);
    run(threads);
  }
  omp_set_num_threads(before);
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
      with_threads([&](int threads) {
        alone = before;
        product(alone);
        one.same("C with " + std::to_string(threads) + " threads", c, alone);
      });
    }
}

// Products of one left factor with matrices of several widths, two of them with a bias.
void gemm_each(int64_t m, int64_t k, std::vector<int64_t> widths, mix::Products products) {
  Case one("gemm_each " + std::to_string(m) + "x" + std::to_string(k));
  const Array a = draw(1, m * k);
  std::vector<Array> b, bias, c;
  std::vector<Exact> exact;
  for (const int64_t n : widths) {
    const int seed = static_cast<int>(b.size());
    b.push_back(draw(10 + seed, k * n)), bias.push_back(draw(20 + seed, n)), c.push_back(unwritten(m * n));
    exact.emplace_back(m * n);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = seed == 1 ? 0.0 : bias.back()[j];
        for (int64_t l = 0; l < k; ++l) sum += static_cast<double>(a[i * k + l]) * b.back()[l * n + j];
        exact.back()[i * n + j] = sum;
      }
  }
  const auto multiply = [&](std::vector<Array>& to) {
    std::vector<mix::Product> each;
    for (size_t i = 0; i < widths.size(); ++i)
      each.push_back({widths[i], b[i].data(), widths[i], i == 1 ? nullptr : bias[i].data(), to[i].data(), widths[i]});
    mix::gemm_each(false, false, m, k, a.data(), k, each.data(), static_cast<int64_t>(each.size()), products);
  };
  multiply(c);
  for (size_t i = 0; i < widths.size(); ++i) one.within(limit_of(products), "C", c[i], exact[i]);
  with_threads([&](int threads) {
    std::vector<Array> again;
    for (const int64_t n : widths) again.push_back(unwritten(m * n));
    multiply(again);
    for (size_t i = 0; i < widths.size(); ++i)
      one.same("C with " + std::to_string(threads) + " threads", c[i], again[i]);
  });
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
  const mix::LinearMap maps[] = {{O, weight.data(), nullptr, found.data()},
                                 {O, weight.data(), bias.data(), found_biased.data()}};
  mix::gemv_each(x.data(), R, I, maps, 2);
  mix::gemv_transposed(x.data(), weight.data(), R, I, O, found_transposed.data());
  one.forward("out", found, out);
  one.forward("with a bias", found_biased, biased);
  one.forward("transposed", found_transposed, transposed);
  Array again = unwritten(R * O);
  const mix::LinearMap map{O, weight.data(), nullptr, again.data()};
  mix::gemv_each(x.data(), R, I, &map, 1);
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
    gemm(131, 130, 1100, 1.0f, 0.0f, products);
    gemm_each(150, 300, {70, 33, 257}, products);
  }
  gemm(1700, 160, 130, 1.0f, 0.0f, Products::kFloat32);
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
