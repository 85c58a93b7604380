#include "ops/linear.h"

#include <vector>

#include "mix/gemm.h"
#include "mix/parallel.h"
#include "mix/vector.h"
#include "ops/gemv.h"

namespace mix {
namespace {

MIX_INLINE void add_row_body(const float* x, int64_t n, float* sum) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) sum[j] += x[j];
}
MIX_KERNEL(void, add_row, (const float* x, int64_t n, float* sum), (x, n, sum))

}  // namespace

void linear_forward(const LinearShape& shape, const float* x, const LinearMap* maps, int64_t count) {
  if (shape.rows <= kFewRows) return gemv_each(x, shape.rows, shape.inputs, maps, count);
  std::vector<Product> products;
  for (int64_t i = 0; i < count; ++i)
    products.push_back({maps[i].outputs, maps[i].weight, maps[i].outputs, maps[i].bias, maps[i].out, maps[i].outputs});
  gemm_each(false, false, shape.rows, shape.inputs, x, shape.inputs, products.data(), count, shape.products);
}

void linear_backward(const LinearShape& shape, const float* x, const LinearGradient* maps, int64_t count, float* dx) {
  const int64_t rows = shape.rows, inputs = shape.inputs;
  const Products how = backward_of(shape.products);
  std::vector<Product> of_weights;
  for (int64_t i = 0; i < count; ++i) {
    const LinearGradient& map = maps[i];
    if (dx != nullptr)
      gemm(false, true, rows, inputs, map.outputs, 1.0f, map.d_out, map.outputs, map.weight, map.outputs,
           i == 0 ? 0.0f : 1.0f, dx, inputs, how);
    if (map.d_weight != nullptr)
      of_weights.push_back({map.outputs, map.d_out, map.outputs, nullptr, map.d_weight, map.outputs});
    if (map.d_bias != nullptr)
      sum_rows(rows, map.outputs, map.d_bias,
               [&](int64_t r, float* sum) { add_row(map.d_out + r * map.outputs, map.outputs, sum); });
  }
  if (!of_weights.empty())
    gemm_each(true, false, inputs, rows, x, inputs, of_weights.data(), static_cast<int64_t>(of_weights.size()), how);
}

}  // namespace mix
