#include "ops/conv2d.h"

#include <algorithm>
#include <vector>

#include "mix/aligned.h"
#include "mix/vector.h"
#include "ops/conv_rows.h"
#include "ops/conv_winograd.h"
#include "ops/gemm_tiles.h"
#include "ops/patches.h"

namespace mix {
namespace {

// Places of a block whose patches are written out, where no tiles are to multiply them.
constexpr int64_t kPlaces = 1024;
constexpr int64_t kCopied = 1 << 22;  // numbers of x that are copied at a time, where rows are summed

// In how many parts tiles take these products; 0: not tiles. Places are many, so that is what counts as rows.
int parts_for(int64_t rows, int64_t places, int64_t depth, Products how) {
  return tile_parts(std::max(rows, places), std::min(rows, places), depth, how);
}

// Whether sums of shifted rows, or products in another basis, take the place of products with patches.
bool by_rows(const ConvShape& s) {
  return s.kernel == 3 && s.stride == 1 && s.top <= 2 && s.left <= 2 && s.products == Products::kFloat32 &&
         parts_for(s.outputs, s.batch * s.out_height * s.out_width, s.channels * 9, s.products) == 0;
}

SquareConv squares_of(const ConvShape& s) {
  return {s.batch, s.channels, s.outputs, s.out_height, s.out_width, s.height, s.width, s.top, s.left};
}

// Calls body(strip, copy of its rows of x with zeros around them, numbers before it in a plane of the result) for strips
// whose copies are small: x may be an autoencoder's picture.
template <typename Body>
void for_strips(RowConv strip, const float* x, int64_t from_height, int64_t from_width, int64_t top, int64_t left,
                Body body) {
  const int64_t height = strip.height, row = strip.batch * strip.channels * (strip.width + 2);
  strip.of_plane = height * strip.width;
  strip.height = std::min(height, std::max<int64_t>(1, kCopied / row));
  const Aligned<float> copied(surrounded_size(strip));
  for (int64_t first = 0; first < height; first += strip.height) {
    strip.height = std::min(strip.height, height - first);
    surround(strip, x, from_height, from_width, top - first, left, copied.data());
    body(strip, copied.data(), first * strip.width);
  }
}

// Pieces in float32, which compilers add up many at a time, and the pieces in double.
MIX_INLINE double sum_of_body(const float* x, int64_t count) {
  constexpr int64_t kPiece = 1024;
  double all = 0.0;
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t end = std::min(count, begin + kPiece);
    float piece = 0.0f;
#pragma omp simd reduction(+ : piece)
    for (int64_t i = begin; i < end; ++i) piece += x[i];
    all += piece;
  }
  return all;
}
MIX_KERNEL(double, sum_of, (const float* x, int64_t count), (x, count))

// Patches of one block, by all threads.
void write_block(const Patches& patches, int64_t taps, int64_t place, int64_t places, std::vector<float>& block) {
  block.resize(static_cast<size_t>(taps) * places);
  float* const to = block.data();
#pragma omp parallel for schedule(static)
  for (int64_t tap = 0; tap < taps; ++tap) patches.write(tap, 1, place, places, to + tap * places);
}

// out[b][rows, places] (+)= matrix [rows, taps] times the patches of each image.
void multiply(const float* matrix, int64_t rows, int64_t taps, const std::vector<Patches>& images, int64_t places,
              bool add, float* out, Products how) {
  const int parts = parts_for(rows, places * static_cast<int64_t>(images.size()), taps, how);
  std::vector<Right> rights;
  std::vector<float> block;
  for (const Patches& image : images) {
    float* const own = out + static_cast<int64_t>(&image - images.data()) * rows * places;
    if (parts != 0) {
      rights.push_back({{}, places, nullptr, own, places, &image, false});
      continue;
    }
    if (image.plain(places)) {
      gemm(false, false, rows, places, taps, 1.0f, matrix, taps, image.image, places, add ? 1.0f : 0.0f, own, places,
           how);
      continue;
    }
    for (int64_t place = 0; place < places; place += kPlaces) {
      const int64_t count = std::min(kPlaces, places - place);
      write_block(image, taps, place, count, block);
      gemm(false, false, rows, count, taps, 1.0f, matrix, taps, block.data(), count, add ? 1.0f : 0.0f, own + place,
           places, how);
    }
  }
  if (parts != 0)
    gemm_tiles(parts, {matrix, taps, true}, rights.data(), static_cast<int64_t>(rights.size()), rows, taps, 1.0f,
               add ? 1.0f : 0.0f);
}

std::vector<Patches> patches_of(const ConvShape& s, const float* x) {
  std::vector<Patches> images;
  for (int64_t b = 0; b < s.batch; ++b)
    images.push_back(
        {x + b * s.channels * s.height * s.width, s.height, s.width, s.kernel, s.stride, s.top, s.left, s.out_width});
  return images;
}

// The gradient of x is a convolution, too: of d_out, with stride - 1 zeros between its numbers, and the kernel turned
// around both ways (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4).
void input_gradient(const ConvShape& s, const float* weight, const float* d_out, float* dx) {
  if (by_rows(s)) {
    const SquareConv back{s.batch,      s.outputs,   s.channels, s.height,   s.width,
                          s.out_height, s.out_width, 2 - s.top,  2 - s.left};
    if (winograd_pays(back)) return winograd_conv(back, d_out, {weight, 9, s.channels * 9, true}, nullptr, false, dx);
    for_strips({s.batch, s.outputs, s.channels, s.height, s.width, 0}, d_out, s.out_height, s.out_width, 2 - s.top,
               2 - s.left, [&](const RowConv& strip, const float* from, int64_t at) {
                 row_conv(strip, from, {weight, 9, s.channels * 9, true}, nullptr, false, dx + at);
               });
    return;
  }
  const int64_t K = s.kernel, taps = s.outputs * K * K;
  std::vector<float> turned(static_cast<size_t>(s.channels) * taps);
#pragma omp parallel for schedule(static)
  for (int64_t c = 0; c < s.channels; ++c)
    for (int64_t o = 0; o < s.outputs; ++o)
      for (int64_t i = 0; i < K * K; ++i)
        turned[c * taps + o * K * K + i] = weight[(o * s.channels + c) * K * K + K * K - 1 - i];
  const int64_t height = (s.out_height - 1) * s.stride + 1, width = (s.out_width - 1) * s.stride + 1;
  const int64_t planes = s.batch * s.outputs;
  std::vector<float> spread;
  if (s.stride != 1) {
    spread.assign(static_cast<size_t>(planes) * height * width, 0.0f);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < planes * s.out_height; ++row) {
      const int64_t plane = row / s.out_height, y = row % s.out_height * s.stride;
      float* const to = spread.data() + (plane * height + y) * width;
      for (int64_t i = 0; i < s.out_width; ++i) to[i * s.stride] = d_out[row * s.out_width + i];
    }
    d_out = spread.data();
  }
  std::vector<Patches> images;
  for (int64_t b = 0; b < s.batch; ++b)
    images.push_back(
        {d_out + b * s.outputs * height * width, height, width, K, 1, K - 1 - s.top, K - 1 - s.left, s.width});
  multiply(turned.data(), s.channels, taps, images, s.height * s.width, false, dx, backward_of(s.products));
}

// d_weight [O, taps] = the sum over images of d_out [O, places] times their patches, turned.
void weight_gradient(const ConvShape& s, const float* x, const float* d_out, float* d_weight) {
  if (by_rows(s)) {
    const SquareConv squares = squares_of(s);
    if (winograd_weight_gradient_pays(squares)) return winograd_weight_gradient(squares, x, d_out, d_weight);
    for_strips({s.batch, s.channels, s.outputs, s.out_height, s.out_width, 0}, x, s.height, s.width, s.top, s.left,
               [&](const RowConv& strip, const float* from, int64_t at) {
                 row_conv_weight_gradient(strip, from, d_out + at, at != 0, d_weight);
               });
    return;
  }
  const int64_t taps = s.channels * s.kernel * s.kernel, places = s.out_height * s.out_width;
  const Products how = backward_of(s.products);
  const int parts = parts_for(s.outputs, taps, places, how);
  std::vector<float> block;
  float keep = 0.0f;
  for (const Patches& image : patches_of(s, x)) {
    if (parts != 0) {
      const Right right{{}, taps, nullptr, d_weight, taps, &image, true};
      gemm_tiles(parts, {d_out, places, true}, &right, 1, s.outputs, places, 1.0f, keep);
      keep = 1.0f;
    } else if (image.plain(places)) {
      gemm(false, true, s.outputs, taps, places, 1.0f, d_out, places, image.image, places, keep, d_weight, taps, how);
      keep = 1.0f;
    } else {
      for (int64_t place = 0; place < places; place += kPlaces) {
        const int64_t count = std::min(kPlaces, places - place);
        write_block(image, taps, place, count, block);
        gemm(false, true, s.outputs, taps, count, 1.0f, d_out + place, places, block.data(), count, keep, d_weight,
             taps, how);
        keep = 1.0f;
      }
    }
    d_out += s.outputs * places;
  }
}

void bias_gradient(const ConvShape& s, const float* d_out, float* d_bias) {
  const int64_t places = s.out_height * s.out_width;
  std::vector<double> sums(static_cast<size_t>(s.batch) * s.outputs);
#pragma omp parallel for schedule(static)
  for (int64_t plane = 0; plane < s.batch * s.outputs; ++plane)
    sums[plane] = sum_of(d_out + plane * places, places);
  for (int64_t o = 0; o < s.outputs; ++o) {
    double all = 0.0;
    for (int64_t b = 0; b < s.batch; ++b) {
      if (s.bias_of_image) d_bias[b * s.outputs + o] = static_cast<float>(sums[b * s.outputs + o]);
      all += sums[b * s.outputs + o];
    }
    if (!s.bias_of_image) d_bias[o] = static_cast<float>(all);
  }
}

}  // namespace

void conv2d_forward(const ConvShape& s, const float* x, const float* weight, const float* bias, float* out) {
  const int64_t places = s.out_height * s.out_width;
  if (by_rows(s)) {
    const Taps taps{weight, s.channels * 9, 9, false};
    if (winograd_pays(squares_of(s))) return winograd_conv(squares_of(s), x, taps, bias, s.bias_of_image, out);
    for_strips({s.batch, s.channels, s.outputs, s.out_height, s.out_width, 0}, x, s.height, s.width, s.top, s.left,
               [&](const RowConv& strip, const float* from, int64_t at) {
                 row_conv(strip, from, taps, bias, s.bias_of_image, out + at);
               });
    return;
  }
  if (bias != nullptr) {
#pragma omp parallel for schedule(static)
    for (int64_t plane = 0; plane < s.batch * s.outputs; ++plane)
      std::fill_n(out + plane * places, places, bias[s.bias_of_image ? plane : plane % s.outputs]);
  }
  multiply(weight, s.outputs, s.channels * s.kernel * s.kernel, patches_of(s, x), places, bias != nullptr, out,
           s.products);
}

void conv2d_backward(const ConvShape& s, const float* x, const float* weight, const float* d_out, float* dx,
                     float* d_weight, float* d_bias) {
  if (dx != nullptr) input_gradient(s, weight, d_out, dx);
  if (d_weight != nullptr) weight_gradient(s, x, d_out, d_weight);
  if (d_bias != nullptr) bias_gradient(s, d_out, d_bias);
}

}  // namespace mix
