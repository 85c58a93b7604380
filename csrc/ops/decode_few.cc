#include "ops/decode_few.h"

#include <algorithm>
#include <vector>

#include "mix/aligned.h"
#include "mix/meeting.h"
#include "mix/parallel.h"
#include "ops/attention_decode.h"
#include "ops/gemv.h"
#include "ops/linear_int8.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace mix {
namespace {

constexpr int64_t kSerial = 1 << 15;  // numbers of a matrix below which a second thread takes longer than it saves

// What all threads of a call read and write.
struct Together {
  const DecodeShape& shape;
  const float *cos, *sin;
  const int64_t* lengths;
  const float* x;            // [B, D]
  float *seen, *gated;       // [B, N * H] and [B, F]
  bool by_outputs;           // threads share the outputs of matrices, not the inputs
  std::vector<float*> wide;  // sums of q, k and v, or of gate and up: of each thread, or of all in the first
  std::vector<float*> back;  // and those of the maps back to D
  Meeting* meeting;
};

class Thread {
 public:
  Thread(const Together& all, int64_t index, int64_t threads)
      : all_(all),
        s_(all.shape),
        index_(index),
        threads_(threads),
        parts_(all.by_outputs ? 1 : threads),
        wide_(all.wide[all.by_outputs ? 0 : index]),
        back_(all.back[all.by_outputs ? 0 : index]),
        of_inner_(share(s_.inner)),
        stream_(s_.rows * s_.width),
        normed_(s_.rows * (s_.width + 1)),
        block_(s_.rows * std::max({s_.width, s_.inner, s_.heads * s_.head_dim})),
        heads_(2 * s_.heads / s_.kv_heads * s_.head_dim) {
    std::copy_n(all.x, s_.rows * s_.width, stream_.data());
    std::fill_n(block_.data(), s_.rows * std::max({s_.width, s_.inner, s_.heads * s_.head_dim}), 0.0f);
  }

  void layer(const DecodeLayer& layer) {
    const int64_t wide = s_.heads * s_.head_dim, narrow = s_.kv_heads * s_.head_dim;
    norm(layer.input_norm);
    float* sums = multiply(normed_.data(), s_.width, layer.q, wide, wide_);
    sums = multiply(normed_.data(), s_.width, layer.k, narrow, sums);
    multiply(normed_.data(), s_.width, layer.v, narrow, sums);
    meet();
    const int64_t tasks = s_.rows * s_.kv_heads;
    for (int64_t task = tasks * index_ / threads_; task < tasks * (index_ + 1) / threads_; ++task)
      attend(layer, task / s_.kv_heads, task % s_.kv_heads);
    meet();
    add_branch(all_.seen, wide, layer.out);

    norm(layer.post_norm);
    sums = multiply(normed_.data(), s_.width, layer.gate, s_.inner, wide_);
    multiply(normed_.data(), s_.width, layer.up, s_.inner, sums);
    if (!all_.by_outputs) meet();
    gate();
    if (all_.by_outputs) meet();
    add_branch(all_.gated, s_.inner, layer.down);
  }

  void put(float* out) const {
    if (index_ == 0) std::copy_n(stream_.data(), s_.rows * s_.width, out);
  }

 private:
  void meet() { all_.meeting->wait(threads_); }

  struct Share {
    int64_t begin, end;
  };

  // Inputs or outputs of this thread, in whole steps of the products.
  Share share(int64_t count) const {
    const int64_t steps = (count + kGemvStep - 1) / kGemvStep;
    return {steps * index_ / threads_ * kGemvStep, std::min(count, steps * (index_ + 1) / threads_ * kGemvStep)};
  }

  // Each thread sums and norms the stream for itself: that is sooner done than waited for.
  void norm(const float* weight) {
    rms_norm_forward(stream_.data(), weight, s_.eps, s_.rows, s_.width, normed_.data(),
                     normed_.data() + s_.rows * s_.width);
  }

  // This thread's part of x times the matrix into sums [B, outputs]; returns their end.
  float* multiply(const float* x, int64_t inputs, const DecodeMatrix& matrix, int64_t outputs, float* sums) {
    float* const after = sums + s_.rows * outputs;
    if (all_.by_outputs) {
      const Share own = share(outputs);
      linear_int8_outputs({s_.rows, inputs, outputs}, x, matrix.steps, matrix.scale, own.begin, own.end, sums);
      return after;
    }
    const Share own = share(inputs);
    std::fill(sums, after, 0.0f);
    gemv_inputs({x, matrix.weight, s_.rows, inputs, outputs}, own.begin, own.end, block_.data(), sums);
    return after;
  }

  // to[i] = the sum over parts of their numbers from `at` on, and of the bias.
  void gather(const std::vector<float*>& sums, int64_t at, int64_t count, const float* bias, float* to) const {
    for (int64_t i = 0; i < count; ++i) to[i] = sums[0][at + i];
    for (int64_t t = 1; t < parts_; ++t)
      for (int64_t i = 0; i < count; ++i) to[i] += sums[t][at + i];
    if (bias == nullptr) return;
    for (int64_t i = 0; i < count; ++i) to[i] += bias[i];
  }

  // The query heads of row b that share key/value head k: rotated, the new slot written, what they see.
  void attend(const DecodeLayer& layer, int64_t b, int64_t k) {
    const int64_t H = s_.head_dim, group = s_.heads / s_.kv_heads, wide = s_.heads * H, narrow = s_.kv_heads * H;
    const float *const cos = all_.cos + b * H, *const sin = all_.sin + b * H;
    const auto bias = [](const float* all, int64_t at) { return all == nullptr ? nullptr : all + at; };
    float *const plain = heads_.data(), *const turned = plain + group * H;
    float* const cached = layer.keys + (b * s_.kv_heads + k) * s_.slots * H;
    float* const values = layer.values + (b * s_.kv_heads + k) * s_.slots * H;
    const int64_t open = (all_.lengths[b] - 1) * H, of_k = s_.rows * wide, of_v = of_k + s_.rows * narrow;
    gather(all_.wide, of_k + b * narrow + k * H, H, bias(layer.k_bias, k * H), plain);
    rotary(plain, cos, sin, 1, 1, H, false, cached + open);
    gather(all_.wide, of_v + b * narrow + k * H, H, bias(layer.v_bias, k * H), values + open);
    gather(all_.wide, b * wide + k * group * H, group * H, bias(layer.q_bias, k * group * H), plain);
    rotary(plain, cos, sin, 1, group, H, false, turned);
    attend_group({turned, cached, values, all_.lengths[b], group, H, s_.scale}, scores_,
                 all_.seen + b * wide + k * group * H);
  }

  // silu(gate) * up of this thread's share: of inputs that it alone then multiplies, or of outputs that it alone made.
  void gate() {
    const int64_t count = of_inner_.end - of_inner_.begin;
    float* const raised = block_.data();
    for (int64_t b = 0; b < s_.rows; ++b) {
      const int64_t at = b * s_.inner + of_inner_.begin;
      gather(all_.wide, at, count, nullptr, all_.gated + at);
      gather(all_.wide, s_.rows * s_.inner + at, count, nullptr, raised);
      swiglu_forward(all_.gated + at, raised, count, all_.gated + at);
    }
    std::fill_n(raised, count, 0.0f);
  }

  // stream += x times the matrix
  void add_branch(const float* x, int64_t inputs, const DecodeMatrix& matrix) {
    multiply(x, inputs, matrix, s_.width, back_);
    meet();
    for (int64_t t = 0; t < parts_; ++t)
      for (int64_t i = 0; i < s_.rows * s_.width; ++i) stream_.data()[i] += all_.back[t][i];
  }

  const Together& all_;
  const DecodeShape& s_;
  const int64_t index_, threads_, parts_;
  float *const wide_, *const back_;  // where this thread's sums go
  const Share of_inner_;
  Aligned<float> stream_, normed_, block_, heads_;  // stream_ [B, D]: the sum of all branches so far
  std::vector<float> scores_;
};

}  // namespace

void decode_few(const DecodeShape& shape, const DecodeLayer* layers, int64_t count, const float* x, const float* cos,
                const float* sin, const int64_t* lengths, float* out) {
  const int64_t B = shape.rows, D = shape.width, wide = shape.heads * shape.head_dim;
  const int64_t outputs = std::max(wide + 2 * shape.kv_heads * shape.head_dim, 2 * shape.inner);
  const int threads = D * shape.inner > kSerial ? omp_get_max_threads() : 1;
  const bool by_outputs = count > 0 && layers[0].q.weight == nullptr;
  const int64_t parts = by_outputs ? 1 : threads;
  Aligned<float> sums(parts * B * (outputs + D)), between(B * (wide + shape.inner));
  Meeting meeting;
  Together all{shape, cos, sin, lengths, x, between.data(), between.data() + B * wide, by_outputs, {}, {}, &meeting};
  for (int64_t t = 0; t < parts; ++t) {
    all.wide.push_back(sums.data() + t * B * (outputs + D));
    all.back.push_back(all.wide.back() + B * outputs);
  }
#pragma omp parallel num_threads(threads)
  {
    Thread own(all, omp_get_thread_num(), omp_get_num_threads());
    for (int64_t i = 0; i < count; ++i) own.layer(layers[i]);
    own.put(out);
  }
}

}  // namespace mix
