// The output head and its cross entropy in one, in blocks of rows, so that the logits of all rows never exist.
//
//   z = h W^T,  loss = sum_r (logsumexp(z_r) - z_r[label_r]),  dz = softmax(z) - onehot(label),
//   dh = dz W,  dW = dz^T h
//
// The gradients are made while a block's exponentials are at hand, for an upstream gradient of 1.
#pragma once

#include <cstdint>

#include "mix/gemm.h"

namespace mix {

struct HeadLoss {
  const float* hidden;    // [T, D]
  const float* weight;    // [V, D]
  const int64_t* rows;    // [R] the rows of `hidden` that have a label, each once
  const int64_t* labels;  // [R] their labels, in [0, V)
  int64_t count, dim, vocab;  // R, D, V
  Products products;
};

// Numbers of scratch that `head_loss` takes: one block.
int64_t head_loss_scratch(const HeadLoss& loss);

// The sum of the losses. Where they are given: d_hidden [T, D], of which only the rows named are written, and
// d_weight [V, D], written whole.
double head_loss(const HeadLoss& loss, float* scratch, float* d_hidden, float* d_weight);

}  // namespace mix
