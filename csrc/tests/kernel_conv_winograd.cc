// A convolution in another basis, by parts of the kernels and of the image (plain loops: kernel_conv2d.cc).
#include "ops/conv_winograd.h"
#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

Exact exact(const Array& numbers) { return Exact(numbers.begin(), numbers.end()); }

void in_parts(const mix::SquareConv& s) {
  Case one("conv_winograd " + std::to_string(s.channels) + " to " + std::to_string(s.outputs) + " in parts");
  const Array x = draw(1, s.batch * s.channels * s.from_height * s.from_width);
  const Array weight = draw(2, s.outputs * s.channels * 9, 1.0f / std::sqrt(float(s.channels * 9)));
  const Array bias = draw(3, s.outputs), d_out = draw(4, s.batch * s.outputs * s.height * s.width);
  const mix::Taps taps{weight.data(), s.channels * 9, 9, false};

  Array whole = unwritten(d_out.size()), parts = unwritten(d_out.size());
  mix::winograd_conv(s, x.data(), taps, bias.data(), false, whole.data());
  mix::winograd_conv(s, x.data(), taps, bias.data(), false, parts.data(), 1);
  one.same("out", whole, parts);

  Array whole_weight = unwritten(weight.size()), parts_weight = unwritten(weight.size());
  mix::winograd_weight_gradient(s, x.data(), d_out.data(), whole_weight.data());
  mix::winograd_weight_gradient(s, x.data(), d_out.data(), parts_weight.data(), 1);
  one.gradient("d_weight", parts_weight, exact(whole_weight));
}

}  // namespace

MIX_CASES(conv_winograd) {
  in_parts({2, 7, 101, 20, 22, 20, 22, 1, 1});
  in_parts({2, 180, 190, 15, 17, 16, 18, 1, 0});  // a library's product adds to what was there
  in_parts({1, 3, 5, 1, 1, 3, 3, 0, 0});
}
