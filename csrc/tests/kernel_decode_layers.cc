// decode_layers against decoder layers in plain double loops.
#include "ops/decode_layers.h"

#include <omp.h>

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

struct Widths {
  int64_t D, N, K, H, F;
};

// A layer's parameters and what its cache holds before the call.
struct Layer {
  Array first, second, q, k, v, back, gate, up, down, of_q, of_k, of_v, keys, values;

  Layer(unsigned seed, const Widths& w, int64_t slots)
      : first(draw(seed, w.D)),
        second(draw(seed + 1, w.D)),
        q(matrix(seed + 2, w.D, w.N * w.H)),
        k(matrix(seed + 3, w.D, w.K * w.H)),
        v(matrix(seed + 4, w.D, w.K * w.H)),
        back(matrix(seed + 5, w.N * w.H, w.D)),
        gate(matrix(seed + 6, w.D, w.F)),
        up(matrix(seed + 7, w.D, w.F)),
        down(matrix(seed + 8, w.F, w.D)),
        of_q(draw(seed + 9, w.N * w.H)),
        of_k(draw(seed + 10, w.K * w.H)),
        of_v(draw(seed + 11, w.K * w.H)),
        keys(draw(seed + 12, slots * w.H)),
        values(draw(seed + 13, slots * w.H)) {}

  static Array matrix(unsigned seed, int64_t inputs, int64_t outputs) {
    return draw(seed, inputs * outputs, 1.0f / std::sqrt(static_cast<float>(inputs)));
  }

  mix::DecodeLayer pointers(bool biased) {
    const auto bias = [&](const Array& of) { return biased ? of.data() : nullptr; };
    const auto plain = [](const Array& of) { return mix::DecodeMatrix{of.data(), nullptr, nullptr}; };
    return {first.data(), second.data(), plain(q),   plain(k),   plain(v),   plain(back), plain(gate),
            plain(up),    plain(down),   bias(of_q), bias(of_k), bias(of_v), keys.data(), values.data()};
  }
};

// A matrix [inputs, outputs] in 8 bits, and the numbers that these stand for in its place.
struct Rounded {
  std::vector<int8_t> steps;
  Array scale;

  Rounded(Array& matrix, int64_t inputs) : scale(matrix.size() / inputs, 0.0f) {
    const int64_t outputs = static_cast<int64_t>(scale.size());
    for (int64_t i = 0; i < inputs * outputs; ++i)
      scale[i % outputs] = std::max(scale[i % outputs], std::abs(matrix[i]) / 127);
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i) {
        steps.push_back(static_cast<int8_t>(std::lround(matrix[i * outputs + o] / scale[o])));
        matrix[i * outputs + o] = scale[o] * static_cast<float>(steps.back());
      }
  }

  mix::DecodeMatrix pointers() const { return {nullptr, steps.data(), scale.data()}; }
};

// A layer's matrices in 8 bits, as their numbers stand then in the layer too.
struct RoundedLayer {
  Rounded q, k, v, back, gate, up, down;

  RoundedLayer(Layer& of, const Widths& w)
      : q(of.q, w.D),
        k(of.k, w.D),
        v(of.v, w.D),
        back(of.back, w.N * w.H),
        gate(of.gate, w.D),
        up(of.up, w.D),
        down(of.down, w.F) {}

  void put(mix::DecodeLayer& layer) const {
    layer.q = q.pointers(), layer.k = k.pointers(), layer.v = v.pointers(), layer.out = back.pointers();
    layer.gate = gate.pointers(), layer.up = up.pointers(), layer.down = down.pointers();
  }
};

// What the layer makes of row `b`; its keys and values are written to `keys` and `values`, in which it sees `seen` slots.
Exact through(const Layer& layer, const Exact& row, const Widths& w, int64_t b, int64_t C, int64_t seen, bool biased,
              const float* cos, const float* sin, Exact& keys, Exact& values) {
  const int64_t H = w.H;
  const Exact from = normed(row, layer.first);
  Exact query = mapped(from, layer.q, biased ? &layer.of_q : nullptr);
  Exact key = mapped(from, layer.k, biased ? &layer.of_k : nullptr);
  const Exact value = mapped(from, layer.v, biased ? &layer.of_v : nullptr);
  turn(query, cos, sin, H);
  turn(key, cos, sin, H);
  for (int64_t head = 0; head < w.K; ++head)
    for (int64_t j = 0; j < H; ++j) {
      const int64_t slot = ((b * w.K + head) * C + seen - 1) * H + j;
      keys[slot] = key[head * H + j], values[slot] = value[head * H + j];
    }
  Exact attended(w.N * H, 0.0);
  for (int64_t n = 0; n < w.N; ++n) {
    const int64_t cached = (b * w.K + n / (w.N / w.K)) * C * H;
    Exact weight(seen);
    double sum = 0.0;
    for (int64_t s = 0; s < seen; ++s) {
      double score = 0.0;
      for (int64_t j = 0; j < H; ++j) score += query[n * H + j] * keys[cached + s * H + j];
      sum += weight[s] = std::exp(score / std::sqrt(static_cast<double>(H)));
    }
    for (int64_t s = 0; s < seen; ++s)
      for (int64_t j = 0; j < H; ++j) attended[n * H + j] += weight[s] / sum * values[cached + s * H + j];
  }
  Exact total = mapped(attended, layer.back, nullptr);
  for (int64_t i = 0; i < w.D; ++i) total[i] += row[i];
  const Exact into = normed(total, layer.second);
  Exact h = mapped(into, layer.gate, nullptr);
  const Exact raised = mapped(into, layer.up, nullptr);
  for (int64_t i = 0; i < w.F; ++i) h[i] *= raised[i] / (1.0 + std::exp(-h[i]));
  const Exact fed = mapped(h, layer.down, nullptr);
  for (int64_t i = 0; i < w.D; ++i) total[i] += fed[i];
  return total;
}

void decode(std::vector<int64_t> lengths, const Widths& w, unsigned count, bool biased, bool in_steps) {
  const int64_t B = static_cast<int64_t>(lengths.size()), C = *std::max_element(lengths.begin(), lengths.end()) + 2;
  Case one("decode_layers " + std::to_string(count) + ", " + std::to_string(B) + " rows, " + std::to_string(w.N) + "/" +
           std::to_string(w.K) + " heads of " + std::to_string(w.H) + (biased ? ", biases" : "") + (in_steps ? ", int8" : ""));
  const Array x = draw(1, B * w.D), cos = draw(2, B * w.H), sin = draw(3, B * w.H);
  std::vector<Layer> layers;
  std::vector<RoundedLayer> rounded;
  std::vector<Exact> keys, values;
  for (unsigned i = 0; i < count; ++i) {
    layers.emplace_back(20 * i + 10, w, B * w.K * C);
    if (in_steps) rounded.emplace_back(layers[i], w);
    keys.emplace_back(layers[i].keys.begin(), layers[i].keys.end());
    values.emplace_back(layers[i].values.begin(), layers[i].values.end());
  }
  Exact out;
  for (int64_t b = 0; b < B; ++b) {
    Exact row(x.begin() + b * w.D, x.begin() + (b + 1) * w.D);
    for (unsigned i = 0; i < count; ++i)
      row = through(layers[i], row, w, b, C, lengths[b], biased, cos.data() + b * w.H, sin.data() + b * w.H, keys[i],
                    values[i]);
    out.insert(out.end(), row.begin(), row.end());
  }
  const mix::DecodeShape shape{B, w.D, w.N, w.K, w.H, w.F, C, static_cast<float>(kEps),
                               1.0f / std::sqrt(static_cast<float>(w.H))};
  std::vector<mix::DecodeLayer> pointers;
  for (Layer& layer : layers) pointers.push_back(layer.pointers(biased));
  for (size_t i = 0; i < rounded.size(); ++i) rounded[i].put(pointers[i]);
  const auto run = [&](Array& to) {
    mix::decode_layers(shape, pointers.data(), count, x.data(), cos.data(), sin.data(), lengths.data(), to.data());
  };
  Array found = unwritten(B * w.D), again = unwritten(B * w.D);
  run(found);
  one.forward("out", found, out);
  for (unsigned i = 0; i < count; ++i) {
    one.forward("keys", layers[i].keys, keys[i]);
    one.forward("values", layers[i].values, values[i]);
  }
  run(again);
  one.same("out", found, again);
  // threads share the sums, so another number of them rounds otherwise
  const int threads = omp_get_max_threads();
  omp_set_num_threads(3);
  run(again);
  omp_set_num_threads(threads);
  one.forward("out with 3 threads", again, out);
}

}  // namespace

MIX_CASES(decode_layers) {
  for (const bool in_steps : {false, true}) {
    decode({1}, {8, 1, 1, 2, 3}, 1, false, in_steps);
    decode({5, 1, 33}, {24, 4, 2, 16, 40}, 2, true, in_steps);
    decode({130}, {65, 6, 1, 64, 129}, 1, true, in_steps);
    decode({40, 7}, {200, 4, 2, 32, 300}, 3, true, in_steps);
    decode({3, 7, 2, 1, 9, 4, 4, 8, 5, 6}, {40, 2, 2, 20, 56}, 2, false, in_steps);
  }
}
