// add_rms_norm and group_norm against their formulas in double.
#include "ops/add_rms_norm.h"
#include "ops/group_norm.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

void add_rms_norm(int64_t R, int64_t D) {
  Case one("add_rms_norm " + std::to_string(R) + "x" + std::to_string(D));
  const float eps = 1e-6f;
  const Array x = draw(1, R * D), branch = draw(2, R * D), weight = draw(3, D);
  const Array d_sum = draw(4, R * D), d_normed = draw(5, R * D);
  Exact sum(R * D), normed(R * D), dx(R * D), d_weight(D, 0.0);
  for (int64_t r = 0; r < R; ++r) {
    double square = 0.0, projection = 0.0;
    for (int64_t j = r * D; j < (r + 1) * D; ++j) {
      sum[j] = static_cast<double>(x[j]) + branch[j];
      square += sum[j] * sum[j];
      projection += sum[j] * weight[j - r * D] * d_normed[j];
    }
    const double inverse = 1.0 / std::sqrt(square / D + eps);
    for (int64_t j = 0; j < D; ++j) {
      const int64_t at = r * D + j;
      normed[at] = sum[at] * inverse * weight[j];
      dx[at] = d_sum[at] + weight[j] * inverse * d_normed[at];
      dx[at] -= sum[at] * projection * inverse * inverse * inverse / D;
      d_weight[j] += d_normed[at] * inverse * sum[at];
    }
  }
  Array found_sum = unwritten(R * D), found = unwritten(R * D), inv_rms = unwritten(R);
  mix::add_rms_norm_forward(x.data(), branch.data(), weight.data(), eps, R, D, found_sum.data(), found.data(),
                            inv_rms.data());
  one.forward("sum", found_sum, sum);
  one.forward("normed", found, normed);
  Array found_dx = unwritten(R * D), d_branch = unwritten(R * D), found_dw = unwritten(D);
  const auto backward = [&](Array& dx_to, Array& db_to, Array& dw_to) {
    mix::add_rms_norm_backward(found_sum.data(), weight.data(), inv_rms.data(), d_sum.data(), d_normed.data(),
                               R, D, dx_to.data(), db_to.data(), dw_to.data());
  };
  backward(found_dx, d_branch, found_dw);
  one.gradient("dx", found_dx, dx);
  one.gradient("dweight", found_dw, d_weight);
  one.that(found_dx == d_branch, "the gradient of the branch is not that of x");
  Array again_dx = unwritten(R * D), again_branch = unwritten(R * D), again_dw = unwritten(D);
  backward(again_dx, again_branch, again_dw);
  one.same("dweight", found_dw, again_dw);
}

// `far`: numbers around 300, where a mean of squares less the square of the mean would lose the variance.
void group_norm(const mix::GroupShape& s, bool affine, bool far = false) {
  const int64_t B = s.batch, C = s.channels, I = s.inner, G = s.groups, of_group = C / G * I;
  Case one("group_norm " + std::to_string(B) + "x" + std::to_string(C) + "x" + std::to_string(I) +
           ", groups " + std::to_string(G) + (affine ? "" : ", plain") + (s.silu ? ", silu" : "") + (far ? ", far from 0" : ""));
  Array x = draw(1, B * C * I);
  if (far)
    for (float& value : x) value += 300.0f;
  const Array weight = affine ? draw(2, C) : Array(C, 1.0f), bias = affine ? draw(3, C) : Array(C, 0.0f);
  const Array d_out = draw(4, B * C * I);
  Exact out(B * C * I), dx(B * C * I), d_weight(C, 0.0), d_bias(C, 0.0);
  for (int64_t group = 0; group < B * G; ++group) {
    const int64_t first = group * of_group, end = first + of_group;
    const auto channel = [&](int64_t at) { return at / I % C; };
    double mean = 0.0, square = 0.0, of_g = 0.0, of_gn = 0.0;
    for (int64_t at = first; at < end; ++at) mean += x[at] / static_cast<double>(of_group);
    for (int64_t at = first; at < end; ++at) square += (x[at] - mean) * (x[at] - mean);
    const double inverse = 1.0 / std::sqrt(square / of_group + 1e-5f);
    for (int64_t at = first; at < end; ++at) {
      const int64_t c = channel(at);
      const double n = (x[at] - mean) * inverse, normed = n * weight[c] + bias[c];
      const double share = s.silu ? 1.0 / (1.0 + std::exp(-normed)) : 1.0;
      const double d_normed = d_out[at] * (s.silu ? share * (1.0 + normed * (1.0 - share)) : 1.0);
      const double g = d_normed * weight[c];
      out[at] = normed * share;
      dx[at] = g;
      d_weight[c] += d_normed * n;
      d_bias[c] += d_normed;
      of_g += g / of_group;
      of_gn += g * n / of_group;
    }
    for (int64_t at = first; at < end; ++at) {
      const double n = (x[at] - mean) * inverse;
      dx[at] = inverse * (dx[at] - of_g - n * of_gn);
    }
  }
  Array found = unwritten(B * C * I), mean = unwritten(B * G), inv_std = unwritten(B * G);
  const float *w = affine ? weight.data() : nullptr, *b = affine ? bias.data() : nullptr;
  mix::group_norm_forward(s, x.data(), w, b, 1e-5f, found.data(), mean.data(), inv_std.data());
  // a float32 mean around 300 is rounded by up to 2^-16, and the numbers have a deviation of about 1
  const double rounded = 0x1p-16;
  one.within(far ? rounded : kForwardLimit, "out", found, out);
  Array found_dx = unwritten(B * C * I), found_dw = unwritten(C), found_db = unwritten(C);
  mix::group_norm_backward(s, x.data(), w, b, mean.data(), inv_std.data(), d_out.data(), found_dx.data(),
                           affine ? found_dw.data() : nullptr, affine ? found_db.data() : nullptr);
  one.within(far ? rounded : kGradientLimit, "dx", found_dx, dx);
  if (!affine) return;
  one.within(far ? rounded : kGradientLimit, "dweight", found_dw, d_weight);
  one.gradient("dbias", found_db, d_bias);
}

}  // namespace

MIX_CASES(add_rms_norm) {
  for (const int64_t R : {1, 7, 65})
    for (const int64_t D : {1, 7, 17, 64, 1025}) add_rms_norm(R, D);
}

MIX_CASES(group_norm) {
  group_norm({1, 2, 1, 1}, true);
  group_norm({3, 6, 7, 2}, true);
  group_norm({3, 6, 7, 6}, false);
  group_norm({2, 8, 65, 4}, true);
  group_norm({5, 64, 33, 32}, true);
  group_norm({1, 4, 5003, 2}, true);
  group_norm({2, 3, 9001, 3}, false);
  group_norm({2, 8, 65, 4}, true, true);
  group_norm({3, 6, 7, 2, true}, true);
  group_norm({5, 64, 33, 32, true}, false);
  group_norm({1, 4, 5003, 2, true}, true);
}
