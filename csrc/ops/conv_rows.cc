#include "ops/conv_rows.h"

#include <algorithm>
#include <cstring>

#include "mix/aligned.h"
#include "mix/parallel.h"
#include "mix/vector.h"
#include "ops/lanes.h"

namespace mix {
namespace {

constexpr int64_t kTaps = 9, kEdge = 2;
constexpr int64_t kOutputs = 6;        // of a block: with four vectors of places, 24 sums in registers
constexpr int64_t kChannels = 16;      // summed before they join the total: fewer roundings of a large sum
constexpr int64_t kSlack = 64;         // numbers that a vector at the end may read too far
constexpr int64_t kGradientOutputs = 3;
constexpr int64_t kTogether = 1 << 14;  // places that are summed in float32

template <int LANES>
constexpr int kVectors = LANES == 16 ? 4 : 2;  // of places, side by side

// Keep a number that several sums take in a register: compilers read it anew for each.
template <typename Vector>
MIX_INLINE void keep(Vector& numbers) {
#if defined(__x86_64__)
  __asm__("" : "+x"(numbers));
#else
  (void)numbers;
#endif
}

int64_t lanes() { return active_isa() == Isa::kAvx512 ? 16 : active_isa() == Isa::kAvx2 ? 8 : 4; }

// Places whose sums are taken together: up to four vectors, each of one row of the result.
struct Places {
  const float* from[4];  // the place's first tap in the first channel
  int64_t at[4];         // where the result stands in its plane
  int64_t count[4];      // of its numbers; 0: the vector is not there
};

// out[output][at] of up to six outputs. `weight` is [channels, 9, 6].
template <int LANES>
MIX_INLINE void add_rows_body(const Places& places, int64_t channels, int64_t plane, int64_t row, const float* weight,
                              const float* bias, int64_t outputs, int64_t of_output, float* out) {
  using Vector = typename Lanes<LANES>::Vector;
  using Anywhere = typename Lanes<LANES>::Anywhere;
  constexpr int V = kVectors<LANES>;
  Vector total[kOutputs][V];
  for (int o = 0; o < kOutputs; ++o)
    for (int v = 0; v < V; ++v) total[o][v] = Vector{} + bias[o];
  for (int64_t begin = 0; begin < channels; begin += kChannels) {
    Vector sums[kOutputs][V] = {};
    for (int64_t channel = begin; channel < std::min(channels, begin + kChannels); ++channel) {
      int64_t shift = channel * plane;
      for (int i = 0; i < 3; ++i, shift += row) {
#pragma GCC unroll 1  // taps side by side would not leave the sums in registers
        for (int j = 0; j < 3; ++j, weight += kOutputs) {
          Vector x[V];
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) x[v] = *reinterpret_cast<const Anywhere*>(places.from[v] + shift + j);
#pragma GCC unroll 6
          for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[o][v] += x[v] * weight[o];
        }
      }
    }
#pragma GCC unroll 6
    for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) total[o][v] += sums[o][v];
  }
  for (int64_t o = 0; o < outputs; ++o)
    for (int v = 0; v < V; ++v) {
      float* const to = out + o * of_output + places.at[v];
      if (places.count[v] == LANES)
        *reinterpret_cast<Anywhere*>(to) = total[o][v];
      else
        std::memcpy(to, &total[o][v], places.count[v] * sizeof(float));
    }
}
MIX_KERNEL_OF_LANES(void, add_rows,
                    (const Places& places, int64_t channels, int64_t plane, int64_t row, const float* weight,
                     const float* bias, int64_t outputs, int64_t of_output, float* out),
                    (places, channels, plane, row, weight, bias, outputs, of_output, out))

// The same channel of some images, and their gradients in rows of `columns` numbers: whole vectors that end in zeros.
struct Pairs {
  const float* x;
  const float* d_out;
  int64_t images, x_image, d_out_image;  // how many, and numbers from one to the next
  int64_t height, row, columns, of_output;
};

// sums[output][tap] over all places of one channel and up to three outputs.
template <int LANES>
MIX_INLINE void sum_places_body(const Pairs& p, int64_t outputs, float* sums) {
  using Vector = typename Lanes<LANES>::Vector;
  using Anywhere = typename Lanes<LANES>::Anywhere;
  constexpr int O = LANES == 16 ? kGradientOutputs : 1;
  for (int64_t first = 0; first < outputs; first += O) {
    Vector taps[O][kTaps] = {};
    for (int64_t image = 0; image < p.images; ++image) {
      const float* const x = p.x + image * p.x_image;
      const float* d[O];
#pragma GCC unroll 3
      for (int o = 0; o < O; ++o)
        d[o] = p.d_out + image * p.d_out_image + std::min(first + o, outputs - 1) * p.of_output;
      for (int64_t y = 0; y < p.height; ++y)
        for (int64_t column = 0; column < p.columns; column += LANES) {
          Vector from[O];
#pragma GCC unroll 3
          for (int o = 0; o < O; ++o) from[o] = *reinterpret_cast<const Anywhere*>(d[o] + y * p.columns + column);
#pragma GCC unroll 3
          for (int i = 0; i < 3; ++i)
#pragma GCC unroll 3
            for (int j = 0; j < 3; ++j) {
              Vector part = *reinterpret_cast<const Anywhere*>(x + (y + i) * p.row + column + j);
              keep(part);
#pragma GCC unroll 3
              for (int o = 0; o < O; ++o) taps[o][3 * i + j] += from[o] * part;
            }
        }
    }
    const int64_t count = std::min<int64_t>(O, outputs - first) * kTaps;
    float parts[O * kTaps][LANES];
    std::memcpy(parts, taps, sizeof(parts));
#pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2)
      for (int tap = 0; tap < O * kTaps; ++tap)
        for (int i = 0; i < half; ++i) parts[tap][i] += parts[tap][i + half];
    for (int64_t tap = 0; tap < count; ++tap) sums[first * kTaps + tap] = parts[tap][0];
  }
}
MIX_KERNEL_OF_LANES(void, sum_places, (const Pairs& p, int64_t outputs, float* sums), (p, outputs, sums))

int64_t plane_of(const RowConv& s) { return (s.height + kEdge) * (s.width + kEdge); }

// [blocks, channels, 9, 6]; outputs that are not there have zeros.
void pack(const RowConv& s, const Taps& taps, float* to) {
  const int64_t blocks = (s.outputs + kOutputs - 1) / kOutputs;
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t channel = 0; channel < s.channels; ++channel) {
      float* const own = to + (block * s.channels + channel) * kTaps * kOutputs;
      for (int64_t o = 0; o < kOutputs; ++o) {
        const int64_t output = block * kOutputs + o;
        const float* const from = taps.weight + output * taps.of_output + channel * taps.of_channel;
        for (int64_t tap = 0; tap < kTaps; ++tap)
          own[tap * kOutputs + o] = output < s.outputs ? from[taps.turned ? kTaps - 1 - tap : tap] : 0.0f;
      }
    }
}

// Rows of whole vectors, which end in zeros; the planes of a strip one after another.
void widen_rows(const RowConv& s, const float* from, int64_t columns, float* to) {
#pragma omp parallel for schedule(static)
  for (int64_t plane = 0; plane < s.batch * s.outputs; ++plane)
    for (int64_t row = 0; row < s.height; ++row) {
      float* const own = to + (plane * s.height + row) * columns;
      std::copy_n(from + plane * s.of_plane + row * s.width, s.width, own);
      std::fill_n(own + s.width, columns - s.width, 0.0f);
    }
}

}  // namespace

int64_t surrounded_size(const RowConv& s) { return s.batch * s.channels * plane_of(s) + kSlack; }

void surround(const RowConv& s, const float* x, int64_t from_height, int64_t from_width, int64_t top, int64_t left,
              float* to) {
  const int64_t rows = s.height + kEdge, width = s.width + kEdge;
  const int64_t count = std::min(from_width, width - left);
#pragma omp parallel for schedule(static)
  for (int64_t plane = 0; plane < s.batch * s.channels; ++plane)
    for (int64_t row = 0; row < rows; ++row) {
      float* const own = to + (plane * rows + row) * width;
      if (row < top || row >= top + from_height) {
        std::fill_n(own, width, 0.0f);
        continue;
      }
      std::fill_n(own, left, 0.0f);
      std::copy_n(x + (plane * from_height + row - top) * from_width, count, own + left);
      std::fill_n(own + left + count, width - left - count, 0.0f);
    }
  std::fill_n(to + s.batch * s.channels * plane_of(s), kSlack, 0.0f);
}

void row_conv(const RowConv& s, const float* x, const Taps& taps, const float* bias, bool of_image, float* out) {
  const int64_t wide = lanes(), vectors = wide == 16 ? 4 : 2;
  const int64_t of_row = (s.width + wide - 1) / wide, all = s.height * of_row, groups = (all + vectors - 1) / vectors;
  const int64_t blocks = (s.outputs + kOutputs - 1) / kOutputs, row = s.width + kEdge, plane = plane_of(s);
  Aligned<float> weight(blocks * s.channels * kTaps * kOutputs);
  pack(s, taps, weight.data());
#pragma omp parallel for schedule(static)
  for (int64_t task = 0; task < s.batch * groups; ++task) {
    const int64_t image = task / groups;
    Places places;
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t wanted = task % groups * vectors + v, vector = std::min(wanted, all - 1);
      const int64_t y = vector / of_row, column = vector % of_row * wide;
      places.from[v] = x + image * s.channels * plane + y * row + column;
      places.at[v] = y * s.width + column;
      places.count[v] = wanted < all ? std::min(wide, s.width - column) : 0;
    }
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * kOutputs, count = std::min(kOutputs, s.outputs - first);
      float start[kOutputs] = {};
      if (bias != nullptr) std::copy_n(bias + (of_image ? image * s.outputs : 0) + first, count, start);
      add_rows(places, s.channels, plane, row, weight.data() + block * s.channels * kTaps * kOutputs, start, count,
               s.of_plane, out + (image * s.outputs + first) * s.of_plane);
    }
  }
}

void row_conv_weight_gradient(const RowConv& s, const float* x, const float* d_out, bool add, float* d_weight) {
  const int64_t wide = lanes(), columns = (s.width + wide - 1) / wide * wide, places = s.height * columns;
  const bool whole = columns == s.width;
  const Aligned<float> widened(whole ? 0 : s.batch * s.outputs * places);
  if (!whole) widen_rows(s, d_out, columns, widened.data());
  const float* const from = whole ? d_out : widened.data();
  const int64_t blocks = (s.outputs + kGradientOutputs - 1) / kGradientOutputs, of_output = whole ? s.of_plane : places;
  const int64_t plane = plane_of(s), together = std::max<int64_t>(1, kTogether / places);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kGradientOutputs, count = std::min(kGradientOutputs, s.outputs - first);
    for (int64_t channel = 0; channel < s.channels; ++channel) {
      double all[kGradientOutputs * kTaps] = {};
      for (int64_t image = 0; image < s.batch; image += together) {
        const Pairs pairs{x + (image * s.channels + channel) * plane,
                          from + (image * s.outputs + first) * of_output,
                          std::min(together, s.batch - image),
                          s.channels * plane,
                          s.outputs * of_output,
                          s.height,
                          s.width + kEdge,
                          columns,
                          of_output};
        float sums[kGradientOutputs * kTaps];
        sum_places(pairs, count, sums);
        for (int64_t i = 0; i < count * kTaps; ++i) all[i] += sums[i];
      }
      for (int64_t i = 0; i < count * kTaps; ++i) {
        float& to = d_weight[((first + i / kTaps) * s.channels + channel) * kTaps + i % kTaps];
        to = static_cast<float>(add ? to + all[i] : all[i]);
      }
    }
  }
}

}  // namespace mix
