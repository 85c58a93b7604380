// What the simulated device counts. Kernels are counted at their registry (kernels.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace mix::sim {

struct Traffic {
  int64_t calls = 0, bytes = 0;
};

class Counters {
 public:
  static Counters& instance() {
    static auto* counters = new Counters;
    return *counters;
  }

  void copied(const char* direction, int64_t bytes) { add(copies_, direction, bytes); }
  void collective(const char* operation, int64_t bytes) { add(collectives_, operation, bytes); }
  // Copies in a wrong direction, past an end, or of memory that is not there.
  void rejected(const char* what) { add(rejected_, what, 0); }

  std::map<std::string, Traffic> copies() const { return snapshot(copies_); }
  std::map<std::string, Traffic> collectives() const { return snapshot(collectives_); }
  std::map<std::string, Traffic> rejections() const { return snapshot(rejected_); }
  void reset() {
    std::lock_guard<std::mutex> lock(mutex_);
    copies_.clear(), collectives_.clear(), rejected_.clear();
  }

 private:
  using Table = std::map<std::string, Traffic>;

  void add(Table& table, const char* name, int64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto& entry = table[name];
    ++entry.calls;
    entry.bytes += bytes;
  }
  Table snapshot(const Table& table) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return table;
  }

  mutable std::mutex mutex_;
  Table copies_, collectives_, rejected_;
};

}  // namespace mix::sim
