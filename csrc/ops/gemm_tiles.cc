#include "ops/gemm_tiles.h"

#include "mix/vector.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 11
#define MIX_HAS_TILES 1
#endif

#ifdef MIX_HAS_TILES

#include <cpuid.h>
#include <omp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "ops/gemm_pack.h"

#define MIX_AMX __attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))

namespace mix {
namespace {

constexpr int64_t kBlock = 2 * kLanes;       // lanes of C that one call of the inner kernel makes, both ways
constexpr int64_t kDepthPanel = 1536;        // parts times depths, so that two blocks stay in the second-level cache
constexpr int64_t kRowPanel = 1536;
constexpr int64_t kColumnPanel = 8 * kBlock;  // what a thread packs of the right factor at once

// A and B packed, `tiles` deep: groups of 16 lanes lie tiles * PARTS tiles apart.
struct Blocks {
  const uint16_t* a;
  const uint16_t* b;
  int64_t tiles;
};

// Every thread that computes tiles says so first, and gives the unit's state back after.
MIX_AMX void configure_tiles() {
  struct alignas(64) Palette {
    uint8_t id, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } palette = {};
  palette.id = 1;
  for (int i = 0; i < 8; ++i) palette.row_bytes[i] = 64, palette.rows[i] = 16;
  // the intrinsic reads 64 bytes and tells the compiler of 8
  asm volatile("" ::"r"(&palette) : "memory");
  _tile_loadconfig(&palette);
}

MIX_AMX void release_tiles() { _tile_release(); }

#define MIX_LOAD_A(part)                               \
  _tile_loadd(4, a0 + (part) * kTileSize, 64);         \
  _tile_loadd(5, a1 + (part) * kTileSize, 64);
#define MIX_LOAD_B(part)                               \
  _tile_loadd(6, b0 + (part) * kTileSize, 64);         \
  _tile_loadd(7, b1 + (part) * kTileSize, 64);
#define MIX_MULTIPLY        \
  _tile_dpbf16ps(0, 4, 6);  \
  _tile_dpbf16ps(1, 4, 7);  \
  _tile_dpbf16ps(2, 5, 6);  \
  _tile_dpbf16ps(3, 5, 7);

MIX_BF16_INLINE void fetch(const uint16_t* tile) {
  for (int64_t line = 0; line < kLanes; ++line)
    _mm_prefetch(reinterpret_cast<const char*>(tile + line * kDepth), _MM_HINT_T0);
}

// out[32, 32] = the product of 32 lanes of A and 32 of B, or `add`ed to it; rows of `out` are `stride` floats apart.
template <int PARTS>
MIX_AMX void multiply_amx(const Blocks& blocks, bool add, float* out, int64_t stride) {
  constexpr int64_t kStep = PARTS * kTileSize;
  const uint16_t *a0 = blocks.a, *a1 = a0 + blocks.tiles * kStep;
  const uint16_t *b0 = blocks.b, *b1 = b0 + blocks.tiles * kStep;
  float* const below = out + kLanes * stride;
  if (add) {
    _tile_loadd(0, out, stride * 4);
    _tile_loadd(1, out + kLanes, stride * 4);
    _tile_loadd(2, below, stride * 4);
    _tile_loadd(3, below + kLanes, stride * 4);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t t = 0; t < blocks.tiles; ++t) {
    if (PARTS == 1) {
      MIX_LOAD_A(0) MIX_LOAD_B(0) fetch(a0 + 2 * kStep), fetch(a1 + 2 * kStep);
      MIX_MULTIPLY
    } else {  // small products first; parts are 0, 1, 2 from the largest on
      MIX_LOAD_A(0) MIX_LOAD_B(2) fetch(a0 + kStep);
      MIX_MULTIPLY MIX_LOAD_B(1) fetch(a1 + kStep);
      MIX_MULTIPLY MIX_LOAD_A(1) fetch(a0 + kStep + kTileSize);
      MIX_MULTIPLY MIX_LOAD_A(0) MIX_LOAD_B(0) fetch(a1 + kStep + kTileSize);
      MIX_MULTIPLY MIX_LOAD_A(1) fetch(a0 + kStep + 2 * kTileSize);
      MIX_MULTIPLY MIX_LOAD_A(2) fetch(a1 + kStep + 2 * kTileSize);
      MIX_MULTIPLY
    }
    a0 += kStep, a1 += kStep, b0 += kStep, b1 += kStep;
  }
  _tile_stored(0, out, stride * 4);
  _tile_stored(1, out + kLanes, stride * 4);
  _tile_stored(2, below, stride * 4);
  _tile_stored(3, below + kLanes, stride * 4);
}

// The same of one part without a tile unit: 8 rows by 32 columns at a time.
MIX_BF16 void multiply_dots(const Blocks& blocks, float* out) {
  const uint16_t *b0 = blocks.b, *b1 = b0 + blocks.tiles * kTileSize;
  for (int64_t row = 0; row < kBlock; row += 8) {
    const uint16_t* a = blocks.a + row / kLanes * blocks.tiles * kTileSize + row % kLanes * kDepth;
    __m512 sums[8][2] = {};
    for (int64_t pair = 0; pair < blocks.tiles * kLanes; ++pair) {
      const int64_t at = pair / kLanes * kTileSize + pair % kLanes * kDepth;
      const auto low = reinterpret_cast<__m512bh>(_mm512_load_si512(b0 + at));
      const auto high = reinterpret_cast<__m512bh>(_mm512_load_si512(b1 + at));
      for (int64_t r = 0; r < 8; ++r) {
        int32_t both;
        std::memcpy(&both, a + pair / kLanes * kTileSize + r * kDepth + pair % kLanes * 2, sizeof(both));
        const auto own = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
        sums[r][0] = _mm512_dpbf16_ps(sums[r][0], own, low);
        sums[r][1] = _mm512_dpbf16_ps(sums[r][1], own, high);
      }
    }
    for (int64_t r = 0; r < 8; ++r) {
      _mm512_store_ps(out + (row + r) * kBlock, sums[r][0]);
      _mm512_store_ps(out + (row + r) * kBlock + kLanes, sums[r][1]);
    }
  }
}

// c = alpha * sums + beta * c for the part of a block that exists.
MIX_BF16 void put(const float* sums, int64_t rows, int64_t columns, float alpha, float beta, float* c, int64_t ldc) {
  const __m512 factor = _mm512_set1_ps(alpha), keep = _mm512_set1_ps(beta);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < columns; j += 16) {
      const __mmask16 inside = first(columns - j);
      float* to = c + r * ldc + j;
      __m512 value = _mm512_mul_ps(factor, _mm512_load_ps(sums + r * kBlock + j));
      if (beta != 0.0f) value = _mm512_fmadd_ps(keep, _mm512_maskz_loadu_ps(inside, to), value);
      _mm512_mask_storeu_ps(to, inside, value);
    }
}

// Memory of this thread for packed numbers, kept: it is asked for at every product.
uint16_t* scratch(int slot, int64_t numbers) {
  struct Buffer {
    uint16_t* memory = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(memory); }
  };
  static thread_local Buffer buffers[2];
  Buffer& own = buffers[slot];
  if (own.size < numbers) {
    std::free(own.memory);
    constexpr size_t kPage = size_t{2} << 20;  // a large one, asked for below: tiles are read from many places
    const size_t bytes = (numbers * sizeof(uint16_t) + kPage - 1) / kPage * kPage;
    own.memory = static_cast<uint16_t*>(std::aligned_alloc(kPage, bytes));
    own.size = own.memory == nullptr ? 0 : numbers;
    if (own.memory == nullptr) throw std::bad_alloc();
    madvise(own.memory, bytes, MADV_HUGEPAGE);
  }
  return own.memory;
}

template <int PARTS>
void multiply_panels(const Factor& a, const Factor& b, int64_t m, int64_t n, int64_t k, float alpha, float beta,
                     float* c, int64_t ldc) {
  const bool amx = tile_unit() == TileUnit::kAmx;
  const int threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  int64_t columns = kColumnPanel;
  while (columns > kBlock && (n + columns - 1) / columns < 2 * threads) columns /= 2;
  const int64_t panels = (n + columns - 1) / columns;
  constexpr int64_t kDeep = kDepthPanel / PARTS;
  for (int64_t depth = 0; depth < k; depth += kDeep) {
    const int64_t deep = std::min(kDeep, k - depth), tiles = (deep + kDepth - 1) / kDepth;
    const int64_t group = tiles * PARTS * kTileSize;
    const float keep = depth == 0 ? beta : 1.0f;
    const bool plain = alpha == 1.0f && (keep == 0.0f || keep == 1.0f);  // tiles come from C and go to C
    for (int64_t top = 0; top < m; top += kRowPanel) {
      const int64_t rows = std::min(kRowPanel, m - top), blocks = (rows + kBlock - 1) / kBlock;
      uint16_t* left = scratch(0, blocks * 2 * group);
      std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
      {
        uint16_t* right = scratch(1, columns / kLanes * group);
        alignas(64) float sums[kBlock * kBlock];
#pragma omp for schedule(static)
        for (int64_t i = 0; i < blocks; ++i)
          pack<PARTS, false>(a, top + i * kBlock, std::min(kBlock, rows - i * kBlock), depth, deep, left + i * 2 * group);
        if (amx) configure_tiles();
        for (int64_t p = next.fetch_add(1); p < panels; p = next.fetch_add(1)) {
          const int64_t at = p * columns, wide = std::min(columns, n - at);
          pack<PARTS, true>(b, at, wide, depth, deep, right);
          for (int64_t i = 0; i < blocks; ++i)
            for (int64_t j = 0; j < wide; j += kBlock) {
              const Blocks pair{left + i * 2 * group, right + j / kLanes * group, tiles};
              const int64_t high = std::min(kBlock, rows - i * kBlock), broad = std::min(kBlock, wide - j);
              float* const to = c + (top + i * kBlock) * ldc + at + j;
              if (amx && plain && high == kBlock && broad == kBlock) {
                multiply_amx<PARTS>(pair, keep == 1.0f, to, ldc);
                continue;
              }
              if (amx)
                multiply_amx<PARTS>(pair, false, sums, kBlock);
              else
                multiply_dots(pair, sums);
              put(sums, high, broad, alpha, keep, to, ldc);
            }
        }
        if (amx) release_tiles();
      }
    }
  }
}

TileUnit detect_tile_unit() {
  if (active_isa() != Isa::kAvx512) return TileUnit::kNone;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0 || (eax >> 5 & 1) == 0) return TileUnit::kNone;
  const char* wanted = std::getenv("MIX_CPU_ISA");
  if (wanted != nullptr && std::strcmp(wanted, "amx") != 0) return TileUnit::kDotProduct;
  __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
  const bool has = (edx >> 22 & 1) != 0 && (edx >> 24 & 1) != 0;
  // Linux gives a process the unit's registers when it asks for them (Documentation/arch/x86/xstate.rst)
  constexpr long kRequest = 0x1023, kTileData = 18;
  return has && syscall(SYS_arch_prctl, kRequest, kTileData) == 0 ? TileUnit::kAmx : TileUnit::kDotProduct;
}

}  // namespace

TileUnit tile_unit() {
  static const TileUnit unit = detect_tile_unit();
  return unit;
}

void gemm_tiles(int parts, const Factor& a, const Factor& b, int64_t m, int64_t n, int64_t k, float alpha,
                float beta, float* c, int64_t ldc) {
  if (parts == 3)
    multiply_panels<3>(a, b, m, n, k, alpha, beta, c, ldc);
  else
    multiply_panels<1>(a, b, m, n, k, alpha, beta, c, ldc);
}

}  // namespace mix

#else

namespace mix {

TileUnit tile_unit() { return TileUnit::kNone; }

void gemm_tiles(int, const Factor&, const Factor&, int64_t, int64_t, int64_t, float, float, float*, int64_t) {}

}  // namespace mix

#endif
