// AdamW over several tensors in one call, against its formula in double.
#include "ops/adamw.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

void run(const std::vector<int64_t>& sizes, int64_t step, double decay, double grad_scale) {
  Case one("adamw " + std::to_string(sizes.size()) + " tensors, step " + std::to_string(step) +
           (decay > 0.0 ? ", decay" : "") + (grad_scale != 1.0 ? ", scaled" : ""));
  const MixAdamW settings{1e-2, 0.9, 0.95, 1e-8, decay, grad_scale, step};
  std::vector<Array> parts[4];  // parameters, gradients, means, squares
  std::vector<float*> pointers[4];
  for (size_t t = 0; t < sizes.size(); ++t)
    for (int kind = 0; kind < 4; ++kind) {
      parts[kind].push_back(draw(static_cast<unsigned>(4 * t + kind), sizes[t]));
      if (kind == 3)
        for (float& square : parts[kind].back()) square = std::fabs(square);
    }
  const auto before = std::vector<std::vector<Array>>(parts, parts + 4);
  for (int kind = 0; kind < 4; ++kind)
    for (Array& part : parts[kind]) pointers[kind].push_back(part.data());
  mix_adamw(&settings, static_cast<int64_t>(sizes.size()), sizes.data(), pointers[0].data(),
            pointers[1].data(), pointers[2].data(), pointers[3].data());
  for (size_t t = 0; t < sizes.size(); ++t) {
    Exact p(sizes[t]), m(sizes[t]), v(sizes[t]);
    for (int64_t j = 0; j < sizes[t]; ++j) {
      const double g = before[1][t][j] * grad_scale;
      m[j] = 0.9 * before[2][t][j] + (1.0 - 0.9) * g;
      v[j] = 0.95 * before[3][t][j] + (1.0 - 0.95) * g * g;
      const double rate = 1e-2 / (1.0 - std::pow(0.9, static_cast<double>(step)));
      const double root = std::sqrt(v[j] / (1.0 - std::pow(0.95, static_cast<double>(step))));
      p[j] = before[0][t][j] * (1.0 - 1e-2 * decay) - rate * m[j] / (root + 1e-8);
    }
    const std::string of = " of " + std::to_string(sizes[t]);
    one.forward("p" + of, parts[0][t], p);
    one.forward("m", parts[2][t], m);
    one.forward("v", parts[3][t], v);
    one.that(parts[1][t] == before[1][t], "the gradient is changed");
  }
}

}  // namespace

MIX_CASES(adamw) {
  run({1, 7, 17, 64, 1025}, 1, 0.0, 1.0);
  run({0, 16385, 0, 3}, 2, 0.1, 0.25);
  run({40000}, 1000, 0.01, 1.0);
  run({}, 1, 0.0, 1.0);
}
