// conv2d against plain double loops.
#include "ops/conv2d.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

struct Wanted {
  Exact out, dx, d_weight, d_bias;
};

Wanted plain(const mix::ConvShape& s, const Array& x, const Array& weight, const Array& bias, const Array& d_out) {
  Wanted w{Exact(d_out.size()), Exact(x.size(), 0.0), Exact(weight.size(), 0.0), Exact(bias.size(), 0.0)};
  const int64_t K = s.kernel;
  int64_t at = 0;
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t o = 0; o < s.outputs; ++o)
      for (int64_t i = 0; i < s.out_height; ++i)
        for (int64_t j = 0; j < s.out_width; ++j, ++at) {
          const int64_t of = s.bias_of_image ? b * s.outputs + o : o;
          double sum = bias[of];
          for (int64_t c = 0; c < s.channels; ++c)
            for (int64_t u = 0; u < K; ++u)
              for (int64_t v = 0; v < K; ++v) {
                const int64_t y = i * s.stride + u - s.top, z = j * s.stride + v - s.left;
                if (y < 0 || y >= s.height || z < 0 || z >= s.width) continue;
                const int64_t from = ((b * s.channels + c) * s.height + y) * s.width + z;
                const int64_t tap = ((o * s.channels + c) * K + u) * K + v;
                sum += static_cast<double>(x[from]) * weight[tap];
                w.dx[from] += static_cast<double>(d_out[at]) * weight[tap];
                w.d_weight[tap] += static_cast<double>(d_out[at]) * x[from];
              }
          w.out[at] = sum;
          w.d_bias[of] += d_out[at];
        }
  return w;
}

// `behind`: zeros below and to the right of x.
void conv2d(mix::ConvShape s, int64_t behind) {
  s.out_height = (s.height + s.top + behind - s.kernel) / s.stride + 1;
  s.out_width = (s.width + s.left + behind - s.kernel) / s.stride + 1;
  const int64_t K = s.kernel;
  const bool narrow = s.products == mix::Products::kBfloat16;
  Case one("conv2d " + std::to_string(s.batch) + "x" + std::to_string(s.channels) + "x" + std::to_string(s.height) +
           "x" + std::to_string(s.width) + " to " + std::to_string(s.outputs) + ", kernel " + std::to_string(K) +
           ", stride " + std::to_string(s.stride) + (s.bias_of_image ? ", a bias each" : "") + (narrow ? ", narrow" : ""));
  const Array x = draw(1, s.batch * s.channels * s.height * s.width);
  const Array weight = draw(2, s.outputs * s.channels * K * K, 1.0f / std::sqrt(float(s.channels * K * K)));
  const Array bias = draw(3, (s.bias_of_image ? s.batch : 1) * s.outputs);
  const Array d_out = draw(4, s.batch * s.outputs * s.out_height * s.out_width);
  const Wanted wanted = plain(s, x, weight, bias, d_out);

  Array out = unwritten(d_out.size());
  mix::conv2d_forward(s, x.data(), weight.data(), bias.data(), out.data());
  one.within(narrow ? kNarrowLimit : kForwardLimit, "out", out, wanted.out);
  Array dx = unwritten(x.size()), d_weight = unwritten(weight.size()), d_bias = unwritten(bias.size());
  mix::conv2d_backward(s, x.data(), weight.data(), d_out.data(), dx.data(), d_weight.data(), d_bias.data());
  const double limit = narrow ? kNarrowLimit : kGradientLimit;
  one.within(limit, "dx", dx, wanted.dx);
  one.within(limit, "d_weight", d_weight, wanted.d_weight);
  one.within(limit, "d_bias", d_bias, wanted.d_bias);

  Array again = unwritten(weight.size());
  mix::conv2d_backward(s, x.data(), weight.data(), d_out.data(), nullptr, again.data(), nullptr);
  one.same("d_weight", d_weight, again);
  Exact without(wanted.out);
  for (size_t i = 0; i < without.size(); ++i)
    without[i] -= bias[static_cast<int64_t>(i) / (s.out_height * s.out_width) % bias.size()];
  mix::conv2d_forward(s, x.data(), weight.data(), nullptr, out.data());
  one.within(narrow ? kNarrowLimit : kForwardLimit, "out without bias", out, without);
}

}  // namespace

MIX_CASES(conv2d) {
  const auto exact = mix::Products::kFloat32, narrow = mix::Products::kBfloat16;
  conv2d({1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, exact}, 0);
  conv2d({2, 3, 5, 7, 4, 3, 1, 1, 1, 0, 0, exact}, 1);
  conv2d({2, 3, 6, 7, 4, 3, 2, 1, 1, 0, 0, exact}, 1);   // the last row is under no kernel
  conv2d({1, 2, 8, 8, 3, 3, 2, 0, 0, 0, 0, exact}, 1);   // zeros behind alone, as the autoencoder has them
  conv2d({1, 2, 9, 11, 3, 5, 3, 4, 1, 0, 0, exact}, 2);
  conv2d({1, 4, 40, 41, 5, 3, 1, 1, 1, 0, 0, exact}, 1);  // more places than a block
  conv2d({2, 6, 18, 16, 7, 3, 1, 1, 1, 0, 0, exact}, 1);   // rows of whole vectors
  conv2d({3, 5, 9, 33, 8, 3, 1, 2, 0, 0, 0, exact, true}, 2);  // zeros on some sides
  conv2d({2, 3, 7, 4, 4, 3, 1, 0, 0, 0, 0, exact}, 0);     // rows shorter than a vector, no zeros
  conv2d({2, 24, 11, 135, 25, 3, 1, 1, 1, 0, 0, exact}, 1);  // squares: more in a row than in a block, odd sizes
  conv2d({1, 65, 12, 14, 64, 3, 1, 2, 0, 0, 0, exact, true}, 2);  // an image of few squares
  conv2d({3, 64, 13, 24, 65, 3, 1, 0, 0, 0, 0, exact, true}, 0);  // no zeros around
  conv2d({1, 200, 9, 18, 66, 3, 1, 1, 2, 0, 0, exact}, 0);  // sums of channels in parts
  conv2d({1, 256, 520, 32, 1, 3, 1, 1, 1, 0, 0, exact}, 1);  // more rows than a strip has
  conv2d({2, 64, 16, 17, 96, 1, 1, 0, 0, 0, 0, exact}, 0);
  conv2d({2, 5, 6, 7, 4, 1, 1, 0, 0, 0, 0, exact}, 1);  // a kernel of one number, and zeros behind
  conv2d({2, 70, 17, 19, 66, 3, 1, 1, 1, 0, 0, exact}, 1);  // what tiles take, with edges both ways
  conv2d({3, 2, 5, 4, 4, 3, 1, 1, 1, 0, 0, exact, true}, 1);
  conv2d({2, 70, 17, 19, 66, 3, 1, 1, 1, 0, 0, exact, true}, 1);
  conv2d({1, 64, 24, 22, 64, 3, 2, 1, 1, 0, 0, exact}, 1);
  conv2d({2, 70, 17, 19, 66, 3, 1, 1, 1, 0, 0, narrow}, 1);
  conv2d({1, 20, 9, 9, 18, 3, 2, 0, 0, 0, 0, narrow}, 1);
}
