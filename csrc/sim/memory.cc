#include "sim/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace mix::sim {

namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 256;
constexpr size_t RETURN_PAGES_FROM = 1 << 20;  // smaller holes keep their pages: the next allocation wants them

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string("simulated device: ") + what + ": " + std::strerror(errno));
}

}  // namespace

Memory& Memory::instance() {
  static auto* memory = new Memory;  // outlives every static that still frees at exit
  return *memory;
}

void Memory::open(int devices, size_t limit, bool protect) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (file_ >= 0) return;
  devices_ = devices;
  // twice the limit, so that holes between allocations seldom make one fail that the limit allows
  device_span_ = round_up(std::max<size_t>(2 * limit, 1 << 20), PAGE);
  const size_t size = device_span_ * devices;
  file_ = memfd_create("mix-sim", MFD_CLOEXEC);
  if (file_ < 0 || ftruncate(file_, static_cast<off_t>(size)) != 0) fail("no memory file");
  const int rights = protect ? PROT_NONE : PROT_READ | PROT_WRITE;
  void* device = mmap(nullptr, size, rights, MAP_SHARED | MAP_NORESERVE, file_, 0);
  void* host = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file_, 0);
  if (device == MAP_FAILED || host == MAP_FAILED) fail("cannot reserve device memory");
  madvise(host, size, MADV_HUGEPAGE);
  base_ = reinterpret_cast<uintptr_t>(device);
  size_ = size;
  delta_ = static_cast<intptr_t>(reinterpret_cast<uintptr_t>(host) - base_);
  for (int index = 0; index < devices; ++index) {
    auto& one = device_[index];
    one.start = base_ + index * device_span_;
    one.use.limit = limit;
    one.free[one.start] = device_span_;
  }
}

void* Memory::allocate(int device, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (device < 0 || device >= devices_) return nullptr;
  auto& own = device_[device];
  const size_t need = round_up(std::max<size_t>(bytes, 1), ALIGNMENT);
  if (own.use.current + need > own.use.limit) return nullptr;
  auto best = own.free.end();
  for (auto hole = own.free.begin(); hole != own.free.end(); ++hole)
    if (hole->second >= need && (best == own.free.end() || hole->second < best->second)) best = hole;
  if (best == own.free.end()) return nullptr;
  const uintptr_t start = best->first;
  const size_t left = best->second - need;
  own.free.erase(best);
  if (left > 0) own.free[start + need] = left;
  own.taken[start] = need;
  own.use.current += need;
  own.use.peak = std::max(own.use.peak, own.use.current);
  ++own.use.allocations;
  return reinterpret_cast<void*>(start);
}

bool Memory::release(int device, void* pointer) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (device < 0 || device >= devices_) return false;
  auto& own = device_[device];
  const auto found = own.taken.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == own.taken.end()) return false;
  const auto [start, bytes] = *found;
  own.taken.erase(found);
  own.use.current -= bytes;
  give_back(own, start, bytes);
  return true;
}

void Memory::give_back(Device& own, uintptr_t start, size_t bytes) {
  if (bytes >= RETURN_PAGES_FROM) {
    const uintptr_t first = round_up(start, PAGE), last = (start + bytes) / PAGE * PAGE;
    if (last > first)
      fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(first - base_),
                static_cast<off_t>(last - first));
  }
  const auto after = own.free.lower_bound(start);
  if (after != own.free.end() && after->first == start + bytes) {
    bytes += after->second;
    own.free.erase(after);
  }
  auto before = own.free.lower_bound(start);
  if (before != own.free.begin() && (--before)->first + before->second == start)
    before->second += bytes;
  else
    own.free[start] = bytes;
}

bool Memory::holds(int device, const void* pointer, size_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address - base_ >= size_) return false;
  const auto owner = static_cast<int>((address - base_) / device_span_);
  if (device >= 0 && owner != device) return false;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto& taken = device_[owner].taken;
  auto found = taken.upper_bound(address);
  return found != taken.begin() && address + bytes <= (--found)->first + found->second;
}

bool Memory::touches(const void* pointer, size_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address < base_ + size_ && address + bytes > base_;
}

MemoryUse Memory::use(int device) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return device_[device].use;
}

void Memory::reset_peak(int device) {
  std::lock_guard<std::mutex> lock(mutex_);
  device_[device].use.peak = device_[device].use.current;
}

void Memory::set_limit(int device, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  device_[device].use.limit = bytes;
}

std::string Memory::describe(const void* pointer) const {
  if (!touches(pointer, 1)) return "host memory";
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const auto device = static_cast<int>((address - base_) / device_span_);
  std::lock_guard<std::mutex> lock(mutex_);
  const auto& taken = device_[device].taken;
  auto found = taken.upper_bound(address);
  const auto name = "device " + std::to_string(device);
  if (found == taken.begin() || address >= (--found)->first + found->second) return name + ", not allocated";
  return name + ", byte " + std::to_string(address - found->first) + " of an allocation of " +
         std::to_string(found->second);
}

}  // namespace mix::sim
