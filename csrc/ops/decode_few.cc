#include "ops/decode_few.h"

#include <algorithm>
#include <vector>

#include "mix/aligned.h"
#include "mix/meeting.h"
#include "mix/parallel.h"
#include "ops/attention_decode.h"
#include "ops/gemv.h"
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
  std::vector<float*> wide;  // of each thread: its sums of q, k and v, or of gate and up
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
        of_width_(share(s_.width)),
        of_inner_(share(s_.inner)),
        of_heads_(share(s_.heads * s_.head_dim)),
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
    float* sums = all_.wide[index_];
    sums = multiply(normed_.data(), s_.width, of_width_, layer.q, wide, sums);
    sums = multiply(normed_.data(), s_.width, of_width_, layer.k, narrow, sums);
    multiply(normed_.data(), s_.width, of_width_, layer.v, narrow, sums);
    meet();
    const int64_t tasks = s_.rows * s_.kv_heads;
    for (int64_t task = tasks * index_ / threads_; task < tasks * (index_ + 1) / threads_; ++task)
      attend(layer, task / s_.kv_heads, task % s_.kv_heads);
    meet();
    add_branch(all_.seen, wide, of_heads_, layer.out);

    norm(layer.post_norm);
    sums = multiply(normed_.data(), s_.width, of_width_, layer.gate, s_.inner, all_.wide[index_]);
    multiply(normed_.data(), s_.width, of_width_, layer.up, s_.inner, sums);
    meet();
    gate();
    add_branch(all_.gated, s_.inner, of_inner_, layer.down);
  }

  void put(float* out) const {
    if (index_ == 0) std::copy_n(stream_.data(), s_.rows * s_.width, out);
  }

 private:
  void meet() { all_.meeting->wait(threads_); }

  struct Share {
    int64_t begin, end;
  };

  // Inputs or columns of this thread, in whole steps of the products.
  Share share(int64_t count) const {
    const int64_t steps = (count + kGemvStep - 1) / kGemvStep;
    return {steps * index_ / threads_ * kGemvStep, std::min(count, steps * (index_ + 1) / threads_ * kGemvStep)};
  }

  // Each thread sums and norms the stream for itself: that is sooner done than waited for.
  void norm(const float* weight) {
    rms_norm_forward(stream_.data(), weight, s_.eps, s_.rows, s_.width, normed_.data(),
                     normed_.data() + s_.rows * s_.width);
  }

  // This thread's part of x weight into sums [B, outputs]; returns their end.
  float* multiply(const float* x, int64_t inputs, const Share& own, const float* weight, int64_t outputs,
                  float* sums) {
    std::fill_n(sums, s_.rows * outputs, 0.0f);
    gemv_inputs({x, weight, s_.rows, inputs, outputs}, own.begin, own.end, block_.data(), sums);
    return sums + s_.rows * outputs;
  }

  // to[i] = the sum over threads of their numbers from `at` on, and of the bias.
  void gather(const std::vector<float*>& sums, int64_t at, int64_t count, const float* bias, float* to) const {
    for (int64_t i = 0; i < count; ++i) to[i] = sums[0][at + i];
    for (int64_t t = 1; t < threads_; ++t)
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

  // silu(gate) * up of this thread's share, which it alone then multiplies.
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

  // stream += x weight
  void add_branch(const float* x, int64_t inputs, const Share& own, const float* weight) {
    multiply(x, inputs, own, weight, s_.width, all_.back[index_]);
    meet();
    for (int64_t t = 0; t < threads_; ++t)
      for (int64_t i = 0; i < s_.rows * s_.width; ++i) stream_.data()[i] += all_.back[t][i];
  }

  const Together& all_;
  const DecodeShape& s_;
  const int64_t index_, threads_;
  const Share of_width_, of_inner_, of_heads_;
  Aligned<float> stream_, normed_, block_, heads_;  // stream_ [B, D]: the sum of all branches so far
  std::vector<float> scores_;
};

}  // namespace

void decode_few(const DecodeShape& shape, const DecodeLayer* layers, int64_t count, const float* x, const float* cos,
                const float* sin, const int64_t* lengths, float* out) {
  const int64_t B = shape.rows, D = shape.width, wide = shape.heads * shape.head_dim;
  const int64_t outputs = std::max(wide + 2 * shape.kv_heads * shape.head_dim, 2 * shape.inner);
  const int threads = D * shape.inner > kSerial ? omp_get_max_threads() : 1;
  Aligned<float> sums(threads * B * (outputs + D)), between(B * (wide + shape.inner));
  Meeting meeting;
  Together all{shape, cos, sin, lengths, x, between.data(), between.data() + B * wide, {}, {}, &meeting};
  for (int64_t t = 0; t < threads; ++t) {
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
