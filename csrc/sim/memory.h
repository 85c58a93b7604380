// Device memory of the simulator: one reserved range that the host may not touch, and an alias of it.
//
// Pages lie in an anonymous file that is mapped twice. The device pointers that Paddle holds lead into a range
// without access rights, so a host access to them faults as it would fail on a chip; the runtime's copies and
// kernels go through the alias, which lies at a constant distance. Nothing is ever re-protected while it runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace mix::sim {

constexpr int MAX_DEVICES = 16;

struct MemoryUse {
  size_t limit, current, peak;  // bytes
  int64_t allocations;
};

class Memory {
 public:
  static Memory& instance();

  // Reserve the address space. `limit` is in bytes and holds for each device. Throws std::runtime_error.
  void open(int devices, size_t limit, bool protect);

  // A device pointer, or null when the device's limit or the machine's memory does not allow it.
  void* allocate(int device, size_t bytes);
  // False when `pointer` is not the start of an allocation of this device.
  bool release(int device, void* pointer);

  // Whether [pointer, pointer + bytes) lies inside one allocation; `device` < 0 stands for any device.
  bool holds(int device, const void* pointer, size_t bytes) const;
  // Whether any byte of the range is device memory, allocated or not.
  bool touches(const void* pointer, size_t bytes) const;
  // Where the runtime reads and writes what `pointer` means; host pointers come back as they are.
  template <typename T>
  T* host(T* pointer) const {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    return address - base_ < size_ ? reinterpret_cast<T*>(address + delta_) : pointer;
  }
  uintptr_t base() const { return base_; }
  size_t size() const { return size_; }
  intptr_t delta() const { return delta_; }

  MemoryUse use(int device) const;
  void reset_peak(int device);
  void set_limit(int device, size_t bytes);
  // What lies at an address, for messages.
  std::string describe(const void* pointer) const;

 private:
  struct Device {
    uintptr_t start = 0;
    MemoryUse use{};
    std::map<uintptr_t, size_t> taken, free;  // start to bytes
  };
  void give_back(Device& device, uintptr_t start, size_t bytes);

  mutable std::mutex mutex_;
  uintptr_t base_ = 0;
  size_t size_ = 0, device_span_ = 0;
  intptr_t delta_ = 0;
  int file_ = -1, devices_ = 0;
  Device device_[MAX_DEVICES];
};

}  // namespace mix::sim
