// Attention of one new token over the cache, against the textbook in double.
// Shapes: B rows, N query heads, K key/value heads, C slots, H head dim.
#include <algorithm>

#include "ops/attention_decode.h"
#include "tests/kernel_case.h"

namespace {

using namespace mix::test;

void run(const std::vector<int64_t>& lengths, int64_t N, int64_t K, int64_t C, int64_t H) {
  const int64_t B = static_cast<int64_t>(lengths.size()), group = N / K;
  Case one("attention_decode " + std::to_string(B) + " rows, " + std::to_string(N) + "/" + std::to_string(K) +
           " heads, " + std::to_string(C) + " slots, head " + std::to_string(H));
  const float scale = 1.0f / std::sqrt(static_cast<float>(H));
  const Array q = draw(1, B * N * H);
  Array k = draw(2, B * K * C * H), v = draw(3, B * K * C * H);
  Exact exact(B * N * H, 0.0);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t n = 0; n < N; ++n) {
      const int64_t cached = (b * K + n / group) * C * H, at = (b * N + n) * H;
      // nothing of what lies beyond may count
      std::fill(k.begin() + cached + lengths[b] * H, k.begin() + cached + C * H, std::nanf(""));
      std::fill(v.begin() + cached + lengths[b] * H, v.begin() + cached + C * H, std::nanf(""));
      Exact weight(lengths[b], 0.0);
      double top = -1e300, sum = 0.0;
      for (int64_t j = 0; j < lengths[b]; ++j) {
        for (int64_t h = 0; h < H; ++h)
          weight[j] += static_cast<double>(scale) * q[at + h] * k[cached + j * H + h];
        top = std::max(top, weight[j]);
      }
      for (double& w : weight) sum += w = std::exp(w - top);
      for (int64_t j = 0; j < lengths[b]; ++j)
        for (int64_t h = 0; h < H; ++h) exact[at + h] += weight[j] / sum * v[cached + j * H + h];
    }
  Array out = unwritten(B * N * H), again = out;
  mix::attention_decode(q.data(), k.data(), v.data(), lengths.data(), B, N, K, C, H, scale, out.data());
  mix::attention_decode(q.data(), k.data(), v.data(), lengths.data(), B, N, K, C, H, scale, again.data());
  one.forward("out", out, exact);
  one.same("out", out, again);
}

}  // namespace

MIX_CASES(attention_decode) {
  for (const int64_t H : {64, 80, 96, 104, 128}) run({1, 7, 17, 64}, 4, 2, 64, H);
  run({1}, 1, 1, 1, 64);
  run({1025}, 14, 2, 1030, 64);
  run({0, 3, 0}, 6, 3, 3, 20);  // a row that has nothing yet gives zeros
}
