// Scratch whose first number begins a cache line, as loads and stores of whole vectors want it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace mix {

template <typename T>
class Aligned {
 public:
  explicit Aligned(int64_t count) {
    constexpr size_t kLine = 64;
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
    memory_ = static_cast<T*>(std::aligned_alloc(kLine, bytes == 0 ? kLine : bytes));
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  ~Aligned() { std::free(memory_); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;

  T* data() { return memory_; }

 private:
  T* memory_;
};

}  // namespace mix
