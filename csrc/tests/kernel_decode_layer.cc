// decode_layer against a decoder layer in plain double loops.
#include "ops/decode_layer.h"

#include <algorithm>

#include "tests/kernel_case.h"

using namespace mix::test;

namespace {

constexpr double kEps = 1e-6;

// The row x [I] times w [I, O], plus bias [O] where there is one.
Exact mapped(const Exact& x, const Array& w, const Array* bias) {
  const size_t outputs = w.size() / x.size();
  Exact out(outputs, 0.0);
  for (size_t o = 0; o < outputs; ++o) {
    for (size_t i = 0; i < x.size(); ++i) out[o] += x[i] * w[i * outputs + o];
    if (bias != nullptr) out[o] += (*bias)[o];
  }
  return out;
}

Exact normed(const Exact& x, const Array& weight) {
  double squares = 0.0;
  for (const double value : x) squares += value * value;
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + kEps);
  Exact out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = x[i] * inverse * weight[i];
  return out;
}

void turn(Exact& heads, const float* cos, const float* sin, int64_t H) {
  const Exact before = heads;
  for (size_t at = 0; at < heads.size(); ++at) {
    const int64_t j = static_cast<int64_t>(at) % H, half = H / 2;
    heads[at] = before[at] * cos[j] + (j < half ? -before[at + half] : before[at - half]) * sin[j];
  }
}

void decode(std::vector<int64_t> lengths, int64_t D, int64_t N, int64_t K, int64_t H, int64_t F, bool biased) {
  const int64_t B = static_cast<int64_t>(lengths.size()), C = *std::max_element(lengths.begin(), lengths.end()) + 2;
  Case one("decode_layer " + std::to_string(B) + " rows, " + std::to_string(N) + "/" + std::to_string(K) + " heads of " +
           std::to_string(H) + (biased ? ", biases" : ""));
  const auto matrix = [](unsigned seed, int64_t inputs, int64_t outputs) {
    return draw(seed, inputs * outputs, 1.0f / std::sqrt(static_cast<float>(inputs)));
  };
  const Array first = draw(1, D), second = draw(2, D), q = matrix(3, D, N * H), k = matrix(4, D, K * H);
  const Array v = matrix(5, D, K * H), back = matrix(6, N * H, D), gate = matrix(7, D, F), up = matrix(8, D, F);
  const Array down = matrix(9, F, D), of_q = draw(10, N * H), of_k = draw(11, K * H), of_v = draw(12, K * H);
  const Array x = draw(13, B * D), cos = draw(14, B * H), sin = draw(15, B * H);
  Array keys = draw(16, B * K * C * H), values = draw(17, B * K * C * H);
  Exact out(B * D), exact_keys(keys.begin(), keys.end()), exact_values(values.begin(), values.end());
  for (int64_t b = 0; b < B; ++b) {
    const Exact row(x.begin() + b * D, x.begin() + (b + 1) * D);
    const Exact from = normed(row, first);
    Exact query = mapped(from, q, biased ? &of_q : nullptr), key = mapped(from, k, biased ? &of_k : nullptr);
    const Exact value = mapped(from, v, biased ? &of_v : nullptr);
    turn(query, cos.data() + b * H, sin.data() + b * H, H);
    turn(key, cos.data() + b * H, sin.data() + b * H, H);
    for (int64_t head = 0; head < K; ++head)
      for (int64_t j = 0; j < H; ++j) {
        const int64_t slot = ((b * K + head) * C + lengths[b] - 1) * H + j;
        exact_keys[slot] = key[head * H + j], exact_values[slot] = value[head * H + j];
      }
    Exact seen(N * H, 0.0);
    for (int64_t n = 0; n < N; ++n) {
      const int64_t cached = (b * K + n / (N / K)) * C * H;
      Exact weight(lengths[b]);
      double sum = 0.0;
      for (int64_t s = 0; s < lengths[b]; ++s) {
        double score = 0.0;
        for (int64_t j = 0; j < H; ++j) score += query[n * H + j] * exact_keys[cached + s * H + j];
        sum += weight[s] = std::exp(score / std::sqrt(static_cast<double>(H)));
      }
      for (int64_t s = 0; s < lengths[b]; ++s)
        for (int64_t j = 0; j < H; ++j) seen[n * H + j] += weight[s] / sum * exact_values[cached + s * H + j];
    }
    Exact total = mapped(seen, back, nullptr);
    for (int64_t i = 0; i < D; ++i) total[i] += row[i];
    const Exact into = normed(total, second);
    Exact h = mapped(into, gate, nullptr);
    const Exact raised = mapped(into, up, nullptr);
    for (int64_t i = 0; i < F; ++i) h[i] *= raised[i] / (1.0 + std::exp(-h[i]));
    const Exact fed = mapped(h, down, nullptr);
    for (int64_t i = 0; i < D; ++i) out[b * D + i] = total[i] + fed[i];
  }
  const mix::DecodeLayer layer{B, D, N, K, H, F, C, static_cast<float>(kEps),
                               1.0f / std::sqrt(static_cast<float>(H)), first.data(), q.data(), k.data(), v.data(),
                               back.data(), second.data(), gate.data(), up.data(), down.data(),
                               biased ? of_q.data() : nullptr, biased ? of_k.data() : nullptr,
                               biased ? of_v.data() : nullptr};
  Array scratch = unwritten(mix::decode_layer_scratch(layer)), found = unwritten(B * D);
  mix::decode_layer(layer, x.data(), cos.data(), sin.data(), lengths.data(), keys.data(), values.data(),
                    scratch.data(), found.data());
  one.forward("out", found, out);
  one.forward("keys", keys, exact_keys);
  one.forward("values", values, exact_values);
  Array again = unwritten(B * D);
  mix::decode_layer(layer, x.data(), cos.data(), sin.data(), lengths.data(), keys.data(), values.data(),
                    scratch.data(), again.data());
  one.same("out", found, again);
}

}  // namespace

MIX_CASES(decode_layer) {
  decode({1}, 8, 1, 1, 2, 3, false);
  decode({5, 1, 33}, 24, 4, 2, 16, 40, true);
  decode({130}, 65, 6, 1, 64, 129, true);
  decode({3, 7, 2, 1, 9, 4, 4, 8, 5, 6}, 40, 2, 2, 20, 56, false);
}
