// Run-time choice of the instruction set without -march, and an exponential that compilers can vectorise.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#define MIX_INLINE inline __attribute__((always_inline))

namespace mix {

enum class Isa { kPortable, kAvx2, kAvx512 };

// The best set this processor has; MIX_CPU_ISA=portable|avx2|avx512|amx lowers it (tests run every path). `amx` is
// AVX-512 with a unit for tiles (ops/gemm_tiles.h). Other values are refused before this library is loaded.
inline Isa detect_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const char* wanted = std::getenv("MIX_CPU_ISA");
  const bool below512 = wanted != nullptr && std::strcmp(wanted, "avx512") != 0 && std::strcmp(wanted, "amx") != 0;
  const bool below2 = below512 && std::strcmp(wanted, "avx2") != 0;
  if (avx512 && !below512) return Isa::kAvx512;
  if (avx2 && !below2) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

inline Isa active_isa() {
  static const Isa isa = detect_isa();
  return isa;
}

// exp(x) for float, relative error below 2e-7 over [-87, 88]; 0 below and exp(88) above. x = n ln2 + r with
// |r| <= ln2 / 2, a polynomial for exp(r) (coefficients of the Cephes library's expf) and n in the exponent.
// Adding 1.5 * 2^23 rounds to the nearest whole number, which the sum's lowest bits then hold.
MIX_INLINE float fast_exp(float x) {
  constexpr float kRound = 12582912.0f;
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float shifted = clamped * 1.44269504088896341f + kRound;
  const float whole = shifted - kRound;
  const float r = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127) << 23;  // of NaN, any number
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  // A product, not a branch: with a branch the compiler threads the zero into callers and stops vectorising.
  return p * scale * static_cast<float>(x >= -87.0f);
}

// 0 below -88, where fast_exp no longer grows: a gate of -1e38 would otherwise give -0.6 of silu.
MIX_INLINE float sigmoid(float x) { return static_cast<float>(!(x < -88.0f)) / (1.0f + fast_exp(-x)); }

}  // namespace mix

// One copy of a function an instruction set, chosen at each call by a predictable branch; each returns its own body.
#if defined(__x86_64__)
#define MIX_COPIES(type, name, parameters, arguments, body_avx512, body_avx2, body_portable)        \
  __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))) type name##_avx512 parameters { \
    return body_avx512 arguments;                                                                  \
  }                                                                                                \
  __attribute__((target("avx2,fma"))) type name##_avx2 parameters { return body_avx2 arguments; }   \
  type name##_portable parameters { return body_portable arguments; }                              \
  inline type name parameters {                                                                    \
    switch (mix::active_isa()) {                                                                   \
      case mix::Isa::kAvx512:                                                                      \
        return name##_avx512 arguments;                                                            \
      case mix::Isa::kAvx2:                                                                        \
        return name##_avx2 arguments;                                                              \
      default:                                                                                     \
        return name##_portable arguments;                                                          \
    }                                                                                              \
  }
#else
#define MIX_COPIES(type, name, parameters, arguments, body_avx512, body_avx2, body_portable) \
  inline type name parameters { return body_portable arguments; }
#endif

// MIX_KERNEL(type, name, (parameters), (arguments)) makes `name` from the inline function `name_body`;
// MIX_KERNEL_OF_LANES from the template `name_body<LANES>`, which gets the floats of the set's widest registers.
#define MIX_KERNEL(type, name, parameters, arguments) \
  MIX_COPIES(type, name, parameters, arguments, name##_body, name##_body, name##_body)
#define MIX_KERNEL_OF_LANES(type, name, parameters, arguments) \
  MIX_COPIES(type, name, parameters, arguments, name##_body<16>, name##_body<8>, name##_body<4>)
