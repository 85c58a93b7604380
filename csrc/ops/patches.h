// The right factor of a convolution that is taken as a product: never stored whole, written where it is packed.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mix {

// A row for each tap (channel, row and column of the kernel), a column for each place of the result (row by row).
struct Patches {
  const float* image;  // [channels, height, width], surrounded by zeros
  int64_t height, width;
  int64_t kernel, stride;
  int64_t top, left;  // where the first place's kernel begins: so many rows and columns before the image
  int64_t out_width;

  // Whether the image itself is what would be written for all places.
  bool plain(int64_t places) const {
    return kernel == 1 && stride == 1 && top == 0 && left == 0 && out_width == width && places == height * width;
  }

  // to[taps, places], from `tap` and `place` on; rows are `places` apart.
  void write(int64_t tap, int64_t taps, int64_t place, int64_t places, float* to) const {
    for (int64_t t = tap; t < tap + taps; ++t) {
      const int64_t channel = t / (kernel * kernel), kernel_row = t / kernel % kernel, kernel_column = t % kernel;
      const float* const plane = image + channel * height * width;
      for (int64_t at = place; at < place + places;) {
        const int64_t row = at / out_width, column = at % out_width;
        const int64_t count = std::min(out_width - column, place + places - at);
        const int64_t from_row = row * stride + kernel_row - top;
        const int64_t from_column = column * stride + kernel_column - left;
        if (from_row < 0 || from_row >= height)
          std::fill_n(to, count, 0.0f);
        else
          write_run(plane + from_row * width, from_column, count, to);
        to += count, at += count;
      }
    }
  }

 private:
  // Every stride-th number of a row of the image, from `column` on.
  void write_run(const float* row, int64_t column, int64_t count, float* to) const {
    const int64_t before = std::clamp<int64_t>((-column + stride - 1) / stride, 0, column < 0 ? count : 0);
    const int64_t inside = width - column;  // columns from the first to the image's end
    const int64_t end = std::clamp<int64_t>((inside + stride - 1) / stride, before, std::max(before, count));
    std::fill_n(to, before, 0.0f);
    if (stride == 1) {
      std::copy(row + column + before, row + column + end, to + before);
    } else {
      for (int64_t i = before; i < end; ++i) to[i] = row[column + i * stride];
    }
    std::fill_n(to + end, count - end, 0.0f);
  }
};

}  // namespace mix
