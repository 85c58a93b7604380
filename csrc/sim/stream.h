// Streams of the simulator: each is a thread that works through a queue; events order them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace mix::sim {

// A mark in a stream's queue. Recording it again moves the mark.
class Event {
 public:
  uint64_t record();          // a ticket for this recording
  void reach(uint64_t ticket);
  bool reached() const;       // true also for an event that was never recorded
  void wait() const;
  void wait(uint64_t ticket) const;
  uint64_t recorded() const;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  uint64_t recorded_ = 0, reached_ = 0;
};

class Stream {
 public:
  explicit Stream(int device);
  ~Stream();  // after what is queued
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int device() const { return device_; }
  // Run `task` after everything queued before. What a task throws fails the stream for good; from then on only
  // tasks that must run `always` do (marks of events, or their waiters would hang).
  void submit(std::function<void()> task, bool always = false);
  bool idle() const { return pending_.load(std::memory_order_acquire) == 0; }
  // Wait until nothing is queued; returns false when a task has failed.
  bool synchronize();
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  std::string error() const;

 private:
  void work();

  const int device_;
  std::atomic<int64_t> pending_{0};
  std::atomic<bool> failed_{false};
  mutable std::mutex mutex_;
  std::condition_variable filled_, drained_;
  struct Task {
    std::function<void()> run;
    bool always;
  };
  std::deque<Task> queue_;
  std::string error_;
  bool ending_ = false;
  std::thread thread_;  // started by the first task
};

}  // namespace mix::sim
