#include <algorithm>
#include <cstring>

#include "mix/aligned.h"
#include "mix/gemm.h"
#include "mix/vector.h"
#include "ops/conv_winograd.h"
#include "ops/lanes.h"

namespace mix {
namespace {

constexpr int64_t kTogether = 24;      // outputs of a task, or eight times as many of a large product
constexpr int64_t kLarge = 1 << 15;    // pairs of outputs and channels from which on a library's product is faster

// Sums that registers hold: of so many outputs and channels.
template <int LANES>
constexpr int kOutputs = LANES == 16 ? 4 : 2;
template <int LANES>
constexpr int kChannels = LANES == 16 ? 6 : 4;

// Two rows of numbers for each pair of an output and a channel, whose products are summed over squares.
struct Rows {
  const float* d_out;
  const float* x;
  int64_t stride, squares;
};

// sums[output][channel] (+)= the sums of `rows`.
template <int LANES>
MIX_INLINE void sum_squares_body(const Rows& rows, int64_t outputs, int64_t channels, bool add, float* sums) {
  using Vector = typename Lanes<LANES>::Vector;
  constexpr int O = kOutputs<LANES>, C = kChannels<LANES>;
  for (int64_t output = 0; output < outputs; output += O) {
    const float* d_out[O];
    for (int o = 0; o < O; ++o) d_out[o] = rows.d_out + std::min(output + o, outputs - 1) * rows.stride;
    for (int64_t channel = 0; channel < channels; channel += C) {
      const float* x[C];
      for (int c = 0; c < C; ++c) x[c] = rows.x + std::min(channel + c, channels - 1) * rows.stride;
      Vector all[O][C] = {};
      for (int64_t square = 0; square < rows.squares; square += LANES) {
        Vector from[O];
#pragma GCC unroll 4
        for (int o = 0; o < O; ++o) from[o] = *reinterpret_cast<const Vector*>(d_out[o] + square);
#pragma GCC unroll 6
        for (int c = 0; c < C; ++c) {
          const Vector part = *reinterpret_cast<const Vector*>(x[c] + square);
#pragma GCC unroll 4
          for (int o = 0; o < O; ++o) all[o][c] += from[o] * part;
        }
      }
      float parts[O * C][LANES];
      std::memcpy(parts, all, sizeof(parts));
#pragma GCC unroll 4
      for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < O * C; ++i)
          for (int l = 0; l < half; ++l) parts[i][l] += parts[i][l + half];
      for (int64_t o = 0; o < std::min<int64_t>(O, outputs - output); ++o)
        for (int64_t c = 0; c < std::min<int64_t>(C, channels - channel); ++c) {
          float& to = sums[(output + o) * channels + channel + c];
          to = add ? to + parts[o * C + c][0] : parts[o * C + c][0];
        }
    }
  }
}
MIX_KERNEL_OF_LANES(void, sum_squares, (const Rows& rows, int64_t outputs, int64_t channels, bool add, float* sums),
                    (rows, outputs, channels, add, sums))

// The gradients of one output's kernels, d_weight [channels, 9], from their sums in the basis: the transpose of the
// kernels' way there.
MIX_INLINE void kernel_gradients_body(int64_t channels, int64_t apart, const float* from, float* d_weight) {
  for (int64_t channel = 0; channel < channels; ++channel, ++from, d_weight += 9) {
    float up[3][4];
    for (int j = 0; j < 4; ++j) {
      const float a = from[j * apart], b = from[(4 + j) * apart], c = from[(8 + j) * apart], d = from[(12 + j) * apart];
      up[0][j] = a + 0.5f * (b + c);
      up[1][j] = 0.5f * (b - c);
      up[2][j] = 0.5f * (b + c) + d;
    }
    for (int i = 0; i < 3; ++i) {
      d_weight[3 * i] = up[i][0] + 0.5f * (up[i][1] + up[i][2]);
      d_weight[3 * i + 1] = 0.5f * (up[i][1] - up[i][2]);
      d_weight[3 * i + 2] = 0.5f * (up[i][1] + up[i][2]) + up[i][3];
    }
  }
}
MIX_KERNEL(void, kernel_gradients, (int64_t channels, int64_t apart, const float* from, float* d_weight),
           (channels, apart, from, d_weight))

}  // namespace

bool winograd_weight_gradient_pays(const SquareConv& s) {
  const Blocks blocks(s);
  const bool whole = blocks.columns % 8 == 0;  // else vectors end between squares
  return std::min(s.channels, s.outputs) >= (whole ? 64 : 128) &&
         s.batch * blocks.all_rows * blocks.all_columns >= 128;
}

void winograd_weight_gradient(const SquareConv& s, const float* x, const float* d_out, float* d_weight,
                              int64_t numbers) {
  const Blocks blocks(s);
  const int64_t planes = s.channels + s.outputs, all = s.batch * blocks.of_image;
  const int64_t at_once = std::min(all, std::max<int64_t>(1, numbers / (kBasis * kSquares * planes)));
  const int64_t stride = at_once * kSquares + 16;  // rows begin in different sets of a cache
  const int64_t apart = planes * stride, of_sums = s.outputs * s.channels;
  const bool large = of_sums >= kLarge;
  const int64_t together = large ? kTogether * 8 : kTogether, tasks = (s.outputs + together - 1) / together;
  const int64_t of_x = (s.channels + kBasisTogether - 1) / kBasisTogether;
  const int64_t of_d = (s.outputs + kBasisTogether - 1) / kBasisTogether;
  const Aligned<float> basis(kBasis * apart), sums(kBasis * of_sums);
#pragma omp parallel
  {
    for (int64_t begin = 0; begin < all; begin += at_once) {
      const int64_t count = std::min(at_once, all - begin);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < (of_x + of_d) * count; ++i) {
        const Block block = blocks.at(begin + i % count);
        const bool image = i / count < of_x;
        const int64_t first = (i / count - (image ? 0 : of_x)) * kBasisTogether;
        float* const to = basis.data() + (first + (image ? 0 : s.channels)) * stride + i % count * kSquares;
        if (image)
          image_to_basis(s, block, x, first, std::min(kBasisTogether, s.channels - first), {to, stride, apart});
        else
          gradient_to_basis(s, block, d_out, first, std::min(kBasisTogether, s.outputs - first), {to, stride, apart});
      }
#pragma omp for schedule(static)
      for (int64_t i = 0; i < kBasis * tasks; ++i) {
        const int64_t first = i % tasks * together, outputs = std::min(together, s.outputs - first);
        const float* const matrix = basis.data() + i / tasks * apart;
        const Rows rows{matrix + (s.channels + first) * stride, matrix, stride, count * kSquares};
        float* const to = sums.data() + i / tasks * of_sums + first * s.channels;
        if (large)
          gemm(false, true, outputs, s.channels, rows.squares, 1.0f, rows.d_out, stride, rows.x, stride,
               begin == 0 ? 0.0f : 1.0f, to, s.channels);
        else
          sum_squares(rows, outputs, s.channels, begin != 0, to);
      }
    }
#pragma omp for schedule(static)
    for (int64_t output = 0; output < s.outputs; ++output)
      kernel_gradients(s.channels, of_sums, sums.data() + output * s.channels, d_weight + output * s.channels * 9);
  }
}

}  // namespace mix
