// What ranks know of one another's processes, and how they wait for one another.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace mix::sim {

// A process number comes again; with the time of its start it does not.
struct ProcessId {
  int64_t pid;
  uint64_t start_ticks;  // field 22 of /proc/<pid>/stat, clock ticks since boot
};

ProcessId own_process();
// False for a process that has ended, a zombie included, and for another one of the same number.
bool is_alive(const ProcessId& process);
// One value from boot to boot of a machine (/proc/sys/kernel/random/boot_id); "" where it cannot be read.
std::string boot_id();
void random_bytes(void* bytes, size_t count);
std::string error_text(int number);
// The limit in seconds that MIX_SIM_TIMEOUT sets, by default 60; throws CollectiveError when it is no positive number.
double default_limit_s();

// Owns a file descriptor.
class File {
 public:
  explicit File(int fd = -1) : fd_(fd) {}
  File(File&& other) noexcept : fd_(other.release()) {}
  File& operator=(File&& other) noexcept;
  ~File();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();

 private:
  int fd_;
};

// When to look after a peer (every 50 ms), and when to give up.
class Watch {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kInterval{50};

  explicit Watch(double limit_s)
      : end_(Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(limit_s * 1e3))) {}
  bool is_due();
  bool is_over() const { return Clock::now() >= end_; }

 private:
  Clock::time_point end_;
  Clock::time_point next_ = Clock::now() + kInterval;
};

// A word in shared memory that processes wait on: sleeping waiters cost the writer a system call, none costs nothing.
struct Signal {
  std::atomic<uint32_t> value;
  std::atomic<uint32_t> sleepers;

  uint32_t load() const { return value.load(std::memory_order_acquire); }
  void store_and_wake(uint32_t next);
  // Returns when the value is no longer `seen`, after at most 50 ms, or for no reason.
  void wait(uint32_t seen);
};

}  // namespace mix::sim
