// Memory for tensors on the CPU: one range of addresses, of which a request takes the smallest free block that holds
// it, and whose free neighbours are joined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace mix {

class Heap {
 public:
  // Every block begins at a multiple of this and has a multiple of it: four cache lines.
  static constexpr size_t kGranule = 256;

  static constexpr size_t kHuge = size_t{256} << 20;

  // Reserves so many bytes of addresses; memory comes with the first touch. Where the system gives none the heap
  // has no room.
  explicit Heap(size_t reserved);
  ~Heap();
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // At least so many bytes, or null where there is no room. From any thread.
  void* take(size_t bytes);
  // What take(bytes) gave. From kHuge on its pages go back to the system at once, others stay for the next.
  void give_back(void* block, size_t bytes);

  // Gives the system the pages of free blocks; how many bytes. They come back, as zeros, when they are touched.
  size_t release();

  // Bytes of blocks that are taken, and of the addresses that ever were.
  size_t taken() const { return taken_; }
  size_t extent() const { return ready_; }

  // Around fork(), so that a child finds no heap that another thread was changing.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  using Block = std::pair<size_t, uintptr_t>;  // size, address

  bool grow(size_t bytes);
  void add_free(uintptr_t at, size_t size);

  std::mutex mutex_;
  uintptr_t start_ = 0;
  size_t reserved_ = 0;
  size_t ready_ = 0;  // bytes from the start on that may be touched
  size_t taken_ = 0;
  std::map<uintptr_t, size_t> free_;  // by address
  std::set<Block> by_size_;           // the same blocks
};

}  // namespace mix
