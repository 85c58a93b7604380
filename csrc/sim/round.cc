#include "sim/round.h"

#pragma GCC optimize(3)  // at the level of the other sources these loops stay scalar

#include "paddle/phi/common/float16.h"

namespace mix::sim {

namespace {

constexpr int64_t SERIAL = 1 << 15;  // fewer numbers are not worth starting threads for

template <typename Each>
void for_all(int64_t count, Each each) {
#pragma omp parallel for schedule(static) if (count > SERIAL)
  for (int64_t i = 0; i < count; ++i) each(i);
}

float half_to_float(uint16_t bits) {
  phi::dtype::float16 half;
  half.x = bits;
  return static_cast<float>(half);
}

}  // namespace

void widen_from(bool bfloat16, const uint16_t* from, int64_t count, float* to) {
  if (bfloat16)
    for_all(count, [=](int64_t i) { to[i] = bfloat16_to_float(from[i]); });
  else
    for_all(count, [=](int64_t i) { to[i] = half_to_float(from[i]); });
}

void round_to(bool bfloat16, const float* from, int64_t count, uint16_t* to) {
  if (bfloat16)
    for_all(count, [=](int64_t i) { to[i] = float_to_bfloat16(from[i]); });
  else
    for_all(count, [=](int64_t i) { to[i] = phi::dtype::float16(from[i]).x; });
}

void truncate(float* numbers, int64_t count) {
  for_all(count, [=](int64_t i) { numbers[i] = bfloat16_to_float(float_to_bfloat16(numbers[i])); });
}

}  // namespace mix::sim
