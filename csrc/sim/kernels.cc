#include "sim/kernels.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <unordered_map>
#include <unordered_set>

#include "paddle/phi/common/bfloat16.h"
#include "paddle/phi/common/float16.h"
#include "paddle/phi/backends/context_pool.h"
#include "sim/faults.h"
#include "sim/host_context.h"
#include "sim/memory.h"
#include "sim/round.h"

namespace mix::sim {

namespace {

bool is_half(phi::DataType type) { return type == phi::DataType::BFLOAT16 || type == phi::DataType::FLOAT16; }

// The host's view of a tensor: the same numbers, seen through the alias.
DenseTensor view_of(const DenseTensor& tensor) {
  if (!tensor.has_allocation()) {
    DenseTensor empty;
    if (tensor.valid()) empty.set_meta(tensor.meta());
    return empty;
  }
  return DenseTensor(std::make_shared<HostView>(tensor.Holder()), tensor.meta());
}

bool lies_on_device(const DenseTensor& tensor) {
  return tensor.has_allocation() && Memory::instance().touches(tensor.Holder()->ptr(), 1);
}

// A float32 copy of a 16-bit tensor in the memory of the machine.
void widen(const DenseTensor& tensor, DenseTensor* wide) {
  const auto& cpu = *phi::DeviceContextPool::Instance().Get(phi::CPUPlace());
  wide->Resize(tensor.dims());
  float* to = cpu.Alloc<float>(wide);
  const auto* from = static_cast<const uint16_t*>(Memory::instance().host(tensor.data()));
  widen_from(tensor.dtype() == phi::DataType::BFLOAT16, from, tensor.numel(), to);
}

// Autograd keeps only the shape of inputs that a gradient does not need, yet CPU kernels ask for their address.
// They get one that spoils whatever reads it: all bits set, which is NaN in every floating type.
bool only_shape(const DenseTensor& tensor) {
  return tensor.has_allocation() && tensor.numel() > 0 && tensor.Holder()->size() == 0;
}

DenseTensor unreadable(const DenseTensor& tensor, phi::DataType type) {
  static std::mutex mutex;
  static std::shared_ptr<phi::Allocation> poison;
  const size_t bytes = tensor.numel() * phi::SizeOf(type);
  std::lock_guard<std::mutex> lock(mutex);
  if (poison == nullptr || poison->size() < bytes) {
    void* memory = std::malloc(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0xff, bytes);
    poison = std::shared_ptr<phi::Allocation>(
        new phi::Allocation(memory, bytes, [](phi::Allocation* gone) { std::free(gone->ptr()); }, phi::CPUPlace()));
  }
  auto meta = tensor.meta();
  meta.dtype = type;
  meta.offset = 0;
  return DenseTensor(poison, meta);
}

}  // namespace

bool on_device(const phi::DeviceContext& context) {
  return context.GetPlace().GetType() == phi::AllocationType::CUSTOM;
}

DeviceCall::DeviceCall(Entry& entry, const phi::DeviceContext& context) : entry_(entry), device_(context) {
  entry.calls.fetch_add(1, std::memory_order_relaxed);
  wait_for_stream(context);
}

const phi::DeviceContext& DeviceCall::context() const { return host_context(device_); }

const DenseTensor& DeviceCall::host(const DenseTensor& input) {
  if (only_shape(input)) {
    const bool wide = entry_.widened && input.dtype() == entry_.dtype;
    views_.push_back(unreadable(input, wide ? phi::DataType::FLOAT32 : input.dtype()));
    return views_.back();
  }
  const bool widened = entry_.widened && input.dtype() == entry_.dtype && input.initialized();
  if (!lies_on_device(input) && !widened) return input;
  bytes_ += input.numel() * static_cast<int64_t>(phi::SizeOf(input.dtype()));
  if (widened) {
    views_.emplace_back();
    widen(input, &views_.back());
  } else {
    views_.push_back(view_of(input));
  }
  return views_.back();
}

paddle::optional<DenseTensor> DeviceCall::host(const paddle::optional<DenseTensor>& input) {
  if (!input) return input;
  return paddle::optional<DenseTensor>(host(*input));
}

std::vector<const DenseTensor*> DeviceCall::host(const std::vector<const DenseTensor*>& inputs) {
  std::vector<const DenseTensor*> views;
  for (const auto* input : inputs) views.push_back(input == nullptr ? nullptr : &host(*input));
  return views;
}

std::vector<const phi::TensorBase*> DeviceCall::host(const std::vector<const phi::TensorBase*>& inputs) {
  std::vector<const phi::TensorBase*> views;
  for (const auto* input : inputs) {
    const auto* dense = dynamic_cast<const DenseTensor*>(input);
    views.push_back(dense == nullptr ? input : &host(*dense));
  }
  return views;
}

paddle::optional<std::vector<const DenseTensor*>> DeviceCall::host(
    const paddle::optional<std::vector<const DenseTensor*>>& inputs) {
  if (!inputs) return inputs;
  return paddle::optional<std::vector<const DenseTensor*>>(host(*inputs));
}

DenseTensor* DeviceCall::host(DenseTensor* output) {
  if (output == nullptr) return nullptr;
  if (entry_.widened && (is_half(output->dtype()) || output->dtype() == phi::DataType::UNDEFINED)) {
    views_.emplace_back();
    if (output->valid()) views_.back().Resize(output->dims());
  } else {
    views_.push_back(view_of(*output));
  }
  results_.emplace_back(output, &views_.back());
  return &views_.back();
}

std::vector<DenseTensor*> DeviceCall::host(const std::vector<DenseTensor*>& outputs) {
  std::vector<DenseTensor*> views;
  for (auto* output : outputs) views.push_back(host(output));
  return views;
}

void DeviceCall::finish() {
  for (auto& [output, result] : results_) {
    take_back(output, result);
    if (output->has_allocation()) bytes_ += output->numel() * static_cast<int64_t>(phi::SizeOf(output->dtype()));
  }
  entry_.bytes.fetch_add(bytes_, std::memory_order_relaxed);
  if (!Faults::instance().any()) return;
  for (auto& [output, result] : results_) spoil(output);
}

// Give the result's memory, or its rounded numbers, to the output.
void DeviceCall::take_back(DenseTensor* output, DenseTensor* result) {
  if (!result->has_allocation()) {
    if (result->valid() && !entry_.widened) output->set_meta(result->meta());
    return;
  }
  const bool round = entry_.widened && result->dtype() == phi::DataType::FLOAT32 &&
                     (is_half(output->dtype()) || output->dtype() == phi::DataType::UNDEFINED);
  if (round) {
    const auto type = is_half(output->dtype()) ? output->dtype() : entry_.dtype;
    const auto* from = static_cast<const float*>(Memory::instance().host(result->data()));
    output->Resize(result->dims());
    device_.Alloc(output, type);
    wait_for_stream(device_);
    round_to(type == phi::DataType::BFLOAT16, from, result->numel(),
             static_cast<uint16_t*>(Memory::instance().host(output->data())));
    return;
  }
  if (const auto* view = dynamic_cast<const HostView*>(result->Holder().get())) {
    auto device = view->device();
    auto meta = result->meta();
    if (output->Holder() != device) {
      output->clear();
      output->ResetHolder(device);
    }
    output->set_meta(meta);
    return;
  }
  // the kernel took its memory from elsewhere
  output->set_meta(result->meta());
  output->clear();
  device_.Alloc(output, result->dtype());
  wait_for_stream(device_);
  if (result->numel() > 0)
    std::memcpy(Memory::instance().host(output->data()), result->data(),
                result->numel() * phi::SizeOf(result->dtype()));
}

// Faults of results: one operator wrong, or everything rounded to bfloat16.
void DeviceCall::spoil(DenseTensor* output) {
  if (!output->has_allocation() || output->dtype() != phi::DataType::FLOAT32 || output->numel() == 0) return;
  auto* numbers = static_cast<float*>(Memory::instance().host(output->data()));
  auto& faults = Faults::instance();
  if (faults.hit("operator", "wrong", 0, entry_.name)) numbers[0] = numbers[0] * 1.01f + 0.01f;
  if (faults.hit("results", "bfloat16")) truncate(numbers, output->numel());
}

namespace {

struct LastHostCall {
  Entry* entry = nullptr;
  bool counted = false;
  int64_t bytes_in = 0;
  // an address alone may serve someone else by the time it is copied
  std::vector<std::pair<std::weak_ptr<phi::Allocation>, const void*>> outputs;
};
thread_local LastHostCall last_call;
thread_local std::vector<std::pair<const void*, int64_t>> copied_to_host;
constexpr size_t REMEMBERED_COPIES = 64;

}  // namespace

HostCall::HostCall(Entry& entry) : entry_(entry) {
  last_call.entry = &entry;
  last_call.counted = false;
  last_call.bytes_in = 0;
  last_call.outputs.clear();
}

void HostCall::input(const DenseTensor& tensor) {
  if (copied_to_host.empty() || !tensor.initialized()) return;
  const void* pointer = tensor.data();
  for (auto& copy : copied_to_host)
    if (copy.first == pointer) {
      last_call.bytes_in += copy.second;
      copy.first = nullptr;
    }
}

void HostCall::output(const DenseTensor* tensor) {
  if (tensor != nullptr && tensor->initialized()) last_call.outputs.emplace_back(tensor->Holder(), tensor->data());
}

void note_copy_to_host(const void* host, int64_t bytes) {
  if (copied_to_host.size() >= REMEMBERED_COPIES) copied_to_host.clear();
  copied_to_host.emplace_back(host, bytes);
}

void note_copy_to_device(const void* host, int64_t bytes) {
  if (last_call.entry == nullptr) return;
  for (auto& output : last_call.outputs) {
    if (output.second != host || output.first.expired()) continue;
    auto& entry = *last_call.entry;
    if (!last_call.counted) {
      entry.fallbacks.fetch_add(1, std::memory_order_relaxed);
      entry.bytes_in.fetch_add(last_call.bytes_in, std::memory_order_relaxed);
      copied_to_host.clear();
    }
    last_call.counted = true;
    entry.bytes_out.fetch_add(bytes, std::memory_order_relaxed);
    output.second = nullptr;
    return;
  }
}

}  // namespace mix::sim
