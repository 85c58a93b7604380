// Paddle's tensors on the CPU in mix::Heap: the allocator of its CPU context, which Paddle lets a library set.
#include "ops/heap.h"

#include <pthread.h>

#include <string>

#include "ops/binding.h"
#include "paddle/phi/api/include/context_pool.h"
#include "paddle/phi/core/allocator.h"
#include "paddle/phi/core/device_context.h"

// Of paddle/phi/core/memory/stats.h, which includes headers that the wheel lacks.
namespace paddle {
namespace memory {
void HostMemoryStatUpdate(const std::string& name, int device, int64_t bytes);
}
}  // namespace paddle

namespace {

// Small blocks that live long would lie in the way of large ones.
constexpr size_t kSmall = size_t{64} << 10;

struct Heaps {
  explicit Heaps(size_t bytes) : small(bytes / 8), large(bytes) {}

  mix::Heap& of(size_t bytes) { return bytes < kSmall ? small : large; }

  mix::Heap small, large;
};
Heaps* heaps = nullptr;  // never deleted: tensors are dropped until the process has ended

// Paddle's own count of what tensors hold on the host (paddle.device shows it).
void count(int64_t bytes) {
  static const auto* const allocated = new std::string("Allocated");
  paddle::memory::HostMemoryStatUpdate(*allocated, 0, bytes);
}

class TensorAllocator : public phi::Allocator {
 public:
  explicit TensorAllocator(phi::Allocator* before) : before_(before) {}

  AllocationPtr Allocate(size_t bytes) override {
    void* block = heaps->of(bytes).take(bytes);
    if (block == nullptr) return before_->Allocate(bytes);  // which has the words for a machine that is full
    count(static_cast<int64_t>(bytes));
    return AllocationPtr(new phi::Allocation(block, bytes, phi::CPUPlace()), [](phi::Allocation* one) {
      count(-static_cast<int64_t>(one->size()));
      heaps->of(one->size()).give_back(one->ptr(), one->size());
      delete one;
    });
  }
  bool IsAllocThreadSafe() const override { return true; }

 private:
  phi::Allocator* before_;
};

void lock() { heaps->small.lock(), heaps->large.lock(); }
void unlock() { heaps->large.unlock(), heaps->small.unlock(); }

}  // namespace

#define MIX_EXPORT extern "C" __attribute__((visibility("default")))

// Once a process; `bytes`: the machine's memory.
MIX_EXPORT void mix_use_heap(size_t bytes) {
  if (heaps != nullptr) return;
  heaps = new Heaps(bytes);
  pthread_atfork(lock, unlock, unlock);
  auto* context = paddle::experimental::DeviceContextPool::Instance().GetMutable(phi::CPUPlace());
  context->SetAllocator(new TensorAllocator(const_cast<phi::Allocator*>(&context->GetAllocator())));
}

// Gives the system the pages that no tensor has; how many bytes.
MIX_EXPORT size_t mix_release_heap() {
  return heaps == nullptr ? 0 : heaps->small.release() + heaps->large.release();
}

// Bytes of the tensors in the heap.
MIX_EXPORT size_t mix_heap_taken() { return heaps == nullptr ? 0 : heaps->small.taken() + heaps->large.taken(); }
