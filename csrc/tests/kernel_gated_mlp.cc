// gated_mlp, and several linear maps of one x, against plain double loops.
#include "ops/gated_mlp.h"
#include "ops/linear.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

// out[m, n] = a b + bias, of row-major a [m, k] and b [k, n]
Exact product(const Exact& a, const Exact& b, const Exact& bias, int64_t m, int64_t k) {
  const int64_t n = static_cast<int64_t>(b.size()) / k;
  Exact out(m * n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias.empty() ? 0.0 : bias[j];
      for (int64_t l = 0; l < k; ++l) sum += a[i * k + l] * b[l * n + j];
      out[i * n + j] = sum;
    }
  return out;
}

Exact transposed(const Exact& a, int64_t rows) {
  const int64_t columns = static_cast<int64_t>(a.size()) / rows;
  Exact out(a.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = a[i * columns + j];
  return out;
}

Exact column_sums(const Exact& a, int64_t rows) {
  return product(Exact(rows, 1.0), a, {}, 1, rows);
}

Exact exact(const Array& values) { return Exact(values.begin(), values.end()); }

// Weights are small enough for images of order 1.
void gated_mlp(int64_t R, int64_t D, int64_t F, int64_t O, bool narrow = false) {
  Case one("gated_mlp " + std::to_string(R) + "x" + std::to_string(D) + "x" + std::to_string(F) + "x" +
           std::to_string(O) + (narrow ? ", narrow" : ""));
  const float of_d = 1.0f / std::sqrt(static_cast<float>(D)), of_f = 1.0f / std::sqrt(static_cast<float>(F));
  const Array x = draw(1, R * D), gate = draw(2, D * F, of_d), up = draw(3, D * F, of_d), down = draw(4, F * O, of_f);
  const Array gate_bias = draw(5, F), up_bias = draw(6, F), down_bias = draw(7, O), d_out = draw(8, R * O);
  const Exact of_gate = product(exact(x), exact(gate), exact(gate_bias), R, D);
  const Exact of_up = product(exact(x), exact(up), exact(up_bias), R, D);
  Exact h(R * F), slope(R * F), silu(R * F);
  for (int64_t i = 0; i < R * F; ++i) {
    const double sigmoid = 1.0 / (1.0 + std::exp(-of_gate[i]));
    silu[i] = of_gate[i] * sigmoid;
    h[i] = silu[i] * of_up[i];
    slope[i] = of_up[i] * (sigmoid + silu[i] * (1.0 - sigmoid));
  }
  const Exact dh = product(exact(d_out), transposed(exact(down), F), {}, R, O);
  Exact d_gated(R * F), d_raised(R * F);
  for (int64_t i = 0; i < R * F; ++i) d_gated[i] = dh[i] * slope[i], d_raised[i] = dh[i] * silu[i];
  Exact dx = product(d_gated, transposed(exact(gate), D), {}, R, F);
  const Exact by_up = product(d_raised, transposed(exact(up), D), {}, R, F);
  for (int64_t i = 0; i < R * D; ++i) dx[i] += by_up[i];

  const mix::GatedMLP mlp{R, D, F, O, gate.data(), up.data(), down.data(), gate_bias.data(), up_bias.data(),
                          down_bias.data(), narrow ? mix::Products::kBfloat16 : mix::Products::kFloat32};
  Array gated = unwritten(R * F), raised = unwritten(R * F), out = unwritten(R * O);
  mix::gated_mlp_forward(mlp, x.data(), gated.data(), raised.data(), out.data());
  one.within(narrow ? kNarrowLimit : kForwardLimit, "out", out, product(h, exact(down), exact(down_bias), R, F));

  Array found_dx = unwritten(R * D);
  Array d_gate = unwritten(D * F), d_up = unwritten(D * F), d_down = unwritten(F * O);
  Array d_gate_bias = unwritten(F), d_up_bias = unwritten(F), d_down_bias = unwritten(O);
  mix::gated_mlp_backward(mlp, x.data(), gated.data(), raised.data(), d_out.data(),
                          {found_dx.data(), d_gate.data(), d_up.data(), d_down.data(), d_gate_bias.data(),
                           d_up_bias.data(), d_down_bias.data()});
  const double limit = narrow ? kNarrowLimit : kGradientLimit;
  one.within(limit, "dx", found_dx, dx);
  one.within(limit, "dgate", d_gate, product(transposed(exact(x), R), d_gated, {}, D, R));
  one.within(limit, "dup", d_up, product(transposed(exact(x), R), d_raised, {}, D, R));
  one.within(limit, "ddown", d_down, product(transposed(h, R), exact(d_out), {}, F, R));
  one.within(limit, "dgate_bias", d_gate_bias, column_sums(d_gated, R));
  one.within(limit, "dup_bias", d_up_bias, column_sums(d_raised, R));
  one.gradient("ddown_bias", d_down_bias, column_sums(exact(d_out), R));

  // without what was kept, everything comes out the same
  Array again_dx = unwritten(R * D), again_gate = unwritten(D * F);
  mix::gated_mlp_backward(mlp, x.data(), nullptr, nullptr, d_out.data(),
                          {again_dx.data(), again_gate.data()});
  one.same("dx, nothing kept", found_dx, again_dx);
  one.same("dgate, nothing kept", d_gate, again_gate);

  Array again = unwritten(R * O);
  mix::gated_mlp_forward(mlp, x.data(), nullptr, nullptr, again.data());
  one.same("out, nothing kept", out, again);
  const Array before = found_dx;
  mix::gated_mlp_backward(mlp, x.data(), gated.data(), raised.data(), d_out.data(), {});
  one.same("dx that was not asked for", before, found_dx);
}

void maps(int64_t R, int64_t I, std::vector<int64_t> widths) {
  Case one("maps of one x " + std::to_string(R) + "x" + std::to_string(I));
  const Array x = draw(1, R * I);
  Exact dx(R * I, 0.0);
  std::vector<Array> weights, biases, outs, d_outs, d_weights;
  std::vector<mix::LinearMap> forward;
  std::vector<mix::LinearGradient> backward;
  for (size_t i = 0; i < widths.size(); ++i) {
    const unsigned seed = static_cast<unsigned>(10 * i);
    weights.push_back(draw(seed + 2, I * widths[i]));
    biases.push_back(draw(seed + 3, widths[i]));
    d_outs.push_back(draw(seed + 4, R * widths[i]));
    outs.push_back(unwritten(R * widths[i]));
    d_weights.push_back(unwritten(I * widths[i]));
    const Exact back = product(exact(d_outs[i]), transposed(exact(weights[i]), I), {}, R, widths[i]);
    for (int64_t j = 0; j < R * I; ++j) dx[j] += back[j];
    const float* const bias = i == 0 ? nullptr : biases[i].data();
    forward.push_back({widths[i], weights[i].data(), bias, outs[i].data()});
    backward.push_back({widths[i], weights[i].data(), d_outs[i].data(), d_weights[i].data(), nullptr});
  }
  const mix::LinearShape shape{R, I, mix::Products::kFloat32};
  const int64_t count = static_cast<int64_t>(widths.size());
  mix::linear_forward(shape, x.data(), forward.data(), count);
  Array found_dx = unwritten(R * I);
  mix::linear_backward(shape, x.data(), backward.data(), count, found_dx.data());
  one.gradient("dx", found_dx, dx);
  for (size_t i = 0; i < widths.size(); ++i) {
    const Exact bias = i == 0 ? Exact() : exact(biases[i]);
    one.forward("out", outs[i], product(exact(x), exact(weights[i]), bias, R, I));
    one.gradient("dweight", d_weights[i], product(transposed(exact(x), R), exact(d_outs[i]), {}, I, R));
  }
}

}  // namespace

MIX_CASES(gated_mlp) {
  gated_mlp(1, 1, 1, 1);
  gated_mlp(7, 17, 33, 5);
  gated_mlp(9, 64, 65, 64);
  gated_mlp(129, 257, 300, 256);
  gated_mlp(129, 257, 300, 256, true);
}

MIX_CASES(maps) {
  maps(1, 7, {3, 1, 17});
  maps(65, 33, {64, 7, 7});
  maps(130, 256, {190, 65, 33});
}
