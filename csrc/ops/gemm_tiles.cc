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

#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "ops/gemm_pack.h"
#include "ops/patches.h"

#define MIX_AMX __attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))

namespace mix {
namespace {

constexpr int64_t kBlock = 2 * kLanes;        // lanes of C that one call of the inner kernel makes, both ways
constexpr int64_t kDepthPanel = 1536;         // parts times depths
constexpr int64_t kRowPanel = 1536;           // rows that a thread packs at once,
constexpr int64_t kColumnPanel = 8 * kBlock;  // and columns, which stay in its second-level cache

// A and B packed, of which `tiles` are multiplied: groups of 16 lanes lie a_group and b_group numbers apart.
struct Blocks {
  const uint16_t* a;
  const uint16_t* b;
  int64_t tiles, a_group, b_group;
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

// out[32, 32] = the product of 32 lanes of A and 32 of B; rows of `out` are `stride` floats apart. Sums begin with
// `start`, whose rows are `start_stride` floats apart (0: all rows are one), or with 0 where it is null.
template <int PARTS>
MIX_AMX void multiply_amx(const Blocks& blocks, const float* start, int64_t start_stride, float* out,
                          int64_t stride) {
  constexpr int64_t kStep = PARTS * kTileSize;
  const uint16_t *a0 = blocks.a, *a1 = a0 + blocks.a_group;
  const uint16_t *b0 = blocks.b, *b1 = b0 + blocks.b_group;
  float* const below = out + kLanes * stride;
  if (start != nullptr) {
    const float* const next = start + kLanes * start_stride;
    _tile_loadd(0, start, start_stride * 4);
    _tile_loadd(1, start + kLanes, start_stride * 4);
    _tile_loadd(2, next, start_stride * 4);
    _tile_loadd(3, next + kLanes, start_stride * 4);
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
    } else if (PARTS == 2) {
      MIX_LOAD_A(1) MIX_LOAD_B(0) fetch(a0 + kStep);
      MIX_MULTIPLY MIX_LOAD_A(0) fetch(a1 + kStep);
      MIX_MULTIPLY MIX_LOAD_B(1) fetch(a0 + kStep + kTileSize), fetch(a1 + kStep + kTileSize);
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
  const uint16_t *b0 = blocks.b, *b1 = b0 + blocks.b_group;
  for (int64_t row = 0; row < kBlock; row += 8) {
    const uint16_t* a = blocks.a + row / kLanes * blocks.a_group + row % kLanes * kDepth;
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

// c = alpha * sums + bias + beta * c for the part of a block that exists.
MIX_BF16 void put(const float* sums, int64_t rows, int64_t columns, float alpha, const float* bias, float beta,
                  float* c, int64_t ldc) {
  const __m512 factor = _mm512_set1_ps(alpha), keep = _mm512_set1_ps(beta);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < columns; j += 16) {
      const __mmask16 inside = first(columns - j);
      float* to = c + r * ldc + j;
      __m512 value = _mm512_mul_ps(factor, _mm512_load_ps(sums + r * kBlock + j));
      if (bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(inside, bias + j));
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
  static thread_local Buffer buffers[3];
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

int64_t whole_blocks(int64_t lanes) { return (lanes + kBlock - 1) / kBlock * kBlock; }

// Lanes of C that a thread makes; whole blocks, so that a number is summed the same way for any number of threads.
struct Share {
  int64_t begin, end;
};

Share share_of(int64_t lanes, int64_t index, int64_t of) {
  const int64_t blocks = whole_blocks(lanes) / kBlock;
  return {blocks * index / of * kBlock, std::min(lanes, blocks * (index + 1) / of * kBlock)};
}

// How many ways threads share the rows of C, and how many its columns. Each packs what it multiplies, because numbers
// that another core has just written take longer to fetch than to pack again: the grid that packs least.
struct Grid {
  int64_t rows, columns;
};

Grid grid_of(int64_t m, int64_t n, int64_t threads) {
  Grid best{1, threads};
  for (int64_t rows = 2; rows <= threads; ++rows) {
    const int64_t columns = threads / rows;
    if (rows * columns != threads || rows * kBlock > whole_blocks(m)) continue;
    if (m * columns + n * rows < m * best.columns + n * best.rows) best = {rows, columns};
  }
  return best;
}

// What becomes of the products of two packed factors.
struct Target {
  float* c;
  int64_t ldc;
  const float* bias;  // of the first column on; or null
  float alpha, keep;  // C = alpha * A B + bias + keep * C
};

// `first` is the pair of the first lanes; rows and columns of C from the target's first on.
template <int PARTS>
void multiply_blocks(const Blocks& first, int64_t rows, int64_t columns, const Target& target) {
  const bool amx = tile_unit() == TileUnit::kAmx;
  // tiles come from C or the bias, and go to C
  const bool plain = amx && target.alpha == 1.0f && (target.keep == 0.0f || (target.keep == 1.0f && !target.bias));
  alignas(64) float sums[kBlock * kBlock];
  for (int64_t i = 0; i < rows; i += kBlock)
    for (int64_t j = 0; j < columns; j += kBlock) {
      Blocks pair = first;
      pair.a += i / kLanes * first.a_group, pair.b += j / kLanes * first.b_group;
      const int64_t high = std::min(kBlock, rows - i), broad = std::min(kBlock, columns - j);
      float* const to = target.c + i * target.ldc + j;
      const float* const bias = target.bias == nullptr ? nullptr : target.bias + j;
      if (plain && high == kBlock && broad == kBlock) {
        const float* const start = bias != nullptr ? bias : target.keep == 1.0f ? to : nullptr;
        multiply_amx<PARTS>(pair, start, bias != nullptr ? 0 : target.ldc, to, target.ldc);
        continue;
      }
      if (amx)
        multiply_amx<PARTS>(pair, nullptr, 0, sums, kBlock);
      else
        multiply_dots(pair, sums);
      put(sums, high, broad, target.alpha, bias, target.keep, to, target.ldc);
    }
}

// Packs columns of a right factor; patches are written a few columns at a time, which stay in the caches until then.
template <int PARTS>
void pack_columns(const Right& from, int64_t at, int64_t columns, int64_t depth, int64_t deep, uint16_t* to) {
  if (from.patches == nullptr) return pack<PARTS, true>(from.b, at, columns, depth, deep, to);
  constexpr int64_t kWritten = 2 * kBlock;
  auto* const written = reinterpret_cast<float*>(scratch(2, 2 * kWritten * deep));
  const int64_t group = (deep + kDepth - 1) / kDepth * PARTS * kTileSize;
  for (int64_t column = 0; column < columns; column += kWritten) {
    const int64_t count = std::min(kWritten, columns - column);
    if (from.by_tap)
      from.patches->write(at + column, count, depth, deep, written);
    else
      from.patches->write(depth, deep, at + column, count, written);
    const Factor block{written, from.by_tap ? deep : count, from.by_tap};
    pack<PARTS, true>(block, 0, count, 0, deep, to + column / kLanes * group);
  }
}

// The product of packed rows of A, from row `top` on, and the columns of `share`, which count through all of `rights`
// in whole blocks.
template <int PARTS>
void multiply_share(const Packed& left, int64_t top, int64_t rows, const Right* rights, const Share& share,
                    int64_t depth, int64_t deep, float alpha, float beta) {
  const int64_t group = left.tiles * PARTS * kTileSize;
  int64_t first = 0;
  for (const Right* one = rights; first < share.end; first += whole_blocks(one->columns), ++one) {
    const int64_t end = std::min(one->columns, share.end - first);
    for (int64_t at = std::max<int64_t>(0, share.begin - first); at < end; at += kColumnPanel) {
      const int64_t columns = std::min(kColumnPanel, end - at);
      uint16_t* right = scratch(1, groups_of(columns) * group);
      pack_columns<PARTS>(*one, at, columns, depth, deep, right);
      const float* const bias = depth == 0 && one->bias != nullptr ? one->bias + at : nullptr;
      multiply_blocks<PARTS>({left.numbers, right, left.tiles, group, group}, rows, columns,
                             {one->c + top * one->ldc + at, one->ldc, bias, alpha, depth == 0 ? beta : 1.0f});
    }
  }
}

template <int PARTS>
void multiply_shares(const Factor& a, const Right* rights, int64_t count, int64_t m, int64_t k, float alpha,
                     float beta) {
  int64_t n = 0;
  for (int64_t r = 0; r < count; ++r) n += whole_blocks(rights[r].columns);
  constexpr int64_t kDeep = kDepthPanel / PARTS / kDepth * kDepth;
#pragma omp parallel num_threads(omp_in_parallel() ? 1 : omp_get_max_threads())
  {
    const Grid grid = grid_of(m, n, omp_get_num_threads());
    const int64_t thread = omp_get_thread_num();
    const Share own = share_of(m, thread / grid.columns, grid.rows);
    const Share columns = share_of(n, thread % grid.columns, grid.columns);
    const TileThread configured;
    for (int64_t depth = 0; depth < k; depth += kDeep) {
      const int64_t deep = std::min(kDeep, k - depth), tiles = (deep + kDepth - 1) / kDepth;
      for (int64_t top = own.begin; top < own.end; top += kRowPanel) {
        const int64_t rows = std::min(kRowPanel, own.end - top);
        uint16_t* left = scratch(0, groups_of(rows) * tiles * PARTS * kTileSize);
        pack<PARTS, false>(a, top, rows, depth, deep, left);
        multiply_share<PARTS>({left, tiles}, top, rows, rights, columns, depth, deep, alpha, beta);
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

// Calls `make` with the number of parts as a constant.
template <typename Make>
auto with_parts(int parts, Make make) {
  switch (parts) {
    case 3: return make(std::integral_constant<int, 3>());
    case 2: return make(std::integral_constant<int, 2>());
    default: return make(std::integral_constant<int, 1>());
  }
}

int64_t packed_numbers(int parts, int64_t lanes, int64_t depths) {
  return groups_of(lanes) * ((depths + kDepth - 1) / kDepth) * parts * kTileSize;
}

Packed pack_left(int parts, const Factor& from, int64_t lanes, int64_t depths, uint16_t* to) {
  const int64_t tiles = (depths + kDepth - 1) / kDepth;
  with_parts(parts, [&](auto count) { pack<count, false>(from, 0, lanes, 0, depths, to); });
  return {to, tiles};
}

Packed pack_right(int parts, const Factor& from, int64_t lanes, int64_t depths, uint16_t* to) {
  const int64_t tiles = (depths + kDepth - 1) / kDepth;
  with_parts(parts, [&](auto count) { pack<count, true>(from, 0, lanes, 0, depths, to); });
  return {to, tiles};
}

Packed from_lane(int parts, const Packed& factor, int64_t lane) {
  return {factor.numbers + lane / kLanes * factor.tiles * parts * kTileSize, factor.tiles};
}

TileThread::TileThread() {
  if (tile_unit() == TileUnit::kAmx) configure_tiles();
}

TileThread::~TileThread() {
  if (tile_unit() == TileUnit::kAmx) release_tiles();
}

void multiply_packed(int parts, const Packed& a, const Packed& b, int64_t rows, int64_t columns, int64_t begin,
                     int64_t end, float alpha, bool add, float* c, int64_t ldc) {
  const int64_t tile = parts * kTileSize;
  const Blocks first{a.numbers, b.numbers + begin * tile, end - begin, a.tiles * tile, b.tiles * tile};
  const Target target{c, ldc, nullptr, alpha, add ? 1.0f : 0.0f};
  with_parts(parts, [&](auto count) { multiply_blocks<count>(first, rows, columns, target); });
}

void gemm_tiles(int parts, const Factor& a, const Right* rights, int64_t count_of, int64_t m, int64_t k, float alpha,
                float beta) {
  with_parts(parts, [&](auto count) { multiply_shares<count>(a, rights, count_of, m, k, alpha, beta); });
}

}  // namespace mix

#else

namespace mix {

TileUnit tile_unit() { return TileUnit::kNone; }

// Nobody asks for these without a tile_unit.
void gemm_tiles(int, const Factor&, const Right*, int64_t, int64_t, int64_t, float, float) {}
int64_t packed_numbers(int, int64_t, int64_t) { return 0; }
Packed pack_left(int, const Factor&, int64_t, int64_t, uint16_t* to) { return {to, 0}; }
Packed pack_right(int, const Factor&, int64_t, int64_t, uint16_t* to) { return {to, 0}; }
Packed from_lane(int, const Packed& factor, int64_t) { return factor; }
TileThread::TileThread() {}
TileThread::~TileThread() {}
void multiply_packed(int, const Packed&, const Packed&, int64_t, int64_t, int64_t, int64_t, float, bool, float*,
                     int64_t) {}


}  // namespace mix

#endif
