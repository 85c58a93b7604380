// What every Paddle binding in this folder shares.
#pragma once

#include <cstdint>
#include <vector>

#include "mix/gemm.h"
#include "paddle/extension.h"

namespace mix {

// Memory of a simulated device, which the host may not touch where Paddle sees it: its range, the distance to
// where the host does see it, and a function that waits for what a device's own stream has queued. Empty on a real
// CPU.
struct HostView {
  uintptr_t start = 0;
  size_t size = 0;
  intptr_t distance = 0;
  void (*wait)(int device) = nullptr;
};

inline HostView& host_view() {
  static HostView view;
  return view;
}

template <typename T>
T* seen(T* pointer) {
  const auto& view = host_view();
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address - view.start < view.size ? reinterpret_cast<T*>(address + view.distance) : pointer;
}

// Where a kernel finds a tensor's numbers.
template <typename T>
const T* data(const paddle::Tensor& tensor) {
  return seen(tensor.data<T>());
}
template <typename T>
T* data(paddle::Tensor& tensor) {
  return seen(tensor.data<T>());
}

// The tensor with its last axis fastest and no gaps: kernels index plain pointers.
inline paddle::Tensor in_order(const paddle::Tensor& tensor) {
  if (host_view().wait != nullptr) host_view().wait(tensor.place().GetDeviceId());
  return tensor.is_contiguous() ? tensor : tensor.contiguous();
}

// The same of float32, which is what all but the 8-bit weights are.
inline paddle::Tensor dense(const paddle::Tensor& tensor) {
  PD_CHECK(tensor.dtype() == paddle::DataType::FLOAT32, "CPU kernels take float32 tensors");
  return in_order(tensor);
}

// A new tensor of the same shape, dtype and place.
inline paddle::Tensor like(const paddle::Tensor& tensor) {
  return paddle::empty(tensor.shape(), tensor.dtype(), tensor.place());
}

// Room for the gradients of an operator's inputs. Paddle wants a tensor in every place; one that nobody asked for
// has a single number, and no address here.
class Gradients {
 public:
  // A bit for each input, from the lowest on.
  explicit Gradients(int64_t wanted) : wanted_(wanted) {}

  void add(const paddle::Tensor& of) {
    const bool asked = (wanted_ >> tensors_.size() & 1) != 0;
    tensors_.push_back(paddle::empty(asked ? of.shape() : std::vector<int64_t>{1}, of.dtype(), of.place()));
  }
  float* at(size_t i) {
    return i < tensors_.size() && (wanted_ >> i & 1) != 0 ? data<float>(tensors_[i]) : nullptr;
  }
  const std::vector<paddle::Tensor>& tensors() const { return tensors_; }

 private:
  int64_t wanted_;
  std::vector<paddle::Tensor> tensors_;
};

inline std::vector<paddle::Tensor> part(const std::vector<paddle::Tensor>& tensors, size_t begin, size_t end) {
  return {tensors.begin() + begin, tensors.begin() + end};
}

inline Products products_of(bool narrow) { return narrow ? Products::kBfloat16 : Products::kFloat32; }

}  // namespace mix
