// 16-bit numbers to float32 and back, over arrays.
#pragma once

#include <cstdint>
#include <cstring>

namespace mix::sim {

inline float bfloat16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// To nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded);
}

void widen_from(bool bfloat16, const uint16_t* from, int64_t count, float* to);
void round_to(bool bfloat16, const float* from, int64_t count, uint16_t* to);
// Round float32 numbers to bfloat16 in place.
void truncate(float* numbers, int64_t count);

}  // namespace mix::sim
