#include "ops/decode_layers.h"

#include <algorithm>
#include <initializer_list>

#include "mix/aligned.h"
#include "mix/parallel.h"
#include "ops/add_rms_norm.h"
#include "ops/attention_decode.h"
#include "ops/decode_few.h"
#include "ops/gemv.h"
#include "ops/linear.h"
#include "ops/linear_int8.h"
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
        inverse_(s_.rows),
        scratch_(most_scratch()) {}

  // out may be x
  void layer(const DecodeLayer& layer, const float* x, const float* cos, const float* sin, const int64_t* lengths,
             float* out) {
    const int64_t B = s_.rows, D = s_.width, H = s_.head_dim, F = s_.inner;
    rms_norm_forward(x, layer.input_norm, s_.eps, B, D, normed_.data(), inverse_.data());
    map(D, normed_.data(),
        {{layer.q, layer.q_bias, wide_, q_.data()},
         {layer.k, layer.k_bias, narrow_, k_.data()},
         {layer.v, layer.v_bias, narrow_, v_.data()}});
    rotary(q_.data(), cos, sin, B, s_.heads, H, false, turned_q_.data());
    rotary(k_.data(), cos, sin, B, s_.kv_heads, H, false, turned_k_.data());
    append(s_, turned_k_.data(), lengths, layer.keys);
    append(s_, v_.data(), lengths, layer.values);
    attention_decode(turned_q_.data(), layer.keys, layer.values, lengths, B, s_.heads, s_.kv_heads, s_.slots, H,
                     s_.scale, seen_.data());
    map(wide_, seen_.data(), {{layer.out, nullptr, D, branch_.data()}});
    add_rms_norm_forward(x, branch_.data(), layer.post_norm, s_.eps, B, D, sum_.data(), normed_.data(),
                         inverse_.data());
    map(D, normed_.data(), {{layer.gate, nullptr, F, gated_.data()}, {layer.up, nullptr, F, raised_.data()}});
    swiglu_forward(gated_.data(), raised_.data(), B * F, gated_.data());
    map(F, gated_.data(), {{layer.down, nullptr, D, branch_.data()}});
    for (int64_t i = 0; i < B * D; ++i) out[i] = sum_.data()[i] + branch_.data()[i];
  }

 private:
  struct Map {
    const DecodeMatrix& matrix;
    const float* bias;
    int64_t outputs;
    float* out;
  };

  void map(int64_t inputs, const float* from, std::initializer_list<Map> maps) {
    LinearMap together[3];
    int64_t count = 0;
    for (const Map& one : maps)
      if (one.matrix.weight != nullptr)
        together[count++] = {one.outputs, one.matrix.weight, one.bias, one.out};
      else
        linear_int8({s_.rows, inputs, one.outputs}, from, one.matrix.steps, one.matrix.scale, one.bias,
                    scratch_.data(), one.out);
    if (count != 0) linear_forward({s_.rows, inputs, Products::kFloat32}, from, together, count);
  }

  int64_t most_scratch() const {
    const auto of = [&](int64_t inputs, int64_t outputs) { return linear_int8_scratch({s_.rows, inputs, outputs}); };
    return std::max({of(s_.width, wide_), of(s_.width, narrow_), of(wide_, s_.width), of(s_.width, s_.inner),
                     of(s_.inner, s_.width)});
  }

  const DecodeShape& s_;
  const int64_t wide_, narrow_;
  Aligned<float> normed_, branch_, sum_, q_, turned_q_, seen_, k_, turned_k_, v_, gated_, raised_, inverse_, scratch_;
};

}  // namespace

void decode_layers(const DecodeShape& shape, const DecodeLayer* layers, int64_t count, const float* x,
                   const float* cos, const float* sin, const int64_t* lengths, float* out) {
  if (shape.rows <= kFewRows) return decode_few(shape, layers, count, x, cos, sin, lengths, out);
  ManyRows rows(shape);
  for (int64_t i = 0; i < count; ++i) rows.layer(layers[i], i == 0 ? x : out, cos, sin, lengths, out);
}

}  // namespace mix
