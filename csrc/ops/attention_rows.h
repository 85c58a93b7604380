// What the two attention kernels share: which keys a query sees, and what is done to a row of scores.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/attention.h"

namespace mix {

struct KeyRange {
  int64_t begin;
  int64_t end;
};

// Keys that query row `i` of a segment may see before any mask.
inline KeyRange visible(const AttentionShape& shape, int64_t i, int64_t q_len, int64_t k_len) {
  const int64_t diagonal = i + k_len - q_len;
  KeyRange range{0, k_len};
  if (shape.causal) range.end = std::max<int64_t>(0, std::min(k_len, diagonal + 1));
  if (shape.window > 0) {
    range.begin = std::max<int64_t>(0, diagonal - shape.window + 1);
    if (!shape.causal) range.end = std::min(k_len, diagonal + shape.window);
  }
  range.begin = std::min(range.begin, range.end);
  return range;
}

// Keys that any query of rows [i0, i1) may see: both ends of `visible` grow with the row.
inline KeyRange visible_block(const AttentionShape& shape, int64_t i0, int64_t i1, int64_t q_len, int64_t k_len) {
  const int64_t begin = visible(shape, i0, q_len, k_len).begin;
  const int64_t end = visible(shape, i1 - 1, q_len, k_len).end;
  return {std::min(begin, end), end};
}

// Scores of keys from `begin` on that the mask hides become -infinity.
void apply_mask(const AttentionShape& shape, int64_t segment, int64_t head, int64_t row, int64_t q_len, int64_t k_len,
                int64_t begin, int64_t count, float* scores);

// Turns scores [begin, end) of a row of `width` into exponentials less their maximum, and all others into 0.
struct RowSum {
  float log;      // log-sum-exp; -infinity where nothing is visible
  float inverse;  // what the exponentials are to be multiplied by
};
RowSum exponential_row(float* row, int64_t width, int64_t begin, int64_t end);

// Scores [begin, end) of a row of `width` become probabilities, given their log-sum-exp; all others become 0.
void probability_row(float* row, int64_t width, int64_t begin, int64_t end, float log_sum);

// dp <- p * (dp - delta), within [begin, end); 0 elsewhere.
void score_gradient_row(const float* p, float* dp, int64_t width, int64_t begin, int64_t end, float delta);

float dot(const float* a, const float* b, int64_t n);

void scale_row(float* x, int64_t n, float factor);

}  // namespace mix
