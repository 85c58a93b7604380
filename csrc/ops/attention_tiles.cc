#include "ops/attention_tiles.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "mix/aligned.h"
#include "mix/parallel.h"
#include "ops/attention_rows.h"
#include "ops/gemm_tiles.h"

namespace mix {
namespace {

constexpr int64_t kShortest = 64;                   // tokens of the longest segment; below, packing costs more than it saves
constexpr int64_t kForwardRows = 64;                // queries at a time
constexpr int64_t kBackwardRows = 128;              // and going back,
constexpr int64_t kBackwardKeys = 512;              // with so many keys: two blocks of scores stay in the second-level cache
constexpr int64_t kTogether = int64_t{1} << 22;     // packed numbers of the heads that threads share between two barriers

int64_t rounded(int64_t count) { return (count + kPackedLanes - 1) / kPackedLanes * kPackedLanes; }

// Parts of the factors: of scores, of what they weight and of their gradients, and of the sums going back. A score's
// gradient is a small difference of large products.
struct Parts {
  int scores, gradient;
};

Parts parts_of(const AttentionShape& shape) {
  return shape.products == Products::kBfloat16 ? Parts{1, 1} : Parts{3, 2};
}

// A segment's keys and values of one head, which a group of query heads reads.
struct Shared {
  int64_t segment, head;
  int64_t q0, q_len, k0, k_len;
};

std::vector<Shared> shared_of(const AttentionShape& shape) {
  std::vector<Shared> all;
  for (int64_t s = 0; s < shape.segments; ++s)
    for (int64_t h = 0; h < shape.kv_heads; ++h)
      all.push_back({s, h, shape.cu_q[s], shape.cu_q[s + 1] - shape.cu_q[s], shape.cu_k[s],
                     shape.cu_k[s + 1] - shape.cu_k[s]});
  return all;
}

// x times `factor`, [rows, dim] without gaps.
void copy_scaled(const float* x, int64_t stride, int64_t rows, int64_t dim, float factor, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(x + r * stride, dim, out + r * dim);
    scale_row(out + r * dim, dim, factor);
  }
}

class Forward {
 public:
  Forward(const AttentionShape& shape, const float* q, const float* k, const float* v, float* out, float* lse)
      : shape_(shape), parts_(parts_of(shape).scores), q_(q), k_(k), v_(v), out_(out), lse_(lse) {}

  void run() {
    const std::vector<Shared> all = shared_of(shape_);
    for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
      int64_t numbers = 0;
      for (; end < all.size() && (end == begin || numbers + numbers_of(all[end]) <= kTogether); ++end)
        numbers += numbers_of(all[end]);
      together(all.data() + begin, static_cast<int64_t>(end - begin), numbers);
    }
  }

 private:
  struct Task {
    int64_t shared, head, row;
  };
  struct Operands {
    Packed keys, values;
  };

  int64_t numbers_of(const Shared& one) const {
    return packed_numbers(parts_, one.k_len, shape_.head_dim) + packed_numbers(parts_, shape_.head_dim, one.k_len);
  }

  void together(const Shared* all, int64_t count, int64_t numbers) {
    const int64_t dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
    Aligned<uint16_t> packed(numbers);
    std::vector<uint16_t*> places;
    std::vector<Operands> operands(static_cast<size_t>(count));
    std::vector<Task> tasks;
    int64_t longest = 0;
    uint16_t* place = packed.data();
    for (int64_t i = 0; i < count; ++i) {
      places.push_back(place);
      place += packed_numbers(parts_, all[i].k_len, dim);
      places.push_back(place);
      place += packed_numbers(parts_, dim, all[i].k_len);
      longest = std::max(longest, all[i].k_len);
      for (int64_t n = 0; n < group; ++n)
        for (int64_t row = 0; row < all[i].q_len; row += kForwardRows)
          tasks.push_back({i, all[i].head * group + n, row});
    }
    std::atomic<size_t> next{0};
#pragma omp parallel
    {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < 2 * count; ++i) {
        const Shared& one = all[i / 2];
        if (i % 2 == 0) {
          const float* const k = k_ + one.k0 * shape_.k_stride + one.head * dim;
          operands[i / 2].keys = pack_right(parts_, {k, shape_.k_stride, true}, one.k_len, dim, places[i]);
        } else {
          const float* const v = v_ + one.k0 * shape_.v_stride + one.head * dim;
          operands[i / 2].values = pack_right(parts_, {v, shape_.v_stride, false}, dim, one.k_len, places[i]);
        }
      }
      const TileThread unit;
      Aligned<float> scores(kForwardRows * rounded(longest)), queries(kForwardRows * dim);
      Aligned<uint16_t> left(packed_numbers(parts_, kForwardRows, std::max(longest, dim) + kPackedDepth));
      for (size_t t = next.fetch_add(1); t < tasks.size(); t = next.fetch_add(1))
        rows(all[tasks[t].shared], operands[tasks[t].shared], tasks[t].head, tasks[t].row, queries.data(),
             scores.data(), left.data());
    }
  }

  // out and lse of queries [i0, i0 + kForwardRows) of one head
  void rows(const Shared& one, const Operands& operands, int64_t head, int64_t i0, float* queries, float* scores,
            uint16_t* left) {
    const int64_t dim = shape_.head_dim, count = std::min(kForwardRows, one.q_len - i0);
    const int64_t out_stride = shape_.heads * dim, at = one.q0 + i0;
    const KeyRange keys = visible_block(shape_, i0, i0 + count, one.q_len, one.k_len);
    float* const out = out_ + at * out_stride + head * dim;
    float* const lse = lse_ + at * shape_.heads + head;
    if (keys.end <= keys.begin) {
      for (int64_t i = 0; i < count; ++i) {
        std::fill_n(out + i * out_stride, dim, 0.0f);
        lse[i * shape_.heads] = -std::numeric_limits<float>::infinity();
      }
      return;
    }
    const int64_t first = keys.begin / kPackedLanes * kPackedLanes, width = rounded(keys.end - first);
    copy_scaled(q_ + at * shape_.q_stride + head * dim, shape_.q_stride, count, dim, shape_.scale, queries);
    const Packed q = pack_left(parts_, {queries, dim, true}, count, dim, left);
    multiply_packed(parts_, q, from_lane(parts_, operands.keys, first), rounded(count), width, 0, q.tiles, 1.0f, false,
                    scores, width);
    float inverse[kForwardRows];
    for (int64_t i = 0; i < count; ++i) {
      float* const row = scores + i * width;
      const KeyRange own = visible(shape_, i0 + i, one.q_len, one.k_len);
      apply_mask(shape_, one.segment, head, i0 + i, one.q_len, one.k_len, first, keys.end - first, row);
      const RowSum sum = exponential_row(row, width, std::max(own.begin, first) - first,
                                         std::max(own.end, first) - first);
      lse[i * shape_.heads] = sum.log;
      inverse[i] = sum.inverse;
    }
    const Packed weights = pack_left(parts_, {scores, width, true}, count, width, left);
    const int64_t tile = first / kPackedDepth;
    multiply_packed(parts_, weights, operands.values, count, dim, tile, tile + weights.tiles, 1.0f, false, out,
                    out_stride);
    for (int64_t i = 0; i < count; ++i) scale_row(out + i * out_stride, dim, inverse[i]);
  }

  const AttentionShape& shape_;
  const int parts_;
  const float *const q_, *const k_, *const v_;
  float *const out_, *const lse_;
};

struct BackwardArrays {
  const float *q, *k, *v, *out, *lse, *d_out;
  float *dq, *dk, *dv;
};

// What one thread needs for the gradients of one Shared. Gradients of keys and values are summed transposed, [dim,
// keys], so that scores are packed as they lie.
class Backward {
 public:
  Backward(const AttentionShape& shape, const BackwardArrays& arrays, int64_t longest)
      : shape_(shape),
        parts_(parts_of(shape)),
        arrays_(arrays),
        dim_(shape.head_dim),
        padded_dim_(rounded(dim_)),
        dk_(padded_dim_ * rounded(longest)),
        dv_(padded_dim_ * rounded(longest)),
        scores_(kBackwardRows * kBackwardKeys),
        d_scores_(kBackwardRows * kBackwardKeys),
        queries_(kBackwardRows * dim_),
        keys_(packed_numbers(parts_.scores, longest, dim_)),
        values_(packed_numbers(parts_.scores, longest, dim_)),
        keys_by_depth_(packed_numbers(parts_.gradient, dim_, longest)),
        rows_(packed_numbers(parts_.scores, kBackwardRows, dim_)),
        d_rows_(packed_numbers(parts_.scores, kBackwardRows, dim_)),
        columns_(packed_numbers(parts_.gradient, dim_, kBackwardRows)),
        d_columns_(packed_numbers(parts_.gradient, dim_, kBackwardRows)),
        block_(packed_numbers(parts_.gradient, kBackwardRows, kBackwardKeys) +
               packed_numbers(parts_.gradient, kBackwardKeys, kBackwardRows)) {}

  void run(const Shared& one) {
    const int64_t group = shape_.heads / shape_.kv_heads, width = rounded(one.k_len);
    const Factor k{arrays_.k + one.k0 * shape_.k_stride + one.head * dim_, shape_.k_stride, true};
    const Factor v{arrays_.v + one.k0 * shape_.v_stride + one.head * dim_, shape_.v_stride, true};
    k_ = pack_right(parts_.scores, k, one.k_len, dim_, keys_.data());
    v_ = pack_right(parts_.scores, v, one.k_len, dim_, values_.data());
    k_by_depth_ = pack_right(parts_.gradient, {k.numbers, k.stride, false}, dim_, one.k_len, keys_by_depth_.data());
    std::fill_n(dk_.data(), padded_dim_ * width, 0.0f);
    std::fill_n(dv_.data(), padded_dim_ * width, 0.0f);
    for (int64_t head = one.head * group; head < (one.head + 1) * group; ++head)
      for (int64_t i0 = 0; i0 < one.q_len; i0 += kBackwardRows) rows(one, head, i0);
    const int64_t stride = shape_.kv_heads * dim_, at = one.k0 * stride + one.head * dim_;
    put_transposed(dk_.data(), width, one.k_len, arrays_.dk + at, stride);
    put_transposed(dv_.data(), width, one.k_len, arrays_.dv + at, stride);
  }

 private:
  void rows(const Shared& one, int64_t head, int64_t i0) {
    const int64_t count = std::min(kBackwardRows, one.q_len - i0), stride = shape_.heads * dim_;
    const int64_t token = one.q0 + i0, at = token * stride + head * dim_;
    const KeyRange keys = visible_block(shape_, i0, i0 + count, one.q_len, one.k_len);
    float* const dq = arrays_.dq + at;
    if (keys.end <= keys.begin) {
      for (int64_t i = 0; i < count; ++i) std::fill_n(dq + i * stride, dim_, 0.0f);
      return;
    }
    const int g = parts_.gradient;
    const float* const d_out = arrays_.d_out + at;
    copy_scaled(arrays_.q + token * shape_.q_stride + head * dim_, shape_.q_stride, count, dim_, shape_.scale,
                queries_.data());
    const Packed q = pack_left(parts_.scores, {queries_.data(), dim_, true}, count, dim_, rows_.data());
    const Packed d = pack_left(parts_.scores, {d_out, stride, true}, count, dim_, d_rows_.data());
    const Packed q_columns = pack_left(g, {queries_.data(), dim_, false}, dim_, count, columns_.data());
    const Packed d_columns = pack_left(g, {d_out, stride, false}, dim_, count, d_columns_.data());
    float delta[kBackwardRows];
    for (int64_t i = 0; i < count; ++i) delta[i] = dot(arrays_.out + at + i * stride, d_out + i * stride, dim_);

    const int64_t whole = rounded(one.k_len), begin = keys.begin / kPackedLanes * kPackedLanes;
    for (int64_t first = begin; first < keys.end; first += kBackwardKeys) {
      const int64_t width = rounded(std::min(kBackwardKeys, keys.end - first)), tile = first / kPackedDepth;
      float *const p = scores_.data(), *const dp = d_scores_.data();
      multiply_packed(parts_.scores, q, from_lane(parts_.scores, k_, first), rounded(count), width, 0, q.tiles, 1.0f,
                      false, p, width);
      multiply_packed(parts_.scores, d, from_lane(parts_.scores, v_, first), rounded(count), width, 0, d.tiles, 1.0f,
                      false, dp, width);
      for (int64_t i = 0; i < count; ++i) {
        const KeyRange own = visible(shape_, i0 + i, one.q_len, one.k_len);
        const int64_t from = std::clamp<int64_t>(own.begin - first, 0, width);
        const int64_t to = std::clamp<int64_t>(own.end - first, from, width);
        apply_mask(shape_, one.segment, head, i0 + i, one.q_len, one.k_len, first,
                   std::min(width, one.k_len - first), p + i * width);
        probability_row(p + i * width, width, from, to, arrays_.lse[(token + i) * shape_.heads + head]);
        score_gradient_row(p + i * width, dp + i * width, width, from, to, delta[i]);
      }
      uint16_t* const right = block_.data() + packed_numbers(g, kBackwardRows, kBackwardKeys);
      const Packed weights = pack_right(g, {p, width, false}, width, count, right);
      multiply_packed(g, d_columns, weights, padded_dim_, width, 0, weights.tiles, 1.0f, true, dv_.data() + first,
                      whole);
      const Packed slopes = pack_right(g, {dp, width, false}, width, count, right);
      multiply_packed(g, q_columns, slopes, padded_dim_, width, 0, slopes.tiles, 1.0f, true, dk_.data() + first,
                      whole);
      const Packed slope_rows = pack_left(g, {dp, width, true}, count, width, block_.data());
      multiply_packed(g, slope_rows, k_by_depth_, count, dim_, tile, tile + slope_rows.tiles, 1.0f, first != begin, dq,
                      stride);
    }
    for (int64_t i = 0; i < count; ++i) scale_row(dq + i * stride, dim_, shape_.scale);
  }

  // out [keys, dim] from [dim, keys]
  void put_transposed(const float* from, int64_t width, int64_t keys, float* out, int64_t stride) const {
    for (int64_t j0 = 0; j0 < keys; j0 += kPackedLanes)
      for (int64_t d = 0; d < dim_; ++d)
        for (int64_t j = j0; j < std::min(keys, j0 + kPackedLanes); ++j) out[j * stride + d] = from[d * width + j];
  }

  const AttentionShape& shape_;
  const Parts parts_;
  const BackwardArrays arrays_;
  const int64_t dim_, padded_dim_;
  Aligned<float> dk_, dv_, scores_, d_scores_, queries_;
  Aligned<uint16_t> keys_, values_, keys_by_depth_, rows_, d_rows_, columns_, d_columns_, block_;
  Packed k_{}, v_{}, k_by_depth_{};
};

int64_t longest_of(const AttentionShape& shape, const int32_t* ends) {
  int64_t longest = 0;
  for (int64_t s = 0; s < shape.segments; ++s) longest = std::max<int64_t>(longest, ends[s + 1] - ends[s]);
  return longest;
}

}  // namespace

bool attention_on_tiles(const AttentionShape& shape) {
  const bool has = shape.products == Products::kBfloat16 ? tile_unit() != TileUnit::kNone
                                                         : tile_unit() == TileUnit::kAmx;
  return has && !omp_in_parallel() && longest_of(shape, shape.cu_q) >= kShortest;
}

void attention_forward_tiles(const AttentionShape& shape, const float* q, const float* k, const float* v, float* out,
                             float* lse) {
  Forward(shape, q, k, v, out, lse).run();
}

void attention_backward_tiles(const AttentionShape& shape, const float* q, const float* k, const float* v,
                              const float* out, const float* lse, const float* d_out, float* dq, float* dk,
                              float* dv) {
  const std::vector<Shared> all = shared_of(shape);
  const BackwardArrays arrays{q, k, v, out, lse, d_out, dq, dk, dv};
  const int64_t longest = longest_of(shape, shape.cu_k);
  std::atomic<size_t> next{0};
#pragma omp parallel num_threads(static_cast<int>(std::min<size_t>(all.size(), omp_get_max_threads())))
  {
    const TileThread unit;
    Backward own(shape, arrays, longest);
    for (size_t i = next.fetch_add(1); i < all.size(); i = next.fetch_add(1)) own.run(all[i]);
  }
}

}  // namespace mix
