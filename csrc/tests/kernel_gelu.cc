// gelu in its three forms, geglu and layer_norm against their formulas in double.
#include "ops/geglu.h"
#include "ops/gelu.h"
#include "ops/layer_norm.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

void gelu(mix::GeluForm form, const char* name, int64_t count) {
  Case one("gelu " + std::string(name) + " " + std::to_string(count));
  const Array x = draw(1, count, 2.0f), d_out = draw(2, count);
  const auto formula = [&](double v) {
    if (form == mix::GeluForm::kErf) return v * 0.5 * std::erfc(-v / std::sqrt(2.0));
    if (form == mix::GeluForm::kQuick) return v / (1.0 + std::exp(-1.702 * v));
    return v * 0.5 * (1.0 + std::tanh(std::sqrt(2.0 / 3.14159265358979323846) * (v + 0.044715 * v * v * v)));
  };
  Exact out(count), dx(count);
  for (int64_t j = 0; j < count; ++j) {
    out[j] = formula(x[j]);
    dx[j] = d_out[j] * (formula(x[j] + 1e-6) - formula(x[j] - 1e-6)) / 2e-6;
  }
  Array found = unwritten(count), found_dx = unwritten(count);
  mix::gelu_forward(form, x.data(), count, found.data());
  mix::gelu_backward(form, x.data(), d_out.data(), count, found_dx.data());
  one.forward("out", found, out);
  one.gradient("dx", found_dx, dx);
}

void geglu(int64_t R, int64_t F) {
  Case one("geglu " + std::to_string(R) + "x" + std::to_string(F));
  const Array x = draw(1, 2 * R * F, 2.0f), d_out = draw(2, R * F);
  Exact out(R * F), dx(2 * R * F);
  for (int64_t r = 0; r < R; ++r)
    for (int64_t j = 0; j < F; ++j) {
      const int64_t value = 2 * r * F + j, gate = value + F, i = r * F + j;
      const double v = x[value], g = x[gate], share = 0.5 * std::erfc(-g / std::sqrt(2.0));
      out[i] = v * g * share;
      dx[value] = d_out[i] * g * share;
      dx[gate] = d_out[i] * v * (share + g * std::exp(-0.5 * g * g) / std::sqrt(2.0 * 3.14159265358979323846));
    }
  Array found = unwritten(R * F), found_dx = unwritten(2 * R * F);
  mix::geglu_forward(x.data(), R, F, found.data());
  mix::geglu_backward(x.data(), d_out.data(), R, F, found_dx.data());
  one.forward("out", found, out);
  one.gradient("dx", found_dx, dx);
}

void layer_norm(int64_t R, int64_t D, bool affine) {
  Case one("layer_norm " + std::to_string(R) + "x" + std::to_string(D) + (affine ? "" : ", plain"));
  const Array x = draw(1, R * D), weight = affine ? draw(2, D) : Array(D, 1.0f), d_out = draw(3, R * D);
  const Array bias = affine ? draw(4, D) : Array(D, 0.0f);
  Exact out(R * D), dx(R * D), dw(D, 0.0), db(D, 0.0);
  for (int64_t r = 0; r < R; ++r) {
    double mean = 0.0, square = 0.0, of_g = 0.0, of_gx = 0.0;
    for (int64_t j = 0; j < D; ++j) mean += x[r * D + j] / static_cast<double>(D);
    for (int64_t j = 0; j < D; ++j) square += (x[r * D + j] - mean) * (x[r * D + j] - mean);
    const double inverse = 1.0 / std::sqrt(square / D + 1e-5f);
    for (int64_t j = 0; j < D; ++j) {
      const double g = static_cast<double>(d_out[r * D + j]) * weight[j], n = (x[r * D + j] - mean) * inverse;
      out[r * D + j] = n * weight[j] + bias[j];
      dw[j] += d_out[r * D + j] * n;
      db[j] += d_out[r * D + j];
      of_g += g / D;
      of_gx += g * n / D;
    }
    for (int64_t j = 0; j < D; ++j) {
      const double n = (x[r * D + j] - mean) * inverse;
      dx[r * D + j] = inverse * (static_cast<double>(d_out[r * D + j]) * weight[j] - of_g - n * of_gx);
    }
  }
  Array found = unwritten(R * D), mean = unwritten(R), inv = unwritten(R), found_dx = unwritten(R * D);
  Array found_dw = unwritten(D), found_db = unwritten(D);
  const float *w = affine ? weight.data() : nullptr, *b = affine ? bias.data() : nullptr;
  mix::layer_norm_forward(x.data(), w, b, 1e-5f, R, D, found.data(), mean.data(), inv.data());
  mix::layer_norm_backward(x.data(), w, mean.data(), inv.data(), d_out.data(), R, D, found_dx.data(),
                           affine ? found_dw.data() : nullptr, affine ? found_db.data() : nullptr);
  one.forward("out", found, out);
  one.gradient("dx", found_dx, dx);
  if (!affine) return;
  one.gradient("dweight", found_dw, dw);
  one.gradient("dbias", found_db, db);
}

}  // namespace

MIX_CASES(gelu) {
  for (const int64_t count : {1, 7, 17, 64, 1025, 9000}) {
    gelu(mix::GeluForm::kErf, "erf", count);
    gelu(mix::GeluForm::kTanh, "tanh", count);
    gelu(mix::GeluForm::kQuick, "quick", count);
  }
}

MIX_CASES(geglu) {
  for (const int64_t R : {1, 7, 65})
    for (const int64_t F : {1, 7, 17, 64, 1025}) geglu(R, F);
}

MIX_CASES(layer_norm) {
  for (const int64_t R : {1, 7, 65})
    for (const int64_t D : {7, 17, 64, 1025}) layer_norm(R, D, R != 7);
}
