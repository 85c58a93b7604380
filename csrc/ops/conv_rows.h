// Convolution with a 3 x 3 kernel and stride 1, without patches: sums of shifted rows of the image, kept in registers.
#pragma once

#include <cstdint>

namespace mix {

// A strip of the result, [batch, outputs, height, width] of planes of `of_plane` numbers, and what it depends on: the
// images with zeros around them, [batch, channels, height + 2, width + 2], and some numbers more that are read past
// the end and not used.
struct RowConv {
  int64_t batch, channels, outputs, height, width, of_plane;
};

// Numbers that `surround` writes.
int64_t surrounded_size(const RowConv& shape);

// Copies x [batch, channels, from_height, from_width] between the zeros: its first number comes to row `top`, which may
// lie before the strip, and column `left` of the surrounded image.
void surround(const RowConv& shape, const float* x, int64_t from_height, int64_t from_width, int64_t top, int64_t left,
              float* to);

// out = the convolution of `x`, which has zeros around it, plus bias [outputs], or [batch, outputs] if it is `of_image`;
// bias may be null. `weight`(output, channel, tap) is weight[output * of_output + channel * of_channel + tap], or with
// 8 - tap where the kernel is turned around.
struct Taps {
  const float* weight;
  int64_t of_output, of_channel;
  bool turned;
};
void row_conv(const RowConv& shape, const float* x, const Taps& taps, const float* bias, bool of_image, float* out);

// d_weight [outputs, channels, 9] (+)= what x, which has zeros around it, and the strip of d_out give.
void row_conv_weight_gradient(const RowConv& shape, const float* x, const float* d_out, bool add, float* d_weight);

}  // namespace mix
