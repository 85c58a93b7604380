#include "ops/conv_winograd.h"

#include <omp.h>

#include <algorithm>

#include "mix/aligned.h"
#include "mix/vector.h"
#include "ops/lanes.h"

namespace mix {
namespace {

constexpr int64_t kOutputs = 6;         // of a product: with four vectors of squares, 24 sums in registers
constexpr int64_t kTogether = 48;       // outputs of a task
constexpr int64_t kChannels = 128;      // summed before they join the total: fewer roundings of a large sum
constexpr int64_t kApart = 80;          // numbers between matrices, which then begin in different sets of a cache

template <int LANES>
constexpr int kVectors = LANES == 16 ? 4 : 2;  // of squares, side by side

// out[output][square] = the sum over channels of weight [channels, 6] and x [channels, 64], of V vectors of squares.
template <int LANES, int V>
MIX_INLINE void multiply_vectors(int64_t channels, const float* weight, const float* x, float* out) {
  using Vector = typename Lanes<LANES>::Vector;
  for (int64_t begin = 0; begin < channels; begin += kChannels) {
    Vector sums[kOutputs][V] = {};
    for (int64_t channel = begin; channel < std::min(channels, begin + kChannels); ++channel) {
      Vector from[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) from[v] = *reinterpret_cast<const Vector*>(x + v * LANES);
#pragma GCC unroll 6
      for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[o][v] += from[v] * weight[o];
      x += kSquares;
      weight += kOutputs;
    }
#pragma GCC unroll 6
    for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        Vector& to = *reinterpret_cast<Vector*>(out + o * kSquares + v * LANES);
        to = begin == 0 ? sums[o][v] : to + sums[o][v];
      }
  }
}

// The same of `groups` of six outputs and all squares of a block.
template <int LANES>
MIX_INLINE void multiply_body(int64_t groups, int64_t squares, int64_t channels, const float* weight, const float* x,
                              float* out) {
  constexpr int V = kVectors<LANES>;
  for (int64_t first = 0; first < squares; first += V * LANES) {
    const int64_t vectors = (squares - first + LANES - 1) / LANES;
    for (int64_t group = 0; group < groups; ++group) {
      const float* const own = weight + group * channels * kOutputs;
      float* const to = out + group * kOutputs * kSquares + first;
      if (vectors >= V)
        multiply_vectors<LANES, V>(channels, own, x + first, to);
      else if (vectors == 3)
        multiply_vectors<LANES, 3>(channels, own, x + first, to);
      else if (vectors == 2)
        multiply_vectors<LANES, 2>(channels, own, x + first, to);
      else
        multiply_vectors<LANES, 1>(channels, own, x + first, to);
    }
  }
}
MIX_KERNEL_OF_LANES(void, multiply,
                    (int64_t groups, int64_t squares, int64_t channels, const float* weight, const float* x,
                     float* out),
                    (groups, squares, channels, weight, x, out))

// The kernels of six outputs from `first` on: to [channels, 6] in each matrix; outputs that are not there have zeros.
MIX_INLINE void kernels_body(const SquareConv& s, const Taps& taps, int64_t first, int64_t apart, float* to) {
  const int64_t outputs = std::min(kOutputs, s.outputs - first);
  for (int64_t channel = 0; channel < s.channels; ++channel, to += kOutputs) {
    float kernel[9][kOutputs] = {}, down[4][3][kOutputs];
    for (int64_t o = 0; o < outputs; ++o) {
      const float* const from = taps.weight + (first + o) * taps.of_output + channel * taps.of_channel;
      for (int tap = 0; tap < 9; ++tap) kernel[tap][o] = from[taps.turned ? 8 - tap : tap];
    }
    for (int j = 0; j < 3; ++j)
      for (int64_t o = 0; o < kOutputs; ++o) {
        const float a = kernel[j][o], b = kernel[3 + j][o], c = kernel[6 + j][o];
        down[0][j][o] = a;
        down[1][j][o] = 0.5f * (a + b + c);
        down[2][j][o] = 0.5f * (a - b + c);
        down[3][j][o] = c;
      }
    for (int i = 0; i < 4; ++i)
      for (int64_t o = 0; o < kOutputs; ++o) {
        const float a = down[i][0][o], b = down[i][1][o], c = down[i][2][o];
        to[4 * i * apart + o] = a;
        to[(4 * i + 1) * apart + o] = 0.5f * (a + b + c);
        to[(4 * i + 2) * apart + o] = 0.5f * (a - b + c);
        to[(4 * i + 3) * apart + o] = c;
      }
  }
}
MIX_KERNEL(void, kernels, (const SquareConv& s, const Taps& taps, int64_t first, int64_t apart, float* to),
           (s, taps, first, apart, to))

// The outputs [first, first + outputs).
void conv_of_outputs(const SquareConv& s, const float* x, const Taps& taps, const float* bias, bool of_image,
                     int64_t first, int64_t outputs, float* out) {
  const Blocks blocks(s);
  const int64_t all = s.batch * blocks.of_image, at_once = std::min<int64_t>(all, omp_get_max_threads());
  const int64_t groups = (outputs + kOutputs - 1) / kOutputs, of_task = kTogether / kOutputs;
  const int64_t tasks = (groups + of_task - 1) / of_task, parts = (s.channels + kBasisTogether - 1) / kBasisTogether;
  const int64_t of_weight = groups * s.channels * kOutputs + kApart, of_x = s.channels * kSquares + kApart;
  const int64_t of_out = groups * kOutputs * kSquares + kApart;
  const Aligned<float> weights(kBasis * of_weight), from(at_once * kBasis * of_x), to(at_once * kBasis * of_out);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t group = 0; group < groups; ++group)
      kernels(s, taps, first + group * kOutputs, of_weight, weights.data() + group * s.channels * kOutputs);
    for (int64_t begin = 0; begin < all; begin += at_once) {
      const int64_t count = std::min(at_once, all - begin);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < count * parts; ++i) {
        const int64_t part = i % parts * kBasisTogether;
        image_to_basis(s, blocks.at(begin + i / parts), x, part, std::min(kBasisTogether, s.channels - part),
                       {from.data() + i / parts * kBasis * of_x + part * kSquares, kSquares, of_x});
      }
#pragma omp for schedule(static)
      for (int64_t i = 0; i < count * kBasis * tasks; ++i) {
        const int64_t matrix = i / tasks, group = i % tasks * of_task;
        const Block block = blocks.at(begin + matrix / kBasis);
        multiply(std::min(of_task, groups - group), block.rows * block.columns, s.channels,
                 weights.data() + matrix % kBasis * of_weight + group * s.channels * kOutputs,
                 from.data() + matrix * of_x, to.data() + matrix * of_out + group * kOutputs * kSquares);
      }
#pragma omp for schedule(static)
      for (int64_t i = 0; i < count * outputs; ++i) {
        const Block block = blocks.at(begin + i / outputs);
        const int64_t output = i % outputs, plane = block.image * s.outputs + first + output;
        basis_to_result(s, block, to.data() + i / outputs * kBasis * of_out + output * kSquares, of_out,
                        bias == nullptr ? 0.0f : bias[of_image ? plane : first + output],
                        out + plane * s.height * s.width);
      }
    }
  }
}

}  // namespace

bool winograd_pays(const SquareConv& s) {
  const Blocks blocks(s);
  return std::min(s.channels, s.outputs) >= 24 && blocks.all_rows * blocks.all_columns >= 32;
}

void winograd_conv(const SquareConv& s, const float* x, const Taps& taps, const float* bias, bool of_image,
                   float* out, int64_t numbers) {
  const int64_t outputs = std::max(kTogether, numbers / (kBasis * s.channels) / kTogether * kTogether);
  for (int64_t first = 0; first < s.outputs; first += outputs)
    conv_of_outputs(s, x, taps, bias, of_image, first, std::min(outputs, s.outputs - first), out);
}

}  // namespace mix
