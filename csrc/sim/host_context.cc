#include "sim/host_context.h"

#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>

#include "paddle/phi/backends/cpu/cpu_context.h"
#include "paddle/phi/backends/context_pool.h"
#include "paddle/phi/backends/custom/custom_context.h"
#include "sim/memory.h"
#include "sim/stream.h"

namespace mix::sim {

namespace {

class ViewAllocator : public phi::Allocator {
 public:
  explicit ViewAllocator(const phi::DeviceContext& device, bool empty) : device_(device), empty_(empty) {}

  AllocationPtr Allocate(size_t bytes) override {
    const auto& source = empty_ ? device_.GetZeroAllocator() : device_.GetAllocator();
    std::shared_ptr<phi::Allocation> owned(const_cast<phi::Allocator&>(source).Allocate(bytes));
    wait_for_stream(device_);  // another thread may have queued a copy out of this memory and let go of it
    return AllocationPtr(new HostView(std::move(owned)), [](phi::Allocation* view) { delete view; });
  }
  bool IsAllocThreadSafe() const override { return true; }

 private:
  const phi::DeviceContext& device_;
  const bool empty_;
};

// The context of a group of processes has none, and Paddle throws where one is asked for.
phi::Generator* generator_of(const phi::DeviceContext& device, const phi::DeviceContext& cpu) {
  try {
    return device.GetGenerator();
  } catch (const std::exception&) {
    return cpu.GetGenerator();
  }
}

struct Host {
  explicit Host(const phi::DeviceContext& device)
      : allocator(device, false), zero_allocator(device, true), context(phi::CPUPlace()) {
    const auto& cpu = *phi::DeviceContextPool::Instance().Get(phi::CPUPlace());
    context.SetAllocator(&allocator);
    context.SetZeroAllocator(&zero_allocator);
    context.SetHostAllocator(&cpu.GetHostAllocator());
    context.SetHostZeroAllocator(&cpu.GetHostZeroAllocator());
    // one stream of random numbers a device, as on a chip; seeded alike it gives the CPU's numbers
    context.SetGenerator(generator_of(device, cpu));
    context.SetHostGenerator(cpu.GetHostGenerator());
  }

  ViewAllocator allocator, zero_allocator;
  phi::CPUContext context;
};

}  // namespace

HostView::HostView(std::shared_ptr<phi::Allocation> device)
    : phi::Allocation(Memory::instance().host(device->ptr()), device->size(), phi::CPUPlace()),
      device_(std::move(device)) {}

const phi::DeviceContext& host_context(const phi::DeviceContext& device) {
  static std::mutex mutex;
  static auto* hosts = new std::map<const phi::DeviceContext*, std::unique_ptr<Host>>;
  thread_local const phi::DeviceContext* last = nullptr;
  thread_local const Host* host = nullptr;
  if (last != &device) {
    std::lock_guard<std::mutex> lock(mutex);
    auto& found = (*hosts)[&device];
    if (found == nullptr) found = std::make_unique<Host>(device);
    last = &device, host = found.get();
  }
  return host->context;
}

void wait_for_stream(const phi::DeviceContext& context) {
  auto* stream = static_cast<Stream*>(static_cast<const phi::CustomContext&>(context).stream());
  if (stream != nullptr && !stream->synchronize())
    throw std::runtime_error("simulated device: the stream has failed: " + stream->error());
}

}  // namespace mix::sim
