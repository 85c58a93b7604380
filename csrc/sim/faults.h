// Faults on demand: what goes wrong, when, and how often it did.
//
// A fault is written `part:effect[,key=value]...`, several are separated by `;`:
//   alloc:fail,nth=5        alloc:fail,above=1048576     copy:fail[,nth=N]      copy:corrupt[,nth=N]
//   all_reduce:wrong[,nth=N] event:drop[,nth=N]          stream:stall,ms=200    rank:dead,rank=1[,nth=N]
//   rank:slow,rank=1,ms=50  results:bfloat16             operator:wrong,name=N  operator:missing,name=N
// nth counts calls from 1; without it every call is hit.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace mix::sim {

struct Fault {
  std::string text, part, effect;
  std::map<std::string, std::string> values;
  int64_t calls = 0, hits = 0;

  int64_t number(const std::string& key, int64_t missing) const;
};

class Faults {
 public:
  static Faults& instance();

  // Add faults to those there are. Throws std::invalid_argument with one line on anything it does not know.
  void add(const std::string& text);
  void clear();

  // Count a call that this fault could hit; the fault when it does hit, else null. Free when there are none.
  std::shared_ptr<const Fault> hit(const char* part, const char* effect, int64_t size = 0,
                                   const std::string& name = "");
  bool any() const { return any_.load(std::memory_order_relaxed); }
  // Grows with every change; kernels look again for their own faults when it has.
  int64_t generation() const { return generation_.load(std::memory_order_acquire); }
  std::vector<Fault> list() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Fault>> faults_;
  std::atomic<bool> any_{false};
  std::atomic<int64_t> generation_{0};
};

}  // namespace mix::sim
