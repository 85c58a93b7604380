// A barrier for threads that meet many times within milliseconds.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace mix {

// The OpenMP runtime's own barrier gives its processor away while it waits, and takes several times as long.
class Meeting {
 public:
  // Returns when `threads` threads have come, each time anew; all of them give the same number.
  void wait(int64_t threads) {
    const uint32_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    // a thread that has lost its processor would otherwise be waited for on the one that it wants
    for (int64_t looked = 0; round_.load(std::memory_order_acquire) == round; ++looked) {
      if (looked < kLooks)
        relax();
      else
        std::this_thread::yield();
    }
  }

 private:
  static constexpr int64_t kLooks = 1 << 12;  // some 50 us

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  alignas(64) std::atomic<int64_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

}  // namespace mix
