// Attention of one new token a row over the key/value cache on the CPU; no gradient.
// q, out [B, N, H]; k, v [B, K, C, H]; row b sees its first lengths[b] slots. Each key and value is read once
// for all query heads of its group.
#pragma once

#include <cstdint>
#include <vector>

namespace mix {

// The heads of one row that read the same keys and values: q [G, H]; k, v [seen, H].
struct DecodeGroup {
  const float *q, *k, *v;
  int64_t seen, group, head_dim;
  float scale;
};

// out [G, H]; `scores` is scratch, which grows as needed.
void attend_group(const DecodeGroup& group, std::vector<float>& scores, float* out);

void attention_decode(const float* q, const float* k, const float* v, const int64_t* lengths, int64_t batch,
                      int64_t heads, int64_t kv_heads, int64_t slots, int64_t head_dim, float scale,
                      float* out);

}  // namespace mix
