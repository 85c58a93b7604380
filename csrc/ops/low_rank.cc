#include "ops/low_rank.h"

#include <algorithm>

#include "mix/aligned.h"
#include "mix/parallel.h"
#include "mix/vector.h"

namespace mix {
namespace {

constexpr int64_t kAtOnce = 8;      // rows of B that one pass over a row of W adds
constexpr int64_t kColumns = 512;   // of B at a time: kAtOnce rows of them stay in the first-level cache

// out[j] = start[j] + the sum over r of factors[r] * rows[r * stride + j]
MIX_INLINE void add_rows_body(const float* start, const float* factors, const float* rows, int64_t stride, int64_t n,
                              float* out) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    float sum = start[j];
    for (int64_t r = 0; r < kAtOnce; ++r) sum += factors[r] * rows[r * stride + j];
    out[j] = sum;
  }
}
MIX_KERNEL(void, add_rows,
           (const float* start, const float* factors, const float* rows, int64_t stride, int64_t n, float* out),
           (start, factors, rows, stride, n, out))

MIX_INLINE void add_row_body(const float* start, float factor, const float* row, int64_t n, float* out) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) out[j] = start[j] + factor * row[j];
}
MIX_KERNEL(void, add_row, (const float* start, float factor, const float* row, int64_t n, float* out),
           (start, factor, row, n, out))

// Columns [begin, begin + n) of one row of the merged matrix; `factors` are s times the row of A.
void merge_row(const float* factors, int64_t rank, const float* up, int64_t outputs, const float* weight, int64_t n,
               float* merged) {
  const float* start = weight;
  int64_t r = 0;
  for (; r + kAtOnce <= rank; r += kAtOnce, start = merged)
    add_rows(start, factors + r, up + r * outputs, outputs, n, merged);
  for (; r < rank; ++r, start = merged) add_row(start, factors[r], up + r * outputs, n, merged);
}

}  // namespace

bool merges(const LowRank& adapter, const MapShape& shape) {
  // the one way reads and writes the matrix, the other way x and the result
  return adapter.rank > 0 && shape.products != Products::kBfloat16 &&
         shape.rows * (shape.inputs + shape.outputs) >= shape.inputs * shape.outputs;
}

void merge(const LowRank& adapter, int64_t inputs, int64_t outputs, const float* weight, float* merged) {
  const int64_t rank = adapter.rank;
  Aligned<float> scaled(inputs * rank);
  std::transform(adapter.down, adapter.down + inputs * rank, scaled.data(),
                 [&](float number) { return adapter.scale * number; });
#pragma omp parallel for schedule(static) if (inputs * outputs >= kWorthThreads)
  for (int64_t i = 0; i < inputs; ++i)
    for (int64_t begin = 0; begin < outputs; begin += kColumns)
      merge_row(scaled.data() + i * rank, rank, adapter.up + begin, outputs, weight + i * outputs + begin,
                std::min(kColumns, outputs - begin), merged + i * outputs + begin);
}

void add_low_rank(const LowRank& adapter, const MapShape& shape, const float* x, float* out) {
  const int64_t rows = shape.rows, inputs = shape.inputs, outputs = shape.outputs, rank = adapter.rank;
  Aligned<float> low(rows * rank);
  gemm(false, false, rows, rank, inputs, adapter.scale, x, inputs, adapter.down, rank, 0.0f, low.data(), rank,
       shape.products);
  gemm(false, false, rows, outputs, rank, 1.0f, low.data(), rank, adapter.up, outputs, 1.0f, out, outputs,
       shape.products);
}

void low_rank_backward(const LowRank& adapter, const MapShape& shape, const float* x, const float* d_out,
                       const LowRankGradient& gradient, float* dx) {
  const int64_t rows = shape.rows, inputs = shape.inputs, outputs = shape.outputs, rank = adapter.rank;
  const Products how = backward_of(shape.products);
  Aligned<float> low(rows * rank);
  if (gradient.up != nullptr) {
    gemm(false, false, rows, rank, inputs, adapter.scale, x, inputs, adapter.down, rank, 0.0f, low.data(), rank, how);
    gemm(true, false, rank, outputs, rows, 1.0f, low.data(), rank, d_out, outputs, 0.0f, gradient.up, outputs, how);
  }
  if (gradient.down == nullptr && dx == nullptr) return;
  float* const d_low = low.data();  // which has served
  gemm(false, true, rows, rank, outputs, adapter.scale, d_out, outputs, adapter.up, outputs, 0.0f, d_low, rank, how);
  if (gradient.down != nullptr) {
    // turned: with x as the right factor BLAS takes a sixth of the time
    Aligned<float> turned(rank * inputs);
    gemm(true, false, rank, inputs, rows, 1.0f, d_low, rank, x, inputs, 0.0f, turned.data(), inputs, how);
    for (int64_t i = 0; i < inputs; ++i)
      for (int64_t r = 0; r < rank; ++r) gradient.down[i * rank + r] = turned.data()[r * inputs + i];
  }
  if (dx != nullptr)
    gemm(false, true, rows, inputs, rank, 1.0f, d_low, rank, adapter.down, rank, 1.0f, dx, inputs, how);
}

}  // namespace mix
