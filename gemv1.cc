#include "ops/gemv.h"

#include <algorithm>
#include <vector>

#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

// Rows of W are added to a sum together: one load and store of the sum for eight of W, all read in sequence.
constexpr int64_t kStep = kGemvStep;
constexpr int64_t kBlock = 64 * kStep;  // inputs in a block
constexpr int64_t kChunk = 2048;        // inputs in a piece of a dot product
constexpr int64_t kSerial = 1 << 15;    // a smaller matrix is read sooner than a second thread wakes

// sum[R, n] += x[R, 8] W[8, n] with x `stride` apart.
MIX_INLINE void add_rows_body(const float* x, int64_t stride, const float* w, int64_t rows, int64_t n, float* sum) {
  constexpr int64_t kLine = 16;
  for (int64_t r = 0; r < rows; ++r) {
    const float* a = x + r * stride;
    float* y = sum + r * n;
    const int64_t lines = n / kLine * kLine;
    for (int64_t i = 0; i < lines; i += kLine) {
      if (r == 0)
        for (int64_t k = kStep; k < 2 * kStep; ++k) __builtin_prefetch(w + k * n + i, 0, 1);
#pragma omp simd
      for (int64_t j = i; j < i + kLine; ++j)
        y[j] += (a[0] * w[j] + a[1] * w[n + j]) + (a[2] * w[2 * n + j] + a[3] * w[3 * n + j]) +
                ((a[4] * w[4 * n + j] + a[5] * w[5 * n + j]) + (a[6] * w[6 * n + j] + a[7] * w[7 * n + j]));
    }
    for (int64_t j = lines; j < n; ++j)
      y[j] += (a[0] * w[j] + a[1] * w[n + j]) + (a[2] * w[2 * n + j] + a[3] * w[3 * n + j]) +
              ((a[4] * w[4 * n + j] + a[5] * w[5 * n + j]) + (a[6] * w[6 * n + j] + a[7] * w[7 * n + j]));
  }
}
MIX_KERNEL(void, add_rows, (const float* x, int64_t stride, const float* w, int64_t rows, int64_t n, float* sum),
           (x, stride, w, rows, n, sum))

MIX_INLINE void add_row_body(const float* x, int64_t stride, const float* w, int64_t rows, int64_t n, float* sum) {
  for (int64_t r = 0; r < rows; ++r) {
    float* y = sum + r * n;
    const float a = x[r * stride];
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) y[j] += a * w[j];
  }
}
MIX_KERNEL(void, add_row, (const float* x, int64_t stride, const float* w, int64_t rows, int64_t n, float* sum),
           (x, stride, w, rows, n, sum))

// out[r * out_stride] += x[r] . w, four rows at a time where there are as many.
MIX_INLINE void add_dots_body(const float* x, int64_t stride, const float* w, int64_t rows, int64_t n,
                              int64_t out_stride, float* out) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4, out += 4 * out_stride) {
    const float *a = x + r * stride, *b = a + stride, *c = b + stride, *d = c + stride;
    float p = 0.0f, q = 0.0f, s = 0.0f, t = 0.0f;
#pragma omp simd reduction(+ : p, q, s, t)
    for (int64_t j = 0; j < n; ++j) {
      p += a[j] * w[j];
      q += b[j] * w[j];
      s += c[j] * w[j];
      t += d[j] * w[j];
    }
    out[0] += p, out[out_stride] += q, out[2 * out_stride] += s, out[3 * out_stride] += t;
  }
  for (; r < rows; ++r, out += out_stride) {
    const float* a = x + r * stride;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; ++j) sum += a[j] * w[j];
    *out += sum;
  }
}
MIX_KERNEL(void, add_dots,
           (const float* x, int64_t stride, const float* w, int64_t rows, int64_t n, int64_t out_stride, float* out),
           (x, stride, w, rows, n, out_stride, out))

}  // namespace

void gemv_inputs(const FewRows& p, int64_t begin, int64_t end, float* block, float* total) {
  const int64_t numbers = p.rows * p.outputs;
  for (int64_t from = begin; from < end; from += kBlock) {
    const int64_t to = std::min(end, from + kBlock), whole = (to - from) / kStep * kStep;
    for (int64_t i = from; i < from + whole; i += kStep)
      add_rows(p.x + i, p.inputs, p.weight + i * p.outputs, p.rows, p.outputs, block);
    for (int64_t i = from + whole; i < to; ++i)
      add_row(p.x + i, p.inputs, p.weight + i * p.outputs, p.rows, p.outputs, block);
    for (int64_t j = 0; j < numbers; ++j) total[j] += block[j];
    std::fill_n(block, numbers, 0.0f);
  }
}

void gemv_each(const float* x, int64_t rows, int64_t inputs, const LinearMap* maps, int64_t count) {
  // Threads share the inputs, so that each reads one piece of a matrix from end to end.
  int64_t outputs = 0, widest = 0;
  for (int64_t i = 0; i < count; ++i) outputs += maps[i].outputs, widest = std::max(widest, maps[i].outputs);
  const int64_t steps = (inputs + kStep - 1) / kStep, own = rows * (outputs + widest);
  const int threads = inputs * outputs > kSerial ? omp_get_max_threads() : 1;
  std::vector<float> sums(static_cast<size_t>(threads) * own, 0.0f);
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    float* total = sums.data() + thread * own;
    float* const block = total + rows * outputs;
    const int64_t begin = steps * thread / team * kStep, end = std::min(inputs, steps * (thread + 1) / team * kStep);
    for (int64_t i = 0; i < count; total += rows * maps[i].outputs, ++i)
      gemv_inputs({x, maps[i].weight, rows, inputs, maps[i].outputs}, begin, end, block, total);
  }
  const float* of_map = sums.data();
  for (int64_t i = 0; i < count; of_map += rows * maps[i].outputs, ++i) {
    const int64_t n = maps[i].outputs;
    std::copy_n(of_map, rows * n, maps[i].out);
    for (int64_t t = 1; t < threads; ++t)
      for (int64_t j = 0; j < rows * n; ++j) maps[i].out[j] += of_map[t * own + j];
    if (maps[i].bias == nullptr) continue;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < n; ++j) maps[i].out[r * n + j] += maps[i].bias[j];
  }
}

void gemv_transposed(const float* x, const float* weight, int64_t rows, int64_t inputs, int64_t outputs, float* out) {
#pragma omp parallel for schedule(static) if (inputs * outputs > kSerial)
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t r = 0; r < rows; ++r) out[r * outputs + o] = 0.0f;
    for (int64_t begin = 0; begin < inputs; begin += kChunk)
      add_dots(x + begin, inputs, weight + o * inputs + begin, rows, std::min(kChunk, inputs - begin), outputs, out + o);
  }
}

}  // namespace mix
