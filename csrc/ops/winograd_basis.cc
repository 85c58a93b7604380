#include "ops/winograd_basis.h"

#include <cstring>

#include "mix/vector.h"
#include "ops/lanes.h"

namespace mix {
namespace {

// A row of the image or of the result under a row of squares: its even and its odd columns.
struct Row {
  float even[kSquares + 17], odd[kSquares + 17];  // the last vector reads too far
};

// `pairs` of columns from column `first` on of row `y`.
MIX_INLINE void part_row(const float* x, int64_t height, int64_t width, int64_t y, int64_t first, int64_t pairs,
                         Row& row) {
  if (y < 0 || y >= height) {
    std::memset(&row, 0, sizeof(row));
    return;
  }
  x += y * width;
  const int64_t begin = std::min(std::max<int64_t>(0, (1 - first) / 2), pairs);
  const int64_t end = std::max(begin, std::min(pairs, (width - first) / 2));
  const auto edge = [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t at = first + 2 * i;
      row.even[i] = at >= 0 && at < width ? x[at] : 0.0f;
      row.odd[i] = at + 1 >= 0 && at + 1 < width ? x[at + 1] : 0.0f;
    }
  };
  edge(0, begin);
  for (int64_t i = begin; i < end; ++i) {
    row.even[i] = x[first + 2 * i];
    row.odd[i] = x[first + 2 * i + 1];
  }
  edge(end, pairs);
}

// Four rows of the basis from as many vectors; one vector may be wider than what is left of the block.
template <int LANES>
MIX_INLINE void store(const typename Lanes<LANES>::Vector* numbers, int64_t room, int64_t apart, float* to) {
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r, to += 4 * apart) {
    if (room >= LANES)
      *reinterpret_cast<typename Lanes<LANES>::Anywhere*>(to) = numbers[r];
    else
      std::memcpy(to, &numbers[r], room * sizeof(float));
  }
}

MIX_INLINE void clear_behind(const Block& block, int64_t apart, float* to) {
  const int64_t squares = block.rows * block.columns;
  if (squares == kSquares) return;
  for (int64_t i = 0; i < kBasis; ++i) std::fill_n(to + i * apart + squares, kSquares - squares, 0.0f);
}

template <int LANES>
MIX_INLINE void image_body(const SquareConv& s, const Block& block, const float* x, int64_t apart, float* to) {
  using Vector = typename Lanes<LANES>::Vector;
  using Anywhere = typename Lanes<LANES>::Anywhere;
  Row rows[4] = {};
  for (int64_t i = 0; i < block.rows; ++i) {
    for (int r = 0; r < 4; ++r)
      part_row(x, s.from_height, s.from_width, 2 * (block.row + i) - s.top + r, 2 * block.column - s.left,
               block.columns + 1, rows[r]);
    for (int64_t first = 0; first < block.columns; first += LANES) {
      Vector across[4][4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const Vector a = *reinterpret_cast<const Anywhere*>(rows[r].even + first);
        const Vector b = *reinterpret_cast<const Anywhere*>(rows[r].odd + first);
        const Vector c = *reinterpret_cast<const Anywhere*>(rows[r].even + first + 1);
        const Vector d = *reinterpret_cast<const Anywhere*>(rows[r].odd + first + 1);
        across[r][0] = a - c;
        across[r][1] = b + c;
        across[r][2] = c - b;
        across[r][3] = b - d;
      }
      const int64_t at = i * block.columns + first;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const Vector down[4] = {across[0][j] - across[2][j], across[1][j] + across[2][j],
                                across[2][j] - across[1][j], across[1][j] - across[3][j]};
        store<LANES>(down, kSquares - at, apart, to + j * apart + at);
      }
    }
  }
  clear_behind(block, apart, to);
}
MIX_KERNEL_OF_LANES(void, image, (const SquareConv& s, const Block& block, const float* x, int64_t apart, float* to),
                    (s, block, x, apart, to))

template <int LANES>
MIX_INLINE void gradient_body(const SquareConv& s, const Block& block, const float* d_out, int64_t apart, float* to) {
  using Vector = typename Lanes<LANES>::Vector;
  using Anywhere = typename Lanes<LANES>::Anywhere;
  Row rows[2] = {};
  for (int64_t i = 0; i < block.rows; ++i) {
    for (int r = 0; r < 2; ++r)
      part_row(d_out, s.height, s.width, 2 * (block.row + i) + r, 2 * block.column, block.columns, rows[r]);
    for (int64_t first = 0; first < block.columns; first += LANES) {
      Vector across[2][4];
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r) {
        const Vector a = *reinterpret_cast<const Anywhere*>(rows[r].even + first);
        const Vector b = *reinterpret_cast<const Anywhere*>(rows[r].odd + first);
        across[r][0] = a;
        across[r][1] = a + b;
        across[r][2] = a - b;
        across[r][3] = -b;
      }
      const int64_t at = i * block.columns + first;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const Vector down[4] = {across[0][j], across[0][j] + across[1][j], across[0][j] - across[1][j], -across[1][j]};
        store<LANES>(down, kSquares - at, apart, to + j * apart + at);
      }
    }
  }
  clear_behind(block, apart, to);
}
MIX_KERNEL_OF_LANES(void, gradient,
                    (const SquareConv& s, const Block& block, const float* d_out, int64_t apart, float* to),
                    (s, block, d_out, apart, to))

template <int LANES>
MIX_INLINE void result_body(const SquareConv& s, const Block& block, const float* from, int64_t apart, float bias,
                            float* out) {
  using Vector = typename Lanes<LANES>::Vector;
  using Anywhere = typename Lanes<LANES>::Anywhere;
  for (int64_t i = 0; i < block.rows; ++i, from += block.columns)
    for (int64_t first = 0; first < block.columns; first += LANES) {
      Vector sums[2][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float* const at = from + j * apart + first;
        const Vector a = *reinterpret_cast<const Anywhere*>(at), b = *reinterpret_cast<const Anywhere*>(at + 4 * apart);
        const Vector c = *reinterpret_cast<const Anywhere*>(at + 8 * apart);
        const Vector d = *reinterpret_cast<const Anywhere*>(at + 12 * apart);
        sums[0][j] = a + b + c;
        sums[1][j] = b - c - d;
      }
      const int64_t y = 2 * (block.row + i), column = 2 * (block.column + first);
      const int64_t count = std::min<int64_t>(2 * std::min<int64_t>(LANES, block.columns - first), s.width - column);
      for (int64_t r = 0; r < std::min<int64_t>(2, s.height - y); ++r) {
        const Vector even = sums[r][0] + sums[r][1] + sums[r][2] + bias;
        const Vector odd = sums[r][1] - sums[r][2] - sums[r][3] + bias;
        float both[2 * LANES];
#pragma GCC unroll 16
        for (int l = 0; l < LANES; ++l) {
          both[2 * l] = even[l];
          both[2 * l + 1] = odd[l];
        }
        float* const to = out + (y + r) * s.width + column;
        if (count == 2 * LANES)
          std::memcpy(to, both, sizeof(both));
        else
          std::memcpy(to, both, count * sizeof(float));
      }
    }
}
MIX_KERNEL_OF_LANES(void, result,
                    (const SquareConv& s, const Block& block, const float* from, int64_t apart, float bias, float* out),
                    (s, block, from, apart, bias, out))

}  // namespace

void image_to_basis(const SquareConv& s, const Block& block, const float* x, int64_t apart, float* to) {
  image(s, block, x, apart, to);
}

void gradient_to_basis(const SquareConv& s, const Block& block, const float* d_out, int64_t apart, float* to) {
  gradient(s, block, d_out, apart, to);
}

void basis_to_result(const SquareConv& s, const Block& block, const float* from, int64_t apart, float bias,
                     float* out) {
  result(s, block, from, apart, bias, out);
}

}  // namespace mix
