// Kernels of the simulated device: each runs the CPU's kernel of the same name on the device's own memory.
//
// Generated wrappers (see mix_core/device/simulate_build.py) list one Wrapper for every kernel and dtype of the
// CPU; register_kernels() puts those of the chip's table under the device's backend. 16-bit kernels that the
// CPU lacks, or computes badly, widen their inputs to float32 and round their results.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "paddle/phi/core/dense_tensor.h"
#include "paddle/phi/core/device_context.h"
#include "paddle/phi/core/kernel_factory.h"

namespace mix::sim {

using phi::DenseTensor;

// One kernel of one dtype.
struct Entry {
  // `bytes`: inputs and outputs of calls on the device; `bytes_in`, `bytes_out`: moved for fallbacks
  const char* name;
  phi::DataType dtype;
  void* cpu = nullptr;   // the CPU kernel that does the work on the device
  void* host = nullptr;  // the CPU's own kernel of this dtype, which serves what falls back
  bool widened = false;  // it computes in float32 for a 16-bit dtype
  std::atomic<int64_t> calls{0}, bytes{0}, fallbacks{0}, bytes_in{0}, bytes_out{0};
};

struct Wrapper {
  const char* name;
  phi::DataType dtype;
  phi::KernelFn from_context;
  void* variadic;
  Entry** entry;  // where the wrapper finds its entry
};

// What generated code calls once for each of its parts.
std::vector<Wrapper>& wrappers();

// One call of a kernel on the device: host views of its tensors, and results taken back.
class DeviceCall {
 public:
  DeviceCall(Entry& entry, const phi::DeviceContext& context);

  const phi::DeviceContext& context() const;

  const DenseTensor& host(const DenseTensor& input);
  paddle::optional<DenseTensor> host(const paddle::optional<DenseTensor>& input);
  std::vector<const DenseTensor*> host(const std::vector<const DenseTensor*>& inputs);
  std::vector<const phi::TensorBase*> host(const std::vector<const phi::TensorBase*>& inputs);
  paddle::optional<std::vector<const DenseTensor*>> host(
      const paddle::optional<std::vector<const DenseTensor*>>& inputs);
  DenseTensor* host(DenseTensor* output);
  std::vector<DenseTensor*> host(const std::vector<DenseTensor*>& outputs);
  template <typename T>
  const T& host(const T& attribute) {
    return attribute;
  }

  void finish();

 private:
  void take_back(DenseTensor* output, DenseTensor* result);
  void spoil(DenseTensor* output);

  Entry& entry_;
  const phi::DeviceContext& device_;
  int64_t bytes_ = 0;
  std::list<DenseTensor> views_;
  std::vector<std::pair<DenseTensor*, DenseTensor*>> results_;
};

// A kernel that ran on the CPU: remembered until its outputs are copied to the device, which makes it a fallback.
class HostCall {
 public:
  explicit HostCall(Entry& entry);
  void input(const DenseTensor& tensor);
  void output(const DenseTensor* tensor);
  void input(const paddle::optional<DenseTensor>& tensor) {
    if (tensor) input(*tensor);
  }
  void input(const std::vector<const DenseTensor*>& tensors) {
    for (const auto* tensor : tensors)
      if (tensor != nullptr) input(*tensor);
  }
  void output(const std::vector<DenseTensor*>& tensors) {
    for (const auto* tensor : tensors) output(tensor);
  }
  void input(const std::vector<const phi::TensorBase*>& tensors) {
    for (const auto* tensor : tensors)
      if (const auto* dense = dynamic_cast<const DenseTensor*>(tensor)) input(*dense);
  }
  void note(const std::vector<const phi::TensorBase*>& tensors) { input(tensors); }
  void note(const DenseTensor& tensor) { input(tensor); }
  void note(const paddle::optional<DenseTensor>& tensor) { input(tensor); }
  void note(const std::vector<const DenseTensor*>& tensors) { input(tensors); }
  void note(DenseTensor* tensor) { output(tensor); }
  void note(const std::vector<DenseTensor*>& tensors) { output(tensors); }
  template <typename T>
  void note(const T&) {}

 private:
  Entry& entry_;
};

// The copies of this thread, told by the runtime so that HostCall can recognise a fallback.
void note_copy_to_host(const void* host, int64_t bytes);
void note_copy_to_device(const void* host, int64_t bytes);

bool on_device(const phi::DeviceContext& context);

template <typename... A>
struct Delegate {
  using Function = void (*)(const phi::DeviceContext&, A...);

  static void run(Entry& entry, const phi::DeviceContext& context, A... arguments) {
    if (on_device(context)) {
      DeviceCall call(entry, context);
      reinterpret_cast<Function>(entry.cpu)(call.context(), call.host(arguments)...);
      call.finish();
    } else {
      HostCall call(entry);
      reinterpret_cast<Function>(entry.host)(context, arguments...);
      (call.note(arguments), ...);
    }
  }
};

// Register the wrappers of a table: kernel name to dtypes; an empty table stands for every kernel.
using Table = std::map<std::string, std::vector<phi::DataType>>;
struct Registered {
  int64_t kernels = 0;
  std::vector<std::string> unknown;  // names of the table that no CPU kernel bears
};
Registered register_kernels(const std::string& device_type, const Table& table, bool all);
// Take a kernel away from the device, or give it back. False when the device never had it.
bool set_missing(const std::string& name, bool missing);

const std::vector<std::unique_ptr<Entry>>& entries();
void reset_kernel_counters();

}  // namespace mix::sim
