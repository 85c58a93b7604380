// The way to the basis in which a convolution with a 3 x 3 kernel is products of matrices, and back: F(2x2, 3x3) of
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.1.
//
// A square is 2 x 2 numbers of the result, and the 4 x 4 of the image that they depend on. What lies beyond the image or
// the result counts as zero. A block's matrices are [channels or outputs, kSquares], 16 of them, `apart` numbers from
// one to the next; squares that a block lacks have zeros.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mix {

constexpr int64_t kBasis = 16;    // numbers of a square in the basis
constexpr int64_t kSquares = 64;  // of a block
constexpr int64_t kBasisTogether = 16;  // channels or outputs that are worth to be one task on the way there

// x [batch, channels, from_height, from_width] with `top` rows and `left` columns of zeros before it, and as many
// behind it as the result [batch, outputs, height, width] needs.
struct SquareConv {
  int64_t batch, channels, outputs, height, width;
  int64_t from_height, from_width, top, left;
};

// Squares of one image: whole rows of them, or a part of one row.
struct Block {
  int64_t image, row, column;  // the first square
  int64_t rows, columns;       // of squares
};

struct Blocks {
  int64_t of_image, across;       // how many, and side by side
  int64_t rows, columns;          // squares of a whole one
  int64_t all_rows, all_columns;  // squares of an image

  explicit Blocks(const SquareConv& s) {
    all_rows = (s.height + 1) / 2;
    all_columns = (s.width + 1) / 2;
    columns = std::min(all_columns, kSquares);
    rows = kSquares / columns;
    across = (all_columns + columns - 1) / columns;
    of_image = across * ((all_rows + rows - 1) / rows);
  }

  Block at(int64_t i) const {
    const int64_t row = i % of_image / across * rows, column = i % across * columns;
    return {i / of_image, row, column, std::min(rows, all_rows - row), std::min(columns, all_columns - column)};
  }
};

// Rows of a block's matrices, `stride` numbers from one to the next, and `apart` to the same row of the next matrix.
struct BasisRows {
  float* first;
  int64_t stride, apart;
};

// The rows of `count` channels of x from `first` on.
void image_to_basis(const SquareConv& shape, const Block& block, const float* x, int64_t first, int64_t count,
                    const BasisRows& to);

// The rows of outputs of the result's gradient; the transpose of the way back.
void gradient_to_basis(const SquareConv& shape, const Block& block, const float* d_out, int64_t first, int64_t count,
                       const BasisRows& to);

// The block's part of a plane of the result, plus `bias`, from one output's row in the first matrix. Reads up to 16
// numbers past a row.
void basis_to_result(const SquareConv& shape, const Block& block, const float* from, int64_t apart, float bias,
                     float* out);

}  // namespace mix
