// What every Paddle binding in this folder shares.
#pragma once

#include "paddle/extension.h"

namespace mix {

// The tensor with its last axis fastest and no gaps: kernels index plain pointers.
inline paddle::Tensor dense(const paddle::Tensor& tensor) {
  PD_CHECK(tensor.dtype() == paddle::DataType::FLOAT32, "CPU kernels take float32 tensors");
  return tensor.is_contiguous() ? tensor : tensor.contiguous();
}

}  // namespace mix
