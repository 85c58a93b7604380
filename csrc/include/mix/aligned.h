// Scratch whose first number begins a cache line, as loads and stores of whole vectors want it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace mix {

template <typename T>
class Aligned {
 public:
  // From malloc, not aligned_alloc: until glibc 2.38 that passes over freed blocks which would do, and the heap grows.
  explicit Aligned(int64_t count) : memory_(std::malloc(static_cast<size_t>(count) * sizeof(T) + kLine)) {
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  ~Aligned() { std::free(memory_); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;

  T* data() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_);
    return reinterpret_cast<T*>((address + kLine - 1) / kLine * kLine);
  }

 private:
  static constexpr size_t kLine = 64;
  void* memory_;
};

}  // namespace mix
