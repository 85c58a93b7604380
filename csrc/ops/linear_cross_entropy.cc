#include "ops/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "mix/gemm.h"
#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

// Logits of a block, in numbers. Each block reads the weight twice and walks its gradient, so that large blocks are
// faster: with 32,000 words of width 512 and 1,024 tokens, 2^23 takes 1.08 times and 2^21 1.5 times as long.
constexpr int64_t kMaxLogits = int64_t{1} << 24;
constexpr int64_t kChunk = 1024;  // exponentials summed in float before they go into a double

int64_t rows_of_block(const HeadLoss& loss) {
  return std::max<int64_t>(1, std::min(loss.count, kMaxLogits / loss.vocab));
}

MIX_INLINE float maximum_body(const float* z, int64_t n) {
  float top = z[0];
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < n; ++j) top = z[j] > top ? z[j] : top;
  return top;
}
MIX_KERNEL(float, maximum, (const float* z, int64_t n), (z, n))

// z <- exp(z - top), and their sum; NaN and infinity anywhere make it NaN.
MIX_INLINE double exponentials_body(float* z, int64_t n, float top) {
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = std::min(n, begin + kChunk);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = begin; j < end; ++j) {
      z[j] = fast_exp(z[j] - top);
      sum += z[j];
    }
    total += sum;
  }
  return total;
}
MIX_KERNEL(double, exponentials, (float* z, int64_t n, float top), (z, n, top))

MIX_INLINE void scaled_body(const float* x, int64_t n, float factor, float* out) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) out[j] = x[j] * factor;
}
MIX_KERNEL(void, scaled, (const float* x, int64_t n, float factor, float* out), (x, n, factor, out))

}  // namespace

int64_t head_loss_scratch(const HeadLoss& loss) { return rows_of_block(loss) * (loss.vocab + 2 * loss.dim); }

double head_loss(const HeadLoss& loss, float* scratch, float* d_hidden, float* d_weight) {
  const int64_t D = loss.dim, V = loss.vocab, block = rows_of_block(loss);
  float* const logits = scratch;
  float* const hidden = logits + block * V;
  float* const part = hidden + block * D;
  std::vector<double> losses(static_cast<size_t>(loss.count));
  std::vector<float> inverse(static_cast<size_t>(block));
  if (d_weight != nullptr && loss.count == 0) std::fill_n(d_weight, V * D, 0.0f);
  for (int64_t begin = 0; begin < loss.count; begin += block) {
    const int64_t count = std::min(block, loss.count - begin);
    const int64_t* const rows = loss.rows + begin;
    for (int64_t r = 0; r < count; ++r) std::copy_n(loss.hidden + rows[r] * D, D, hidden + r * D);
    gemm(false, true, count, V, D, 1.0f, hidden, D, loss.weight, D, 0.0f, logits, V, loss.products);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < count; ++r) {
      float* const z = logits + r * V;
      float& of_label = z[loss.labels[begin + r]];
      const float top = maximum(z, V);
      const double below_top = static_cast<double>(top) - of_label;
      const double sum = exponentials(z, V, top);
      losses[begin + r] = std::log(sum) + below_top;
      // dz times the sum: dividing the rows of hidden and of d_hidden instead saves a pass over the logits
      of_label -= static_cast<float>(sum);
      inverse[r] = static_cast<float>(1.0 / sum);
    }
    if (d_hidden != nullptr) {
      gemm(false, false, count, D, V, 1.0f, logits, V, loss.weight, D, 0.0f, part, D,
           backward_of(loss.products));
      for (int64_t r = 0; r < count; ++r) scaled(part + r * D, D, inverse[r], d_hidden + rows[r] * D);
    }
    if (d_weight != nullptr) {
      for (int64_t r = 0; r < count; ++r) scaled(hidden + r * D, D, inverse[r], hidden + r * D);
      gemm(true, false, V, D, count, 1.0f, logits, V, hidden, D, begin == 0 ? 0.0f : 1.0f, d_weight, D,
           backward_of(loss.products));
    }
  }
  double total = 0.0;
  for (const double of_row : losses) total += of_row;
  return total;
}

}  // namespace mix
