// Packing of a factor into tiles of 16 lanes x 32 depths of bfloat16, for gemm_tiles.cc. AVX-512 with bfloat16.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "ops/gemm_tiles.h"

#define MIX_BF16 __attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define MIX_BF16_INLINE MIX_BF16 __attribute__((always_inline)) inline

namespace mix {

constexpr int64_t kLanes = 16;
constexpr int64_t kDepth = 32;
constexpr int64_t kTileSize = kLanes * kDepth;

// 32 bfloat16: `low` in the lower half.
MIX_BF16_INLINE __m512i narrowed(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

MIX_BF16_INLINE __m512 widened(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

MIX_BF16_INLINE __mmask16 first(int64_t count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>(count <= 0 ? 0 : (1u << count) - 1);
}

// 16 x 16 words of 32 bits, rows to columns.
MIX_BF16_INLINE void transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// One tile in PARTS parts, kTileSize apart. What lies beyond `lanes` and `depths` is 0. PAIRS: [depth / 2][lane][2],
// as the right factor of a dot product of pairs wants it; else [lane][depth].
template <int PARTS, bool DEPTH_INNER, bool PAIRS>
MIX_BF16_INLINE void pack_tile(const float* from, int64_t stride, int64_t lanes, int64_t depths, uint16_t* to) {
  // of two rows side by side, the numbers of one lane side by side
  const __m512i by_lane = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512i rows[PARTS][16];
  for (int64_t r = 0; r < 16; ++r) {
    __m512 low, high;
    if (DEPTH_INNER) {
      const float* lane = from + r * stride;
      low = _mm512_maskz_loadu_ps(r < lanes ? first(depths) : 0, lane);
      high = _mm512_maskz_loadu_ps(r < lanes ? first(depths - 16) : 0, lane + 16);
    } else {
      const float* depth = from + 2 * r * stride;
      low = _mm512_maskz_loadu_ps(2 * r < depths ? first(lanes) : 0, depth);
      high = _mm512_maskz_loadu_ps(2 * r + 1 < depths ? first(lanes) : 0, depth + stride);
    }
    for (int part = 0; part < PARTS; ++part) {
      const __m512i both = narrowed(low, high);
      if (part + 1 < PARTS) {
        low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(both)));
        high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(both, 1)));
      }
      rows[part][r] = DEPTH_INNER ? both : _mm512_permutexvar_epi16(by_lane, both);
    }
  }
  for (int part = 0; part < PARTS; ++part) {
    if (DEPTH_INNER == PAIRS) transpose(rows[part]);
    for (int64_t r = 0; r < 16; ++r)
      _mm512_store_si512(reinterpret_cast<__m512i*>(to + part * kTileSize + r * kDepth), rows[part][r]);
  }
}

// Groups of 16 lanes, an even number of them.
inline int64_t groups_of(int64_t lanes) { return (lanes + 2 * kLanes - 1) / (2 * kLanes) * 2; }

// Lanes from `lane` on by depths from `depth` on: [group][tile][part].
template <int PARTS, bool PAIRS>
MIX_BF16 void pack(const Factor& from, int64_t lane, int64_t lanes, int64_t depth, int64_t depths,
                   uint16_t* to) {
  const int64_t tiles = (depths + kDepth - 1) / kDepth, groups = groups_of(lanes);
  const auto one = [&](int64_t g, int64_t t) MIX_BF16 {
    const int64_t have = std::min(kLanes, lanes - g * kLanes), deep = std::min(kDepth, depths - t * kDepth);
    const float* at = from.at(lane + (have > 0 ? g * kLanes : 0), depth + t * kDepth);
    uint16_t* tile = to + (g * tiles + t) * PARTS * kTileSize;
    if (from.depth_inner)
      pack_tile<PARTS, true, PAIRS>(at, from.stride, have, deep, tile);
    else
      pack_tile<PARTS, false, PAIRS>(at, from.stride, have, deep, tile);
  };
  // along the rows as they lie, so that few pages are read at a time
  if (from.depth_inner) {
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t t = 0; t < tiles; ++t) one(g, t);
  } else {
    for (int64_t t = 0; t < tiles; ++t)
      for (int64_t g = 0; g < groups; ++g) one(g, t);
  }
}

}  // namespace mix
