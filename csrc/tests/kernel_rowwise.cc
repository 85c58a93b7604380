// rms_norm, swiglu, rotary and linear against their formulas in double.
#include <algorithm>

#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

std::string sizes(std::initializer_list<int64_t> values) {
  std::string text;
  for (const int64_t value : values) text += (text.empty() ? " " : "x") + std::to_string(value);
  return text;
}

void rms_norm(int64_t R, int64_t D) {
  Case one("rms_norm" + sizes({R, D}));
  const float eps = 1e-6f;
  const Array x = draw(1, R * D), weight = draw(2, D), d_out = draw(3, R * D);
  Exact out(R * D), dx(R * D), d_weight(D, 0.0);
  for (int64_t r = 0; r < R; ++r) {
    double square = 0.0, projection = 0.0;
    for (int64_t j = r * D; j < (r + 1) * D; ++j) square += static_cast<double>(x[j]) * x[j];
    const double inverse = 1.0 / std::sqrt(square / D + eps);
    for (int64_t j = 0; j < D; ++j)
      projection += static_cast<double>(x[r * D + j]) * weight[j] * d_out[r * D + j];
    for (int64_t j = 0; j < D; ++j) {
      const int64_t at = r * D + j;
      out[at] = x[at] * inverse * weight[j];
      dx[at] = weight[j] * inverse * d_out[at] - x[at] * projection * inverse * inverse * inverse / D;
      d_weight[j] += d_out[at] * inverse * x[at];
    }
  }
  Array found = unwritten(R * D), inv_rms = unwritten(R);
  Array found_dx = unwritten(R * D), found_dw = unwritten(D);
  mix::rms_norm_forward(x.data(), weight.data(), eps, R, D, found.data(), inv_rms.data());
  mix::rms_norm_backward(x.data(), weight.data(), inv_rms.data(), d_out.data(), R, D, found_dx.data(),
                         found_dw.data());
  one.forward("out", found, out);
  one.gradient("dx", found_dx, dx);
  one.gradient("dweight", found_dw, d_weight);
  Array again_dx = unwritten(R * D), again_dw = unwritten(D);
  mix::rms_norm_backward(x.data(), weight.data(), inv_rms.data(), d_out.data(), R, D, again_dx.data(),
                         again_dw.data());
  one.same("dweight", found_dw, again_dw);
}

void swiglu(int64_t count, float factor) {
  Case one("swiglu" + sizes({count}) + (factor > 1.0f ? ", far from 0" : ""));
  const Array gate = draw(1, count, factor), up = draw(2, count), d_out = draw(3, count);
  Exact out(count), d_gate(count), d_up(count);
  for (int64_t j = 0; j < count; ++j) {
    const double sigmoid = 1.0 / (1.0 + std::exp(-static_cast<double>(gate[j]))), silu = gate[j] * sigmoid;
    out[j] = silu * up[j];
    d_gate[j] = d_out[j] * up[j] * (sigmoid + silu * (1.0 - sigmoid));
    d_up[j] = d_out[j] * silu;
  }
  Array found = unwritten(count), found_gate = unwritten(count), found_up = unwritten(count);
  mix::swiglu_forward(gate.data(), up.data(), count, found.data());
  mix::swiglu_backward(gate.data(), up.data(), d_out.data(), count, found_gate.data(), found_up.data());
  one.forward("out", found, out);
  one.gradient("dgate", found_gate, d_gate);
  one.gradient("dup", found_up, d_up);
}

void rotary(int64_t T, int64_t N, int64_t H) {
  const Array x = draw(1, T * N * H), cos = draw(2, T * H), sin = draw(3, T * H);
  const int64_t half = H / 2;
  for (const bool inverse : {false, true}) {
    Case one("rotary" + sizes({T, N, H}) + (inverse ? ", back" : ""));
    Exact exact(T * N * H);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t n = 0; n < N; ++n)
        for (int64_t j = 0; j < half; ++j) {
          const int64_t at = (t * N + n) * H + j, low = t * H + j, high = low + half;
          const double a = x[at], b = x[at + half];
          exact[at] = inverse ? a * cos[low] + b * sin[high] : a * cos[low] - b * sin[low];
          exact[at + half] = inverse ? b * cos[high] - a * sin[low] : b * cos[high] + a * sin[high];
        }
    Array found = unwritten(T * N * H);
    mix::rotary(x.data(), cos.data(), sin.data(), T, N, H, inverse, found.data());
    one.forward("out", found, exact);
  }
}

// A large product goes through tiles where the processor has them, in three bfloat16 parts; `narrow` in one.
void linear(int64_t R, int64_t I, int64_t O, bool narrow = false) {
  Case one("linear" + sizes({R, I, O}) + (narrow ? ", narrow" : ""));
  const mix::LinearShape shape{R, I, narrow ? mix::Products::kBfloat16 : mix::Products::kFloat32};
  const Array x = draw(1, R * I), weight = draw(2, I * O), bias = draw(3, O), d_out = draw(4, R * O);
  Exact out(R * O), dx(R * I, 0.0), d_weight(I * O, 0.0), d_bias(O, 0.0);
  for (int64_t r = 0; r < R; ++r)
    for (int64_t o = 0; o < O; ++o) {
      const double d = d_out[r * O + o];
      double sum = bias[o];
      for (int64_t i = 0; i < I; ++i) {
        sum += static_cast<double>(x[r * I + i]) * weight[i * O + o];
        dx[r * I + i] += d * weight[i * O + o];
        d_weight[i * O + o] += d * x[r * I + i];
      }
      out[r * O + o] = sum;
      d_bias[o] += d;
    }
  Array found = unwritten(R * O), found_dx = unwritten(R * I);
  Array found_dw = unwritten(I * O), found_db = unwritten(O);
  const mix::LinearMap map{O, weight.data(), bias.data(), found.data()};
  mix::linear_forward(shape, x.data(), &map, 1);
  const mix::LinearGradient back{O, weight.data(), d_out.data(), found_dw.data(), found_db.data()};
  mix::linear_backward(shape, x.data(), &back, 1, found_dx.data());
  one.within(narrow ? kNarrowLimit : kForwardLimit, "out", found, out);
  one.within(narrow ? kNarrowLimit : kGradientLimit, "dx", found_dx, dx);
  one.within(narrow ? kNarrowLimit : kGradientLimit, "dweight", found_dw, d_weight);
  one.gradient("dbias", found_db, d_bias);
  for (int64_t i = 0; i < R * O; ++i) out[i] -= bias[i % O];
  const mix::LinearMap bare{O, weight.data(), nullptr, found.data()};
  mix::linear_forward(shape, x.data(), &bare, 1);
  const mix::LinearGradient nothing{O, weight.data(), d_out.data(), nullptr, nullptr};
  mix::linear_backward(shape, x.data(), &nothing, 1, nullptr);
  one.within(narrow ? kNarrowLimit : kForwardLimit, "without a bias", found, out);
}

}  // namespace

MIX_CASES(rms_norm) {
  for (const int64_t R : {1, 7, 65})
    for (const int64_t D : {1, 7, 17, 64, 1025}) rms_norm(R, D);
}

MIX_CASES(swiglu) {
  for (const int64_t count : {1, 7, 17, 64, 1025, 4096, 4097, 9000}) swiglu(count, 1.0f);
  swiglu(1025, 8.0f);
  swiglu(1025, 200.0f);
  Case one("swiglu of NaN and of infinities");
  const float huge = std::numeric_limits<float>::infinity();
  const Array gate{std::nanf(""), huge, -1e38f, 1e38f, 1.0f}, up(5, 1.0f);
  Array out = unwritten(5);
  mix::swiglu_forward(gate.data(), up.data(), 5, out.data());
  one.that(std::isnan(out[0]), "a NaN is lost");
  one.that(out[1] == huge && out[2] == 0.0f && out[3] == 1e38f, "far values are wrong");
}

MIX_CASES(rotary) {
  for (const int64_t H : {2, 6, 64, 80, 96, 104, 128}) {
    rotary(1, 1, H);
    rotary(7, 3, H);
    rotary(65, 2, H);
  }
}

MIX_CASES(linear) {
  linear(1, 1, 1);
  linear(7, 17, 64);
  linear(64, 7, 1);
  linear(17, 1025, 7);
  linear(1025, 7, 17);
  linear(1, 64, 1025);
  linear(129, 257, 300);
  linear(17, 33, 65, true);
  linear(129, 257, 300, true);
}
