#include "ops/winograd_basis.h"

#include <cstring>
#include <utility>

#include "mix/vector.h"
#include "ops/lanes.h"

namespace mix {
namespace {

constexpr int64_t kSpare = 16;                          // numbers that the last vector of a row may touch beyond it
constexpr int64_t kCopied = 2 * kSquares + 2 * kSpare;  // of the image under a row of squares, and beyond

template <int LANES>
struct Shuffle {
  using Vector = typename Lanes<LANES>::Vector;
  using Anywhere = typename Lanes<LANES>::Anywhere;
  typedef int32_t Mask __attribute__((vector_size(LANES * 4)));
  using All = std::make_integer_sequence<int, LANES>;

  // Vectors go by reference: by value, how they are passed would depend on the instruction set.
  static MIX_INLINE const Anywhere& at(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }
  static MIX_INLINE void store(const Vector& numbers, float* to) { *reinterpret_cast<Anywhere*>(to) = numbers; }

  // Every other number from `from` on.
  template <int... I>
  static MIX_INLINE void every_other(const float* from, Vector& to, std::integer_sequence<int, I...>) {
    const Vector low = at(from), high = at(from + LANES);
    to = __builtin_shuffle(low, high, Mask{(2 * I)...});
  }
  // Those of two vectors in turn, from number FIRST of each on.
  template <int FIRST, int... I>
  static MIX_INLINE void store_in_turn(const Vector& a, const Vector& b, float* to, std::integer_sequence<int, I...>) {
    store(__builtin_shuffle(a, b, Mask{(FIRST + I / 2 + I % 2 * LANES)...}), to);
  }
};

// Some planes of numbers, [count, height, width].
struct Planes {
  const float* numbers;
  int64_t count, height, width;
};

alignas(64) const float kZeros[kCopied] = {};

// The rows of planes under a row of squares, by every other column.
template <int LANES>
class Rows {
 public:
  using S = Shuffle<LANES>;
  using Vector = typename S::Vector;

  // Squares of `columns`, the first of which begins with column `first` of a plane.
  MIX_INLINE Rows(const Planes& planes, int64_t first, int64_t columns)
      : planes_(planes), first_(first), read_((columns + LANES - 1) / LANES * LANES * 2 + 3) {
    for (int64_t j = 0; j < 4; ++j)
      for (int64_t square = 0; square < kSquares; ++square) {
        const int64_t column = first + 2 * square + j;
        inside_[j][square] = column >= 0 && column < planes.width ? -1 : 0;
      }
  }

  MIX_INLINE void go_to(int64_t plane, int64_t y) {
    if (y < 0 || y >= planes_.height) {
      from_ = kZeros;
      return;
    }
    const int64_t begin = (plane * planes_.height + y) * planes_.width + first_;
    from_ = planes_.numbers + begin;
    // whole vectors are read, of the rows before and behind, too: where there are none, from a copy
    const int64_t there = planes_.count * planes_.height * planes_.width;
    if (begin >= 0 && begin + read_ <= there) return;
    for (int64_t i = 0; i < read_; ++i) copy_[i] = begin + i >= 0 && begin + i < there ? from_[i] : 0.0f;
    from_ = copy_;
  }

  // Column J of the squares from `square` on; zeros where the plane has none.
  template <int J>
  MIX_INLINE void column(int64_t square, Vector& to) const {
    using Mask = typename S::Mask;
    S::every_other(from_ + 2 * square + J, to, typename S::All());
    to = reinterpret_cast<Vector>(reinterpret_cast<Mask>(to) & *reinterpret_cast<const Mask*>(inside_[J] + square));
  }

 private:
  const Planes planes_;
  const int64_t first_, read_;
  const float* from_ = nullptr;
  alignas(64) int32_t inside_[4][kSquares];
  float copy_[kCopied];
};

// One vector of squares, of which the block has `room`. WHOLE: rows of squares are whole vectors.
template <int LANES, bool WHOLE>
MIX_INLINE void store(const typename Lanes<LANES>::Vector& numbers, int64_t room, float* to) {
  if (WHOLE || room >= LANES) return Shuffle<LANES>::store(numbers, to);
  float rest[LANES];
  Shuffle<LANES>::store(numbers, rest);
  std::memcpy(to, rest, room * sizeof(float));
}

MIX_INLINE void clear_behind(const Block& block, int64_t apart, float* to) {
  const int64_t squares = block.rows * block.columns;
  if (squares == kSquares) return;
  for (int64_t i = 0; i < kBasis; ++i) std::fill_n(to + i * apart + squares, kSquares - squares, 0.0f);
}

template <int LANES, bool WHOLE>
MIX_INLINE void image_rows(const SquareConv& s, const Block& block, const float* x, int64_t first, int64_t count,
                           const BasisRows& to) {
  using Vector = typename Lanes<LANES>::Vector;
  Rows<LANES> rows({x, s.batch * s.channels, s.from_height, s.from_width}, 2 * block.column - s.left, block.columns);
  alignas(64) float across[4][4][kSquares];  // row y of the image in across[y % 4]
  for (int64_t channel = first; channel < first + count; ++channel) {
    float* const own = to.first + (channel - first) * to.stride;
    for (int64_t y = 0; y < 2 * block.rows + 2; ++y) {
      rows.go_to(block.image * s.channels + channel, 2 * block.row - s.top + y);
      for (int64_t square = 0; square < block.columns; square += LANES) {
        Vector a, b, c, d;
        rows.template column<0>(square, a);
        rows.template column<1>(square, b);
        rows.template column<2>(square, c);
        rows.template column<3>(square, d);
        Shuffle<LANES>::store(a - c, across[y % 4][0] + square);
        Shuffle<LANES>::store(b + c, across[y % 4][1] + square);
        Shuffle<LANES>::store(c - b, across[y % 4][2] + square);
        Shuffle<LANES>::store(b - d, across[y % 4][3] + square);
      }
      if (y < 3 || y % 2 == 0) continue;
      for (int64_t square = 0; square < block.columns; square += LANES) {
        const int64_t at = (y - 3) / 2 * block.columns + square;
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const Vector a = Shuffle<LANES>::at(across[(y + 1) % 4][j] + square);
          const Vector b = Shuffle<LANES>::at(across[(y + 2) % 4][j] + square);
          const Vector c = Shuffle<LANES>::at(across[(y + 3) % 4][j] + square);
          const Vector d = Shuffle<LANES>::at(across[y % 4][j] + square);
          float* const put = own + j * to.apart + at;
          store<LANES, WHOLE>(a - c, kSquares - at, put);
          store<LANES, WHOLE>(b + c, kSquares - at, put + 4 * to.apart);
          store<LANES, WHOLE>(c - b, kSquares - at, put + 8 * to.apart);
          store<LANES, WHOLE>(b - d, kSquares - at, put + 12 * to.apart);
        }
      }
    }
    clear_behind(block, to.apart, own);
  }
}

template <int LANES>
MIX_INLINE void image_body(const SquareConv& s, const Block& block, const float* x, int64_t first, int64_t count,
                           const BasisRows& to) {
  constexpr int kHalf = LANES == 16 ? 8 : LANES;
  if (block.columns % LANES == 0)
    image_rows<LANES, true>(s, block, x, first, count, to);
  else if (block.columns % kHalf == 0)
    image_rows<kHalf, true>(s, block, x, first, count, to);
  else
    image_rows<LANES, false>(s, block, x, first, count, to);
}
MIX_KERNEL_OF_LANES(void, image,
                    (const SquareConv& s, const Block& block, const float* x, int64_t first, int64_t count,
                     const BasisRows& to),
                    (s, block, x, first, count, to))

template <int LANES, bool WHOLE>
MIX_INLINE void gradient_rows(const SquareConv& s, const Block& block, const float* d_out, int64_t first,
                              int64_t count, const BasisRows& to) {
  using Vector = typename Lanes<LANES>::Vector;
  const Planes planes{d_out, s.batch * s.outputs, s.height, s.width};
  Rows<LANES> upper(planes, 2 * block.column, block.columns), lower(planes, 2 * block.column, block.columns);
  for (int64_t output = first; output < first + count; ++output) {
    float* const own = to.first + (output - first) * to.stride;
    for (int64_t i = 0; i < block.rows; ++i) {
      upper.go_to(block.image * s.outputs + output, 2 * (block.row + i));
      lower.go_to(block.image * s.outputs + output, 2 * (block.row + i) + 1);
      for (int64_t square = 0; square < block.columns; square += LANES) {
        Vector a, b, c, d;
        upper.template column<0>(square, a);
        upper.template column<1>(square, b);
        lower.template column<0>(square, c);
        lower.template column<1>(square, d);
        const Vector above[4] = {a, a + b, a - b, -b}, below[4] = {c, c + d, c - d, -d};
        const int64_t at = i * block.columns + square;
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          float* const put = own + j * to.apart + at;
          store<LANES, WHOLE>(above[j], kSquares - at, put);
          store<LANES, WHOLE>(above[j] + below[j], kSquares - at, put + 4 * to.apart);
          store<LANES, WHOLE>(above[j] - below[j], kSquares - at, put + 8 * to.apart);
          store<LANES, WHOLE>(-below[j], kSquares - at, put + 12 * to.apart);
        }
      }
    }
    clear_behind(block, to.apart, own);
  }
}

template <int LANES>
MIX_INLINE void gradient_body(const SquareConv& s, const Block& block, const float* d_out, int64_t first,
                              int64_t count, const BasisRows& to) {
  constexpr int kHalf = LANES == 16 ? 8 : LANES;
  if (block.columns % LANES == 0)
    gradient_rows<LANES, true>(s, block, d_out, first, count, to);
  else if (block.columns % kHalf == 0)
    gradient_rows<kHalf, true>(s, block, d_out, first, count, to);
  else
    gradient_rows<LANES, false>(s, block, d_out, first, count, to);
}
MIX_KERNEL_OF_LANES(void, gradient,
                    (const SquareConv& s, const Block& block, const float* d_out, int64_t first, int64_t count,
                     const BasisRows& to),
                    (s, block, d_out, first, count, to))

template <int LANES>
MIX_INLINE void result_body(const SquareConv& s, const Block& block, const float* from, int64_t apart, float bias,
                            float* out) {
  using S = Shuffle<LANES>;
  using Vector = typename S::Vector;
  alignas(64) float parted[2][2][kSquares + kSpare];  // [row in a square][column in it]
  for (int64_t square = 0; square < block.rows * block.columns; square += LANES) {
    Vector sums[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float* const at = from + j * apart + square;
      const Vector a = S::at(at), b = S::at(at + 4 * apart), c = S::at(at + 8 * apart);
      sums[0][j] = a + b + c;
      sums[1][j] = b - c - S::at(at + 12 * apart);
    }
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
      S::store(sums[r][0] + sums[r][1] + sums[r][2] + bias, parted[r][0] + square);
      S::store(sums[r][1] - sums[r][2] - sums[r][3] + bias, parted[r][1] + square);
    }
  }
  for (int64_t y = 0; y < std::min(2 * block.rows, s.height - 2 * block.row); ++y) {
    const int64_t first = y / 2 * block.columns, column = 2 * block.column;
    float row[kCopied];
    for (int64_t square = 0; square < block.columns; square += LANES) {
      const Vector even = S::at(parted[y % 2][0] + first + square);
      const Vector odd = S::at(parted[y % 2][1] + first + square);
      S::template store_in_turn<0>(even, odd, row + 2 * square, typename S::All());
      S::template store_in_turn<LANES / 2>(even, odd, row + 2 * square + LANES, typename S::All());
    }
    std::memcpy(out + (2 * block.row + y) * s.width + column, row,
                std::min(2 * block.columns, s.width - column) * sizeof(float));
  }
}
MIX_KERNEL_OF_LANES(void, result,
                    (const SquareConv& s, const Block& block, const float* from, int64_t apart, float bias, float* out),
                    (s, block, from, apart, bias, out))

}  // namespace

void image_to_basis(const SquareConv& s, const Block& block, const float* x, int64_t first, int64_t count,
                    const BasisRows& to) {
  image(s, block, x, first, count, to);
}

void gradient_to_basis(const SquareConv& s, const Block& block, const float* d_out, int64_t first, int64_t count,
                       const BasisRows& to) {
  gradient(s, block, d_out, first, count, to);
}

void basis_to_result(const SquareConv& s, const Block& block, const float* from, int64_t apart, float bias,
                     float* out) {
  result(s, block, from, apart, bias, out);
}

}  // namespace mix
