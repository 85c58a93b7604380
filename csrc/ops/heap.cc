#include "ops/heap.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace mix {
namespace {

constexpr size_t kStep = size_t{32} << 20;  // what the heap grows by
constexpr size_t kHugePage = size_t{2} << 20;

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Gives the system the whole pages of a block; how many bytes.
size_t return_pages(uintptr_t at, size_t size) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = rounded(at, page), end = (at + size) / page * page;
  return begin < end && madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED) == 0 ? end - begin : 0;
}

// At least a granule, so that every block has an address of its own.
size_t block_of(size_t bytes) { return std::max(rounded(bytes, Heap::kGranule), Heap::kGranule); }

}  // namespace

Heap::Heap(size_t reserved) {
  // without access, so that the system counts only what has grown
  const size_t asked = rounded(reserved, kStep) + kHugePage;
  void* found = mmap(nullptr, asked, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) return;
  const auto first = reinterpret_cast<uintptr_t>(found);
  start_ = rounded(first, kHugePage);
  reserved_ = asked - kHugePage;
  if (start_ != first) munmap(found, start_ - first);
  const uintptr_t end = start_ + reserved_;
  if (end != first + asked) munmap(reinterpret_cast<void*>(end), first + asked - end);
}

Heap::~Heap() {
  if (reserved_ != 0) munmap(reinterpret_cast<void*>(start_), reserved_);
}

void* Heap::take(size_t bytes) {
  if (bytes > reserved_) return nullptr;
  const size_t size = block_of(bytes);
  const std::lock_guard<std::mutex> held(mutex_);
  auto best = by_size_.lower_bound({size, 0});
  if (best == by_size_.end()) {
    if (!grow(size)) return nullptr;
    best = by_size_.lower_bound({size, 0});
  }
  const auto [has, at] = *best;
  by_size_.erase(best);
  free_.erase(at);
  if (has > size) add_free(at + size, has - size);
  taken_ += size;
  return reinterpret_cast<void*>(at);
}

void Heap::give_back(void* block, size_t bytes) {
  auto at = reinterpret_cast<uintptr_t>(block);
  size_t size = block_of(bytes);
  if (size >= kHuge) return_pages(at, size);
  const std::lock_guard<std::mutex> held(mutex_);
  taken_ -= size;
  auto after = free_.lower_bound(at);
  if (after != free_.end() && after->first == at + size) {
    size += after->second;
    by_size_.erase({after->second, after->first});
    after = free_.erase(after);
  }
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == at) {
      at = before->first;
      size += before->second;
      by_size_.erase({before->second, before->first});
      free_.erase(before);
    }
  }
  add_free(at, size);
}

size_t Heap::release() {
  size_t released = 0;
  const std::lock_guard<std::mutex> held(mutex_);
  for (const auto& [at, size] : free_) released += return_pages(at, size);
  return released;
}

// A free block of so many bytes at the end.
bool Heap::grow(size_t bytes) {
  const uintptr_t end = start_ + ready_;
  const auto last = free_.empty() ? free_.end() : std::prev(free_.end());
  const bool joins = last != free_.end() && last->first + last->second == end;
  const size_t there = joins ? last->second : 0, more = rounded(bytes - there, kStep);
  if (more > reserved_ - ready_) return false;
  if (mprotect(reinterpret_cast<void*>(end), more, PROT_READ | PROT_WRITE) != 0) return false;
  madvise(reinterpret_cast<void*>(end), more, MADV_HUGEPAGE);  // where there are none, ordinary pages do
  ready_ += more;
  if (!joins) {
    add_free(end, more);
    return true;
  }
  const uintptr_t at = last->first;
  by_size_.erase({there, at});
  free_.erase(last);
  add_free(at, there + more);
  return true;
}

void Heap::add_free(uintptr_t at, size_t size) {
  free_.emplace(at, size);
  by_size_.emplace(size, at);
}

}  // namespace mix
