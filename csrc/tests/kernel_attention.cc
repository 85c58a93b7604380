// Attention, forward and backward, against the textbook in double.
// Shapes: N query heads, K key/value heads, H head dim; a segment has its own queries and keys.
#include "ops/attention.h"

#include <algorithm>
#include <functional>

#include "ops/attention_tiles.h"
#include "tests/kernel_case.h"
#include "tests/plain_rows.h"

namespace {

using mix::test::add_row;
using mix::test::Array;
using mix::test::Case;
using mix::test::dot;
using mix::test::draw;
using mix::test::Exact;
using mix::test::kForwardLimit;
using mix::test::kGradientLimit;
using mix::test::kNarrowLimit;
using mix::test::unwritten;

struct Problem {
  std::string name;
  std::vector<int32_t> queries, keys;  // of each segment
  int64_t N, K, H;
  bool causal = true;
  int64_t window = 0;
  int64_t mask_heads = 0;  // 0: no mask
  bool fused = false;      // q, k and v are columns of one array
  bool rounded = false;    // products in bfloat16
};

std::vector<int32_t> ends_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> ends{0};
  for (const int32_t length : lengths) ends.push_back(ends.back() + length);
  return ends;
}

// The inputs of a problem, and where each tensor begins.
struct Inputs {
  std::vector<int32_t> cu_q, cu_k;
  Array array[3], d_out;
  const float *q, *k, *v;
  std::vector<char> mask;
  mix::AttentionShape shape;

  explicit Inputs(const Problem& p) : cu_q(ends_of(p.queries)), cu_k(ends_of(p.keys)), shape{} {
    const int64_t Tq = cu_q.back(), Tk = cu_k.back(), wide = p.N * p.H, narrow = p.K * p.H;
    if (p.fused) {
      array[0] = draw(1, Tq * (wide + 2 * narrow));
      q = array[0].data(), k = q + wide, v = k + narrow;
      shape.q_stride = shape.k_stride = shape.v_stride = wide + 2 * narrow;
    } else {
      array[0] = draw(1, Tq * wide), array[1] = draw(2, Tk * narrow), array[2] = draw(3, Tk * narrow);
      q = array[0].data(), k = array[1].data(), v = array[2].data();
      shape.q_stride = wide, shape.k_stride = shape.v_stride = narrow;
    }
    d_out = draw(4, Tq * wide);
    shape.cu_q = cu_q.data(), shape.cu_k = cu_k.data();
    shape.segments = static_cast<int64_t>(p.queries.size());
    shape.heads = p.N, shape.kv_heads = p.K, shape.head_dim = p.H;
    shape.scale = 1.0f / std::sqrt(static_cast<float>(p.H));
    shape.causal = p.causal, shape.window = p.window;
    shape.products = p.rounded ? mix::Products::kBfloat16 : mix::Products::kFloat32;
    if (p.mask_heads > 0) {
      std::mt19937 bits(5);
      const int64_t plane = p.queries[0] * p.keys[0];
      mask.resize(shape.segments * p.mask_heads * plane);
      for (size_t i = 0; i < mask.size(); ++i) mask[i] = bits() % 5 < 3;
      std::fill_n(mask.begin() + plane - p.keys[0], p.keys[0], 0);  // one query sees nothing
      shape.mask = reinterpret_cast<const bool*>(mask.data()), shape.mask_heads = p.mask_heads;
    }
  }
};

bool sees(const Problem& p, const Inputs& in, int64_t s, int64_t n, int64_t i, int64_t j) {
  const int64_t q_len = p.queries[s], k_len = p.keys[s], ahead = j - (i + k_len - q_len);
  if (p.causal && ahead > 0) return false;
  if (p.window > 0 && std::abs(ahead) >= p.window) return false;
  if (p.mask_heads == 0) return true;
  return in.mask[((s * p.mask_heads + n % p.mask_heads) * q_len + i) * k_len + j] != 0;
}

struct Results {
  Exact out, dq, dk, dv;
};

Results textbook(const Problem& p, const Inputs& in) {
  const int64_t Tq = in.cu_q.back(), Tk = in.cu_k.back(), H = p.H, group = p.N / p.K;
  const double scale = in.shape.scale;
  Results r{Exact(Tq * p.N * H), Exact(Tq * p.N * H), Exact(Tk * p.K * H), Exact(Tk * p.K * H)};
  for (int64_t s = 0; s < in.shape.segments; ++s)
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t i = 0; i < p.queries[s]; ++i) {
        const int64_t k_len = p.keys[s], at = ((in.cu_q[s] + i) * p.N + n) * H, head = n / group;
        const float* q = in.q + (in.cu_q[s] + i) * in.shape.q_stride + n * H;
        const auto key = [&](int64_t j) { return in.k + (in.cu_k[s] + j) * in.shape.k_stride + head * H; };
        const auto value = [&](int64_t j) { return in.v + (in.cu_k[s] + j) * in.shape.v_stride + head * H; };
        Exact weight(k_len, 0.0), slope(k_len, 0.0);
        std::vector<int64_t> seen;
        double top = -1e300, sum = 0.0, mean = 0.0;
        for (int64_t j = 0; j < k_len; ++j) {
          if (!sees(p, in, s, n, i, j)) continue;
          seen.push_back(j);
          weight[j] = scale * dot(q, key(j), H);
          top = std::max(top, weight[j]);
        }
        for (const int64_t j : seen) sum += weight[j] = std::exp(weight[j] - top);
        for (const int64_t j : seen) {
          weight[j] /= sum;
          add_row(weight[j], value(j), H, &r.out[at]);
          slope[j] = dot(&in.d_out[at], value(j), H);
          add_row(weight[j], &in.d_out[at], H, &r.dv[((in.cu_k[s] + j) * p.K + head) * H]);
          mean += weight[j] * slope[j];
        }
        for (const int64_t j : seen) {
          const double d = weight[j] * (slope[j] - mean) * scale;
          add_row(d, key(j), H, &r.dq[at]);
          add_row(d, q, H, &r.dk[((in.cu_k[s] + j) * p.K + head) * H]);
        }
      }
  return r;
}

void run(const Problem& p) {
  Case one("attention " + p.name + (p.rounded ? ", in bfloat16" : ""));
  const Inputs in(p);
  const Results exact = textbook(p, in);
  Array first[4];
  for (int call = 0; call < 2; ++call) {
    Array out = unwritten(exact.out.size()), lse = unwritten(in.cu_q.back() * p.N);
    Array dq = unwritten(exact.dq.size()), dk = unwritten(exact.dk.size()), dv = unwritten(exact.dv.size());
    mix::attention_forward(in.shape, in.q, in.k, in.v, out.data(), lse.data());
    mix::attention_backward(in.shape, in.q, in.k, in.v, out.data(), lse.data(), in.d_out.data(), dq.data(),
                            dk.data(), dv.data());
    if (call == 0) {
      const double of_gradients = p.rounded ? kNarrowLimit : kGradientLimit;
      one.within(p.rounded ? kNarrowLimit : kForwardLimit, "out", out, exact.out);
      one.within(of_gradients, "dq", dq, exact.dq);
      one.within(of_gradients, "dk", dk, exact.dk);
      one.within(of_gradients, "dv", dv, exact.dv);
      first[0] = out, first[1] = dq, first[2] = dk, first[3] = dv;
    } else {
      one.same("out", first[0], out);
      one.same("dq", first[1], dq);
      one.same("dk", first[2], dk);
      one.same("dv", first[3], dv);
    }
  }
}

// A NaN reaches every result that depends on it, and no other head. (0 times a NaN value is NaN.)
void nan(int32_t tokens, int which) {
  Case one("attention of " + std::to_string(tokens) + ", a NaN in " + std::string(1, "qkv"[which]));
  const Problem p{"", {tokens}, {tokens}, 2, 2, 16};
  Inputs in(p);
  const int64_t spoiled = 3, head = 1;
  in.array[which][(spoiled * 2 + head) * 16 + 5] = std::nanf("");
  Array out = unwritten(tokens * 2 * 16), lse = unwritten(tokens * 2);
  mix::attention_forward(in.shape, in.q, in.k, in.v, out.data(), lse.data());
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t n = 0; n < 2; ++n) {
      const float* row = out.data() + (i * 2 + n) * 16;
      const bool nan = std::any_of(row, row + 16, [](float x) { return std::isnan(x); });
      const bool due = n == head && (which == 0 ? i == spoiled : i >= spoiled);
      const std::string place = "row " + std::to_string(i) + " head " + std::to_string(n);
      one.that(nan || !due, place + " lost it");
      one.that(!nan || n == head, place + " has one");
    }
}

}  // namespace

MIX_CASES(attention) {
  using Lengths = std::vector<int32_t>;
  for (const int64_t H : {64, 80, 96, 104, 128}) {
    const std::string of = ", head " + std::to_string(H);
    run({"one token" + of, {1}, {1}, 7, 1, H});
    run({"ragged with an empty segment" + of, {7, 0, 17}, {7, 0, 17}, 4, 2, H});
    run({"a block and one more, both ways" + of, {64, 65}, {64, 65}, 2, 2, H, false});
    run({"columns of one array" + of, {17, 66}, {17, 66}, 6, 2, H, true, 0, 0, true});
  }
  for (const int64_t window : {1, 2, 16, 17, 64, 2000}) {
    const std::string of = "window " + std::to_string(window);
    run({of + ", causal", {130, 1}, {130, 1}, 2, 1, 64, true, window});
    run({of + ", both ways", {7, 130}, {7, 130}, 2, 1, 64, false, window});
  }
  run({"only empty segments", {0, 0}, {0, 0}, 2, 2, 64});
  run({"empty ones at both ends", {0, 5, 0}, {0, 5, 0}, 2, 1, 80});
  run({"fewer queries than keys", {3, 65}, {10, 130}, 4, 4, 64});
  run({"more queries than keys, causal", {70, 5}, {3, 4}, 2, 1, 64});
  run({"queries without keys", {3, 4}, {0, 4}, 2, 1, 64});
  run({"keys without queries", {0, 4}, {3, 4}, 2, 1, 64});
  run({"fewer queries than keys, window", {65}, {130}, 2, 1, 64, false, 9});
  run({"mask of one head", {7, 7}, {17, 17}, 4, 2, 64, false, 0, 1});
  run({"mask of all heads, causal", Lengths(3, 65), Lengths(3, 65), 4, 2, 80, true, 0, 4});
  run({"mask, window", {64}, {64}, 2, 2, 96, false, 5, 2});
  run({"odd heads and a head of 1", {17}, {17}, 3, 1, 1});
  run({"1025 tokens", {1025}, {1025}, 1, 1, 64});
  const Problem many{"many heads, so that they are packed in turns", {300, 64, 700}, {300, 64, 700}, 12, 12, 128};
  if (mix::attention_on_tiles(Inputs(many).shape)) run(many);  // elsewhere nothing is packed, and it takes minutes
  for (const int64_t H : {64, 80}) run({"head " + std::to_string(H), {7, 200}, {7, 200}, 4, 2, H, true, 0, 0, false, true});
}

MIX_CASES(attention_nan) {
  for (const int32_t tokens : {6, 70})
    for (int which = 0; which < 3; ++which) nan(tokens, which);
}
