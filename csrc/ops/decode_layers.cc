#include "ops/decode_layers.h"

#include <algorithm>

#include "mix/aligned.h"
#include "mix/parallel.h"
#include "ops/add_rms_norm.h"
#include "ops/attention_decode.h"
#include "ops/decode_few.h"
#include "ops/gemv.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace mix {
namespace {

// The new token's heads into the open slot of each row.
void append(const DecodeShape& shape, const float* heads, const int64_t* lengths, float* cache) {
  const int64_t K = shape.kv_heads, H = shape.head_dim;
  for (int64_t b = 0; b < shape.rows; ++b)
    for (int64_t k = 0; k < K; ++k)
      std::copy_n(heads + (b * K + k) * H, H, cache + ((b * K + k) * shape.slots + lengths[b] - 1) * H);
}

// Of many rows, by the kernels of its parts.
class ManyRows {
 public:
  explicit ManyRows(const DecodeShape& shape)
      : s_(shape),
        wide_(shape.heads * shape.head_dim),
        narrow_(shape.kv_heads * shape.head_dim),
        normed_(s_.rows * s_.width),
        branch_(s_.rows * s_.width),
        sum_(s_.rows * s_.width),
        q_(s_.rows * wide_),
        turned_q_(s_.rows * wide_),
        seen_(s_.rows * wide_),
        k_(s_.rows * narrow_),
        turned_k_(s_.rows * narrow_),
        v_(s_.rows * narrow_),
        gated_(s_.rows * s_.inner),
        raised_(s_.rows * s_.inner),
        inverse_(s_.rows) {}

  // out may be x
  void layer(const DecodeLayer& layer, const float* x, const float* cos, const float* sin, const int64_t* lengths,
             float* out) {
    const int64_t B = s_.rows, D = s_.width, H = s_.head_dim, F = s_.inner;
    rms_norm_forward(x, layer.input_norm, s_.eps, B, D, normed_.data(), inverse_.data());
    const LinearMap qkv[] = {{wide_, layer.q, layer.q_bias, q_.data()},
                             {narrow_, layer.k, layer.k_bias, k_.data()},
                             {narrow_, layer.v, layer.v_bias, v_.data()}};
    map(D, normed_.data(), qkv, 3);
    rotary(q_.data(), cos, sin, B, s_.heads, H, false, turned_q_.data());
    rotary(k_.data(), cos, sin, B, s_.kv_heads, H, false, turned_k_.data());
    append(s_, turned_k_.data(), lengths, layer.keys);
    append(s_, v_.data(), lengths, layer.values);
    attention_decode(turned_q_.data(), layer.keys, layer.values, lengths, B, s_.heads, s_.kv_heads, s_.slots, H,
                     s_.scale, seen_.data());
    const LinearMap back{D, layer.out, nullptr, branch_.data()};
    map(wide_, seen_.data(), &back, 1);
    add_rms_norm_forward(x, branch_.data(), layer.post_norm, s_.eps, B, D, sum_.data(), normed_.data(),
                         inverse_.data());
    const LinearMap gate_and_up[] = {{F, layer.gate, nullptr, gated_.data()}, {F, layer.up, nullptr, raised_.data()}};
    map(D, normed_.data(), gate_and_up, 2);
    swiglu_forward(gated_.data(), raised_.data(), B * F, gated_.data());
    const LinearMap down{D, layer.down, nullptr, branch_.data()};
    map(F, gated_.data(), &down, 1);
    for (int64_t i = 0; i < B * D; ++i) out[i] = sum_.data()[i] + branch_.data()[i];
  }

 private:
  void map(int64_t inputs, const float* from, const LinearMap* maps, int64_t count) const {
    linear_forward({s_.rows, inputs, Products::kFloat32}, from, maps, count);
  }

  const DecodeShape& s_;
  const int64_t wide_, narrow_;
  Aligned<float> normed_, branch_, sum_, q_, turned_q_, seen_, k_, turned_k_, v_, gated_, raised_, inverse_;
};

}  // namespace

void decode_layers(const DecodeShape& shape, const DecodeLayer* layers, int64_t count, const float* x,
                   const float* cos, const float* sin, const int64_t* lengths, float* out) {
  if (shape.rows <= kFewRows) return decode_few(shape, layers, count, x, cos, sin, lengths, out);
  ManyRows rows(shape);
  for (int64_t i = 0; i < count; ++i) rows.layer(layers[i], i == 0 ? x : out, cos, sin, lengths, out);
}

}  // namespace mix
