// Packed scaled-dot-product attention on the CPU, forward and backward (contract: docs/operators.md).
//
// Shapes: q [Tq, N, H], k and v [Tk, K, H], N a multiple of K (grouped heads). Segment s owns the query rows
// cu_q[s]..cu_q[s+1] and the key rows cu_k[s]..cu_k[s+1]. Causal aligns the last query with the last key.
// Memory beyond the outputs is a block of scores a thread, never S x S. Algorithm: blocks of queries against
// their keys with the row's log-sum-exp kept for the backward pass (Dao et al., FlashAttention, 2022).
#pragma once

#include <cstdint>

#include "mix/gemm.h"

namespace mix {

struct AttentionShape {
  const int32_t* cu_q;
  const int32_t* cu_k;
  int64_t segments;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t q_stride;   // floats from one token's row to the next
  int64_t k_stride;
  int64_t v_stride;
  float scale;
  bool causal;
  int64_t window;     // keys older than this many tokens are not seen; 0 = no limit
  const bool* mask;   // [segments, mask_heads, Sq, Sk], true = attend; equal segments only; or null
  int64_t mask_heads; // 1 or N
  Products products;
};

// out [Tq, N, H]; lse [Tq, N]. A query that may see no key gives zeros.
void attention_forward(const AttentionShape& shape, const float* q, const float* k, const float* v, float* out,
                       float* lse);

// dq [Tq, N, H], dk and dv [Tk, K, H], all contiguous and written whole.
void attention_backward(const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const float* out, const float* lse, const float* d_out, float* dq, float* dk, float* dv);

}  // namespace mix
