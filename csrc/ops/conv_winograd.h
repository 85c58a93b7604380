// Convolution with a 3 x 3 kernel and stride 1 by minimal filtering: 16 products for four numbers of the result instead
// of 36 (winograd_basis.h). On the way there and back numbers are added and halved only, so little is lost to rounding.
#pragma once

#include <cstdint>

#include "ops/conv_rows.h"
#include "ops/winograd_basis.h"

namespace mix {

// Whether these are faster than sums of shifted rows.
bool winograd_pays(const SquareConv& shape);
bool winograd_weight_gradient_pays(const SquareConv& shape);

// out = the convolution plus bias [outputs], or [batch, outputs] if it is `of_image`; bias may be null. About `numbers`
// of the kernels are in the basis at a time.
void winograd_conv(const SquareConv& shape, const float* x, const Taps& taps, const float* bias, bool of_image,
                   float* out, int64_t numbers = 1 << 23);

// d_weight [outputs, channels, 9] from x and the result's gradient, of which about `numbers` are in the basis at a time.
void winograd_weight_gradient(const SquareConv& shape, const float* x, const float* d_out, float* d_weight,
                              int64_t numbers = 1 << 21);

}  // namespace mix
