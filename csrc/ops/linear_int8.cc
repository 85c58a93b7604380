#include "ops/linear_int8.h"

#include <algorithm>

#include "mix/gemm.h"
#include "mix/parallel.h"
#include "mix/vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mix {
namespace {

constexpr int64_t kGroup = 4;           // rows of W at once: as many independent sums, and one load of x for all
constexpr int64_t kChunk = 2048;        // inputs in a piece of a dot product: sums of more terms lose digits
constexpr int64_t kSerial = 1 << 16;    // a smaller matrix is read sooner than a second thread wakes
constexpr int64_t kBlock = 1 << 20;     // widened numbers of a block
constexpr int64_t kLeastBlock = 256;    // outputs of a block that gemm still multiplies in tiles

// sum[r * kGroup + g] += x[r] . w[g] over n inputs, for R rows of x and kGroup of W, `x_stride` and `stride` apart.
template <int R>
void dots_portable(const float* x, int64_t x_stride, const int8_t* w, int64_t stride, int64_t n, float* sum) {
  for (int r = 0; r < R; ++r)
    for (int64_t g = 0; g < kGroup; ++g) {
      const float* const a = x + r * x_stride;
      const int8_t* const b = w + g * stride;
      float total = 0.0f;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < n; ++j) total += a[j] * static_cast<float>(b[j]);
      sum[r * kGroup + g] += total;
    }
}

void widen_portable(const int8_t* w, int64_t n, float scale, float* out) {
  for (int64_t j = 0; j < n; ++j) out[j] = scale * static_cast<float>(w[j]);
}

#if defined(__x86_64__)
// Written out, because compilers widen 8 to 32 bits in four steps over the narrowest vectors.
#define MIX_AVX2 __attribute__((target("avx2,fma")))
#define MIX_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))

// Asks for bytes that will be read later: the hardware loses rows this short at each change of the row.
inline void ahead(const int8_t* w) { _mm_prefetch(reinterpret_cast<const char*>(w) + 4096, _MM_HINT_T0); }

MIX_AVX2 inline __m256 eight(const int8_t* w) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w))));
}

static_assert(kGroup == 4, "four sums are added up side by side");

// sum[g] += all numbers of v[g].
MIX_AVX2 inline void add_totals(const __m256* v, float* sum) {
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
  _mm_storeu_ps(sum, _mm_add_ps(_mm_loadu_ps(sum), four));
}

template <int R>
MIX_AVX2 void dots_avx2(const float* x, int64_t x_stride, const int8_t* w, int64_t stride, int64_t n, float* sum) {
  __m256 sums[R][kGroup];
  for (int r = 0; r < R; ++r)
    for (int64_t g = 0; g < kGroup; ++g) sums[r][g] = _mm256_setzero_ps();
  int64_t j = 0;
  for (; j + 8 <= n; j += 8)
    for (int64_t g = 0; g < kGroup; ++g) {
      const __m256 b = eight(w + g * stride + j);
      ahead(w + g * stride + j);
      for (int r = 0; r < R; ++r) sums[r][g] = _mm256_fmadd_ps(_mm256_loadu_ps(x + r * x_stride + j), b, sums[r][g]);
    }
  for (int r = 0; r < R; ++r) {
    add_totals(sums[r], sum + r * kGroup);
    for (int64_t g = 0; g < kGroup; ++g)
      for (int64_t i = j; i < n; ++i)
        sum[r * kGroup + g] += x[r * x_stride + i] * static_cast<float>(w[g * stride + i]);
  }
}

MIX_AVX2 void widen_avx2(const int8_t* w, int64_t n, float scale, float* out) {
  int64_t j = 0;
  for (; j + 8 <= n; j += 8) _mm256_storeu_ps(out + j, _mm256_mul_ps(_mm256_set1_ps(scale), eight(w + j)));
  widen_portable(w + j, n - j, scale, out + j);
}

// 16 numbers, or those that the mask names and zeros.
MIX_AVX512 inline __m512 sixteen(const int8_t* w) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w))));
}
MIX_AVX512 inline __m512 sixteen(const int8_t* w, __mmask16 mask) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, w)));
}

template <int R>
MIX_AVX512 void dots_avx512(const float* x, int64_t x_stride, const int8_t* w, int64_t stride, int64_t n, float* sum) {
  __m512 sums[R][kGroup];
  for (int r = 0; r < R; ++r)
    for (int64_t g = 0; g < kGroup; ++g) sums[r][g] = _mm512_setzero_ps();
  int64_t j = 0;
  for (; j + 16 <= n; j += 16)
    for (int64_t g = 0; g < kGroup; ++g) {
      const __m512 b = sixteen(w + g * stride + j);
      ahead(w + g * stride + j);
      for (int r = 0; r < R; ++r) sums[r][g] = _mm512_fmadd_ps(_mm512_loadu_ps(x + r * x_stride + j), b, sums[r][g]);
    }
  if (j < n) {
    const __mmask16 mask = static_cast<__mmask16>((1u << (n - j)) - 1);
    for (int64_t g = 0; g < kGroup; ++g) {
      const __m512 b = sixteen(w + g * stride + j, mask);
      for (int r = 0; r < R; ++r)
        sums[r][g] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, x + r * x_stride + j), b, sums[r][g]);
    }
  }
  for (int r = 0; r < R; ++r) {
    // through memory: GCC 12 takes its own intrinsics for the halves of a vector as uninitialised
    float lanes[16];
    __m256 halves[kGroup];
    for (int64_t g = 0; g < kGroup; ++g) {
      _mm512_storeu_ps(lanes, sums[r][g]);
      halves[g] = _mm256_add_ps(_mm256_loadu_ps(lanes), _mm256_loadu_ps(lanes + 8));
    }
    add_totals(halves, sum + r * kGroup);
  }
}

MIX_AVX512 void widen_avx512(const int8_t* w, int64_t n, float scale, float* out) {
  const __m512 factor = _mm512_set1_ps(scale);
  int64_t j = 0;
  for (; j + 16 <= n; j += 16) _mm512_storeu_ps(out + j, _mm512_mul_ps(factor, sixteen(w + j)));
  widen_portable(w + j, n - j, scale, out + j);
}
#endif

// The functions of one instruction set; rows[R - 1] takes R rows of x.
struct Routines {
  using Dots = void (*)(const float*, int64_t, const int8_t*, int64_t, int64_t, float*);
  int64_t most_rows;
  Dots rows[4];
  void (*widen)(const int8_t*, int64_t, float, float*);
};

const Routines& routines() {
  static const Routines portable{1, {dots_portable<1>}, widen_portable};
#if defined(__x86_64__)
  static const Routines avx2{2, {dots_avx2<1>, dots_avx2<2>}, widen_avx2};
  static const Routines avx512{
      4, {dots_avx512<1>, dots_avx512<2>, dots_avx512<3>, dots_avx512<4>}, widen_avx512};
  if (active_isa() == Isa::kAvx512) return avx512;
  if (active_isa() == Isa::kAvx2) return avx2;
#endif
  return portable;
}

// `count` outputs from `first` on, kGroup or 1 of them. A single one is computed kGroup times over, on one row of W.
void some_outputs(const Int8Shape& shape, const Routines& use, const float* x, const int8_t* weight, const float* scale,
                  const float* bias, int64_t first, int64_t count, float* out) {
  const int64_t inputs = shape.inputs, stride = count == kGroup ? inputs : 0;
  for (int64_t r = 0; r < shape.rows; r += use.most_rows) {
    const int64_t rows = std::min(use.most_rows, shape.rows - r);
    float sums[4 * kGroup] = {};
    for (int64_t begin = 0; begin < inputs; begin += kChunk)
      use.rows[rows - 1](x + r * inputs + begin, inputs, weight + first * inputs + begin, stride,
                         std::min(kChunk, inputs - begin), sums);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t g = 0; g < count; ++g) {
        const float product = sums[i * kGroup + g] * scale[first + g];
        out[(r + i) * shape.outputs + first + g] = bias == nullptr ? product : product + bias[first + g];
      }
  }
}

void outputs_between(const Int8Shape& shape, const Routines& use, const float* x, const int8_t* weight,
                     const float* scale, const float* bias, int64_t begin, int64_t end, float* out) {
  int64_t o = begin;
  for (; o + kGroup <= end; o += kGroup) some_outputs(shape, use, x, weight, scale, bias, o, kGroup, out);
  for (; o < end; ++o) some_outputs(shape, use, x, weight, scale, bias, o, 1, out);
}

void few_rows(const Int8Shape& shape, const float* x, const int8_t* weight, const float* scale, const float* bias,
              float* out) {
  const int64_t groups = (shape.outputs + kGroup - 1) / kGroup;
  const Routines& use = routines();
#pragma omp parallel for schedule(static) if (shape.inputs * shape.outputs > kSerial)
  for (int64_t group = 0; group < groups; ++group)
    outputs_between(shape, use, x, weight, scale, bias, group * kGroup,
                    std::min(shape.outputs, (group + 1) * kGroup), out);
}

int64_t block_outputs(const Int8Shape& shape) {
  return std::min(shape.outputs, std::max(kLeastBlock, kBlock / std::max<int64_t>(1, shape.inputs)));
}

// Calls use(begin, count) for each block of W, when scratch holds it widened: `count` of its rows from `begin` on.
template <typename Use>
void each_block(const Int8Shape& shape, const int8_t* weight, const float* scale, float* scratch, Use use) {
  const int64_t inputs = shape.inputs, outputs = shape.outputs, most = block_outputs(shape);
  const Routines& routine = routines();
  for (int64_t begin = 0; begin < outputs; begin += most) {
    const int64_t count = std::min(most, outputs - begin);
#pragma omp parallel for schedule(static) if (count * inputs > kWorthThreads)
    for (int64_t o = 0; o < count; ++o)
      routine.widen(weight + (begin + o) * inputs, inputs, scale[begin + o], scratch + o * inputs);
    use(begin, count);
  }
}

void many_rows(const Int8Shape& shape, const float* x, const int8_t* weight, const float* scale, const float* bias,
               float* scratch, float* out) {
  const int64_t rows = shape.rows, inputs = shape.inputs, outputs = shape.outputs;
  if (bias != nullptr) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r) std::copy_n(bias, outputs, out + r * outputs);
  }
  each_block(shape, weight, scale, scratch, [&](int64_t begin, int64_t count) {
    gemm(false, true, rows, count, inputs, 1.0f, x, inputs, scratch, inputs, bias == nullptr ? 0.0f : 1.0f,
         out + begin, outputs, shape.products);
  });
}

}  // namespace

int64_t linear_int8_scratch(const Int8Shape& shape) {
  return shape.rows <= kFewInt8Rows ? 0 : block_outputs(shape) * shape.inputs;
}

void linear_int8(const Int8Shape& shape, const float* x, const int8_t* weight, const float* scale, const float* bias,
                 float* scratch, float* out) {
  if (shape.rows <= kFewInt8Rows) return few_rows(shape, x, weight, scale, bias, out);
  many_rows(shape, x, weight, scale, bias, scratch, out);
}

void linear_int8_outputs(const Int8Shape& shape, const float* x, const int8_t* weight, const float* scale,
                         int64_t begin, int64_t end, float* out) {
  outputs_between(shape, routines(), x, weight, scale, nullptr, begin, end, out);
}

int64_t linear_int8_backward_scratch(const Int8Shape& shape) { return block_outputs(shape) * shape.inputs; }

void linear_int8_backward(const Int8Shape& shape, const int8_t* weight, const float* scale, const float* d_out,
                          float* scratch, float* dx) {
  const int64_t rows = shape.rows, inputs = shape.inputs, outputs = shape.outputs;
  each_block(shape, weight, scale, scratch, [&](int64_t begin, int64_t count) {
    gemm(false, false, rows, inputs, count, 1.0f, d_out + begin, outputs, scratch, inputs, begin == 0 ? 0.0f : 1.0f, dx,
         inputs, backward_of(shape.products));
  });
}

}  // namespace mix
