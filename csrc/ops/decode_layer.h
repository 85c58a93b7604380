// One decoder layer for one new token a row, over the key/value cache, on the CPU (contract: docs/operators.md).
// No gradient. Bound by reading the weights once.
#pragma once

#include <cstdint>

namespace mix {

// Widths: D of the model, N query heads, K key/value heads, H of a head, F of the feed-forward block. Weights are
// [inputs, outputs]; the three biases may be null.
struct DecodeLayer {
  int64_t rows, width, heads, kv_heads, head_dim, inner, slots;
  float eps, scale;
  const float *input_norm, *q, *k, *v, *out, *post_norm, *gate, *up, *down;
  const float *q_bias, *k_bias, *v_bias;
};

// Numbers of scratch.
int64_t decode_layer_scratch(const DecodeLayer& layer);

// x, out [B, D]; keys and values [B, K, C, H], of which slot lengths[b] - 1 is written; cos, sin [B, H].
void decode_layer(const DecodeLayer& layer, const float* x, const float* cos, const float* sin, const int64_t* lengths,
                  float* keys, float* values, float* scratch, float* out);

}  // namespace mix
