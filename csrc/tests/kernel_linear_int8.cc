// The linear map with int8 weights, of few rows and of many, against plain loops in double.
// Shapes: R rows, I inputs, O outputs.
#include "ops/linear_int8.h"
#include "tests/kernel_case.h"

namespace {

using namespace mix::test;

void run(int64_t R, int64_t I, int64_t O, bool with_bias) {
  Case one("linear_int8 " + std::to_string(R) + " x " + std::to_string(I) + " x " + std::to_string(O) +
           (with_bias ? ", bias" : ""));
  const Array x = draw(1, R * I), scale = draw(2, O, 0.01f), bias = with_bias ? draw(3, O) : Array();
  std::vector<int8_t> weight(O * I);
  std::mt19937 bits(4);
  for (int8_t& w : weight) w = static_cast<int8_t>(static_cast<int64_t>(bits() % 256) - 128);  // the ends too
  Exact exact(R * O, 0.0);
  for (int64_t r = 0; r < R; ++r)
    for (int64_t o = 0; o < O; ++o) {
      double sum = 0.0;
      for (int64_t i = 0; i < I; ++i) sum += static_cast<double>(x[r * I + i]) * weight[o * I + i];
      exact[r * O + o] = sum * scale[o] + (with_bias ? bias[o] : 0.0f);
    }
  const mix::Int8Shape shape{R, I, O};
  Array scratch = unwritten(mix::linear_int8_scratch(shape)), out = unwritten(R * O), again = out;
  for (Array* result : {&out, &again})
    mix::linear_int8(shape, x.data(), weight.data(), scale.data(), with_bias ? bias.data() : nullptr, scratch.data(),
                     result->data());
  one.forward("out", out, exact);
  one.same("out", out, again);

  const Array d_out = draw(5, R * O);
  Exact exact_dx(R * I, 0.0);
  for (int64_t r = 0; r < R; ++r)
    for (int64_t o = 0; o < O; ++o)
      for (int64_t i = 0; i < I; ++i)
        exact_dx[r * I + i] += static_cast<double>(d_out[r * O + o]) * scale[o] * weight[o * I + i];
  Array back = unwritten(mix::linear_int8_backward_scratch(shape)), dx = unwritten(R * I);
  mix::linear_int8_backward(shape, weight.data(), scale.data(), d_out.data(), back.data(), dx.data());
  one.gradient("dx", dx, exact_dx);
}

}  // namespace

MIX_CASES(linear_int8) {
  for (const int64_t R : {1, 2, 3, 4, 5, 7, 8, 9, 17}) {
    for (const int64_t O : {1, 3, 4, 6, 33}) run(R, 37, O, R % 2 == 0);
    run(R, 1, 5, true);
    run(R, 16, 4, false);
  }
  run(1, 4099, 130, true);    // several pieces of a dot product, and threads
  run(8, 2049, 67, false);
  run(12, 5000, 515, true);   // several blocks of widened weights, the last one smaller
  run(130, 300, 700, false);  // large enough for tiles
}
