// The CPU context in which the simulated device's kernels run: its memory is the device's, seen through the alias.
#pragma once

#include <memory>

#include "paddle/phi/core/allocator.h"
#include "paddle/phi/core/device_context.h"

namespace mix::sim {

// Device memory as the host side of the simulator sees it.
class HostView : public phi::Allocation {
 public:
  explicit HostView(std::shared_ptr<phi::Allocation> device);
  const std::shared_ptr<phi::Allocation>& device() const { return device_; }

 private:
  std::shared_ptr<phi::Allocation> device_;
};

// The context that belongs to this device context; made at its first use and kept.
const phi::DeviceContext& host_context(const phi::DeviceContext& device);

// Wait for what a context's stream has queued: kernels come after it, and run in the calling thread. Throws where the
// stream has failed.
void wait_for_stream(const phi::DeviceContext& context);

}  // namespace mix::sim
