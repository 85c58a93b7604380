#include "sim/stream.h"

#include <algorithm>
#include <exception>

#include "sim/runtime.h"

namespace mix::sim {

uint64_t Event::record() {
  std::lock_guard<std::mutex> lock(mutex_);
  return ++recorded_;
}

void Event::reach(uint64_t ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  reached_ = std::max(reached_, ticket);
  changed_.notify_all();
}

bool Event::reached() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return reached_ >= recorded_;
}

uint64_t Event::recorded() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return recorded_;
}

void Event::wait() const { wait(recorded()); }

void Event::wait(uint64_t ticket) const {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return reached_ >= ticket; });
}

Stream::Stream(int device) : device_(device) {}

Stream::~Stream() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  filled_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Stream::submit(std::function<void()> task, bool always) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread(&Stream::work, this);
    pending_.fetch_add(1, std::memory_order_acq_rel);
    queue_.push_back({std::move(task), always});
  }
  filled_.notify_one();
}

bool Stream::synchronize() {
  if (!idle()) {
    std::unique_lock<std::mutex> lock(mutex_);
    drained_.wait(lock, [&] { return idle(); });
  }
  return !failed();
}

std::string Stream::error() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return error_;
}

void Stream::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    filled_.wait(lock, [&] { return ending_ || !queue_.empty(); });
    if (queue_.empty()) return;
    auto task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    std::string error;
    try {
      if (task.always || !failed()) task.run();
    } catch (const std::exception& thrown) {
      error = thrown.what();
    }
    task.run = nullptr;
    lock.lock();
    if (!error.empty()) {
      error_ = error;
      failed_.store(true, std::memory_order_release);
      refuse(error);
    }
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) drained_.notify_all();
  }
}

}  // namespace mix::sim
