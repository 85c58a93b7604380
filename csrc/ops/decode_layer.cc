#include "ops/decode_layer.h"

#include <algorithm>

#include "ops/add_rms_norm.h"
#include "ops/attention_decode.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace mix {
namespace {

// Hands out pieces of the scratch.
class Pieces {
 public:
  explicit Pieces(float* memory) : next_(memory) {}
  float* take(int64_t numbers) {
    float* const piece = next_;
    next_ += numbers;
    return piece;
  }

 private:
  float* next_;
};

// The new token's heads into the open slot of each row.
void append(const DecodeLayer& layer, const float* heads, const int64_t* lengths, float* cache) {
  const int64_t K = layer.kv_heads, H = layer.head_dim;
  for (int64_t b = 0; b < layer.rows; ++b)
    for (int64_t k = 0; k < K; ++k)
      std::copy_n(heads + (b * K + k) * H, H, cache + ((b * K + k) * layer.slots + lengths[b] - 1) * H);
}

}  // namespace

int64_t decode_layer_scratch(const DecodeLayer& layer) {
  const int64_t heads = 3 * layer.heads + 3 * layer.kv_heads;
  return layer.rows * (4 * layer.width + heads * layer.head_dim + 2 * layer.inner + 1);
}

void decode_layer(const DecodeLayer& layer, const float* x, const float* cos, const float* sin, const int64_t* lengths,
                  float* keys, float* values, float* scratch, float* out) {
  const int64_t B = layer.rows, D = layer.width, H = layer.head_dim, F = layer.inner;
  const int64_t wide = layer.heads * H, narrow = layer.kv_heads * H;
  Pieces pieces(scratch);
  float *const normed = pieces.take(B * D), *const branch = pieces.take(B * D), *const sum = pieces.take(B * D);
  float *const q = pieces.take(B * wide), *const turned_q = pieces.take(B * wide), *const seen = pieces.take(B * wide);
  float *const k = pieces.take(B * narrow), *const turned_k = pieces.take(B * narrow), *const v = pieces.take(B * narrow);
  float *const gated = pieces.take(B * F), *const raised = pieces.take(B * F), *const inverse = pieces.take(B);

  const auto map = [B](int64_t inputs, const float* from, const LinearMap* maps, int64_t count) {
    linear_forward({B, inputs, Products::kFloat32}, from, maps, count);
  };
  rms_norm_forward(x, layer.input_norm, layer.eps, B, D, normed, inverse);
  const LinearMap qkv[] = {
      {wide, layer.q, layer.q_bias, q}, {narrow, layer.k, layer.k_bias, k}, {narrow, layer.v, layer.v_bias, v}};
  map(D, normed, qkv, 3);
  rotary(q, cos, sin, B, layer.heads, H, false, turned_q);
  rotary(k, cos, sin, B, layer.kv_heads, H, false, turned_k);
  append(layer, turned_k, lengths, keys);
  append(layer, v, lengths, values);
  attention_decode(turned_q, keys, values, lengths, B, layer.heads, layer.kv_heads, layer.slots, H, layer.scale, seen);
  const LinearMap back{D, layer.out, nullptr, branch};
  map(wide, seen, &back, 1);

  add_rms_norm_forward(x, branch, layer.post_norm, layer.eps, B, D, sum, normed, inverse);
  const LinearMap gate_and_up[] = {{F, layer.gate, nullptr, gated}, {F, layer.up, nullptr, raised}};
  map(D, normed, gate_and_up, 2);
  swiglu_forward(gated, raised, B * F, gated);
  const LinearMap down{D, layer.down, nullptr, branch};
  map(F, gated, &down, 1);
  for (int64_t i = 0; i < B * D; ++i) out[i] = sum[i] + branch[i];
}

}  // namespace mix
