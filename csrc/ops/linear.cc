#include "ops/linear.h"

#include <deque>
#include <vector>

#include "mix/aligned.h"
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

MapShape shape_of(const LinearShape& shape, int64_t outputs) {
  return {shape.rows, shape.inputs, outputs, shape.products};
}

// Matrices with their adapters in them, for as long as products need them.
class Merged {
 public:
  // The map's weight, or what it and the adapter come to, if that is the shorter way.
  const float* weight_of(const LowRank& adapter, const MapShape& shape, const float* weight) {
    if (!merges(adapter, shape)) return weight;
    float* const merged = kept_.emplace_back(shape.inputs * shape.outputs).data();
    merge(adapter, shape.inputs, shape.outputs, weight, merged);
    return merged;
  }

 private:
  std::deque<Aligned<float>> kept_;
};

}  // namespace

void linear_forward(const LinearShape& shape, const float* x, const LinearMap* maps, int64_t count) {
  const bool few = shape.rows <= kFewRows;
  if (few) gemv_each(x, shape.rows, shape.inputs, maps, count);
  Merged merged;
  std::vector<Product> products;
  for (int64_t i = 0; i < count && !few; ++i) {
    const int64_t outputs = maps[i].outputs;
    const float* const weight = merged.weight_of(maps[i].adapter, shape_of(shape, outputs), maps[i].weight);
    products.push_back({outputs, weight, outputs, maps[i].bias, maps[i].out, outputs});
  }
  if (!few) gemm_each(false, false, shape.rows, shape.inputs, x, shape.inputs, products.data(), count, shape.products);
  for (int64_t i = 0; i < count; ++i) {
    const MapShape own = shape_of(shape, maps[i].outputs);
    if (maps[i].adapter.rank > 0 && (few || !merges(maps[i].adapter, own)))
      add_low_rank(maps[i].adapter, own, x, maps[i].out);
  }
}

void linear_backward(const LinearShape& shape, const float* x, const LinearGradient* maps, int64_t count, float* dx) {
  const int64_t rows = shape.rows, inputs = shape.inputs;
  const Products how = backward_of(shape.products);
  std::vector<Product> of_weights;
  for (int64_t i = 0; i < count; ++i) {
    const LinearGradient& map = maps[i];
    const MapShape own = shape_of(shape, map.outputs);
    if (dx != nullptr) {
      Merged merged;
      gemm(false, true, rows, inputs, map.outputs, 1.0f, map.d_out, map.outputs,
           merged.weight_of(map.adapter, own, map.weight), map.outputs, i == 0 ? 0.0f : 1.0f, dx, inputs, how);
    }
    if (map.adapter.rank > 0)
      low_rank_backward(map.adapter, own, x, map.d_out, map.d_adapter, merges(map.adapter, own) ? nullptr : dx);
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
