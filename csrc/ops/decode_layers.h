// Decoder layers for one new token a row, over the key/value cache, on the CPU (contract: docs/operators.md).
// No gradient. Bound by reading the weights once.
#pragma once

#include <cstdint>

namespace mix {

// Widths: D of the model, N query heads, K key/value heads, H of a head, F of the feed-forward block. The layers of one
// call have them in common.
struct DecodeShape {
  int64_t rows, width, heads, kv_heads, head_dim, inner, slots;
  float eps, scale;
};

// A linear map's weight [inputs, outputs]; or, where that is null, steps [outputs, inputs] of scale [outputs] each
// (ops/linear_int8.h). All matrices of one call are of one kind.
struct DecodeMatrix {
  const float* weight;
  const int8_t* steps;
  const float* scale;
};

// The three biases may be null. keys and values [B, K, C, H].
struct DecodeLayer {
  const float *input_norm, *post_norm;
  DecodeMatrix q, k, v, out, gate, up, down;
  const float *q_bias, *k_bias, *v_bias;
  float *keys, *values;
};

// x, out [B, D]; slot lengths[b] - 1 of each layer's keys and values is written; cos, sin [B, H].
void decode_layers(const DecodeShape& shape, const DecodeLayer* layers, int64_t count, const float* x,
                   const float* cos, const float* sin, const int64_t* lengths, float* out);

}  // namespace mix
