// Linear maps and the feed-forward block with adapters, against plain double loops.
// Shapes: R rows, I inputs, O outputs, K rank.
#include "ops/gated_mlp.h"
#include "ops/linear.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

constexpr float kScale = 0.75f;

Exact exact(const Array& values) { return Exact(values.begin(), values.end()); }

// a [m, k] b [k, n], a or b as its transpose where told so
Exact product(const Exact& a, const Exact& b, int64_t m, int64_t k, bool turn_a = false, bool turn_b = false) {
  const int64_t n = static_cast<int64_t>(b.size()) / k;
  Exact out(m * n, 0.0);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t l = 0; l < k; ++l) {
      const double left = a[turn_a ? l * m + i : i * k + l];
      for (int64_t j = 0; j < n; ++j) out[i * n + j] += left * b[turn_b ? j * k + l : l * n + j];
    }
  return out;
}

Exact scaled(Exact values, double factor) {
  for (double& value : values) value *= factor;
  return values;
}

Exact sum(Exact values, const Exact& more) {
  for (size_t i = 0; i < values.size(); ++i) values[i] += more[i];
  return values;
}

struct Adapter {
  Array down, up;
  mix::LowRank low_rank;
  Adapter(unsigned seed, int64_t I, int64_t O, int64_t K)
      : down(draw(seed, I * K, 1.0f / std::sqrt(static_cast<float>(I)))),
        up(draw(seed + 1, K * O)),
        low_rank{K, kScale, down.data(), up.data()} {}
};

void map(int64_t R, int64_t I, int64_t O, int64_t K, bool narrow = false) {
  Case one("low_rank map " + std::to_string(R) + "x" + std::to_string(I) + "x" + std::to_string(O) + ", rank " +
           std::to_string(K) + (narrow ? ", narrow" : ""));
  const Array x = draw(1, R * I), weight = draw(2, I * O, 1.0f / std::sqrt(static_cast<float>(I))), bias = draw(3, O);
  const Array d_out = draw(4, R * O);
  const Adapter adapter(5, I, O, K);
  const mix::Products products = narrow ? mix::Products::kBfloat16 : mix::Products::kFloat32;
  const mix::LinearShape shape{R, I, products};
  const Exact full = sum(exact(weight), scaled(product(exact(adapter.down), exact(adapter.up), I, K), kScale));
  Exact wanted = product(exact(x), full, R, I);
  for (int64_t i = 0; i < R * O; ++i) wanted[i] += bias[i % O];
  Array out = unwritten(R * O);
  const mix::LinearMap forward{O, weight.data(), bias.data(), out.data(), adapter.low_rank};
  mix::linear_forward(shape, x.data(), &forward, 1);
  one.within(narrow ? kNarrowLimit : kForwardLimit, "out", out, wanted);

  Array dx = unwritten(R * I), d_down = unwritten(I * K), d_up = unwritten(K * O);
  mix::LinearGradient backward{O, weight.data(), d_out.data(), nullptr, nullptr, adapter.low_rank, {}};
  backward.d_adapter = {d_down.data(), d_up.data()};
  mix::linear_backward(shape, x.data(), &backward, 1, dx.data());
  const double limit = narrow ? 2 * kNarrowLimit : kGradientLimit;
  const Exact low = product(exact(x), exact(adapter.down), R, I);
  const Exact d_low = product(exact(d_out), exact(adapter.up), R, O, false, true);
  one.within(limit, "dx", dx, product(exact(d_out), full, R, O, false, true));
  one.within(limit, "ddown", d_down, scaled(product(exact(x), d_low, I, R, true), kScale));
  one.within(limit, "dup", d_up, scaled(product(low, exact(d_out), K, R, true), kScale));

  Array alone = unwritten(K * O);
  backward.d_adapter = {nullptr, alone.data()};
  mix::linear_backward(shape, x.data(), &backward, 1, nullptr);
  one.same("dup, alone", alone, d_up);
}

// Against the same block with its adapters in its weights.
void mlp(int64_t R, int64_t D, int64_t F, int64_t K) {
  Case one("low_rank gated_mlp " + std::to_string(R) + "x" + std::to_string(D) + "x" + std::to_string(F));
  const float of_d = 1.0f / std::sqrt(static_cast<float>(D)), of_f = 1.0f / std::sqrt(static_cast<float>(F));
  const Array x = draw(1, R * D), gate = draw(2, D * F, of_d), up = draw(3, D * F, of_d), down = draw(4, F * D, of_f);
  const Array d_out = draw(5, R * D);
  const Adapter of_gate(10, D, F, K), of_up(20, D, F, K);
  const auto merged = [&](const Array& weight, const Adapter& adapter) {
    const Exact full = sum(exact(weight), scaled(product(exact(adapter.down), exact(adapter.up), D, K), kScale));
    return Array(full.begin(), full.end());
  };
  const Array full_gate = merged(gate, of_gate), full_up = merged(up, of_up);
  const mix::GatedMLP plain{R, D, F, D, full_gate.data(), full_up.data(), down.data(), nullptr, nullptr, nullptr,
                            mix::Products::kFloat32};
  mix::GatedMLP adapted{R, D, F, D, gate.data(), up.data(), down.data(), nullptr, nullptr, nullptr,
                        mix::Products::kFloat32};
  adapted.gate_adapter = of_gate.low_rank, adapted.up_adapter = of_up.low_rank;
  Array wanted = unwritten(R * D), out = wanted, gated = unwritten(R * F), raised = gated;
  mix::gated_mlp_forward(plain, x.data(), nullptr, nullptr, wanted.data());
  mix::gated_mlp_forward(adapted, x.data(), gated.data(), raised.data(), out.data());
  one.within(2 * kForwardLimit, "out", out, exact(wanted));

  Array wanted_dx = unwritten(R * D), dx = wanted_dx, d_gate = unwritten(D * F);
  mix::gated_mlp_backward(plain, x.data(), nullptr, nullptr, d_out.data(), {wanted_dx.data(), d_gate.data()});
  Array d_down = unwritten(D * K), d_up = unwritten(K * F);
  mix::GatedMLPGradients gradients;
  gradients.x = dx.data();
  gradients.gate_adapter = {d_down.data(), d_up.data()};
  for (const bool kept : {true, false}) {
    mix::gated_mlp_backward(adapted, x.data(), kept ? gated.data() : nullptr, kept ? raised.data() : nullptr,
                            d_out.data(), gradients);
    one.gradient("dx", dx, exact(wanted_dx));
    one.within(2 * kGradientLimit, "ddown", d_down, scaled(product(exact(d_gate), exact(of_gate.up), D, F, false, true), kScale));
    one.within(2 * kGradientLimit, "dup", d_up, scaled(product(exact(of_gate.down), exact(d_gate), K, D, true), kScale));
  }
}

}  // namespace

MIX_CASES(low_rank) {
  map(1, 1, 1, 1);
  map(3, 17, 5, 8);
  map(9, 33, 65, 3);
  map(40, 257, 300, 16);
  map(300, 257, 130, 16);
  map(300, 65, 515, 9);
  map(40, 257, 300, 16, true);
  map(300, 257, 130, 16, true);
  mlp(7, 17, 33, 2);
  mlp(300, 65, 257, 16);
}
