// Allocation and copies as Paddle asks for them: every pointer is checked before a byte moves.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "sim/counters.h"
#include "sim/faults.h"
#include "sim/kernels.h"
#include "sim/memory.h"
#include "sim/runtime.h"

namespace mix::sim {

namespace {

constexpr size_t CHUNK_BYTES = 256;

Memory& memory() { return Memory::instance(); }

// Failing to allocate gives success and a null pointer: Paddle then frees what it keeps idle, tries again, and
// raises its own error of memory.
C_Status allocate(const C_Device device, void** pointer, size_t bytes) {
  if (forked()) return refuse(FORKED);
  *pointer = Faults::instance().hit("alloc", "fail", static_cast<int64_t>(bytes)) != nullptr
                 ? nullptr
                 : memory().allocate(device->id, bytes);
  return C_SUCCESS;
}

C_Status release(const C_Device device, void* pointer, size_t) {
  if (forked()) return C_SUCCESS;  // the parent's pages
  if (memory().release(device->id, pointer)) return C_SUCCESS;
  Counters::instance().rejected("release");
  return refuse("memory was freed that is not allocated: " + memory().describe(pointer));
}

C_Status host_allocate(const C_Device, void** pointer, size_t bytes) {
  *pointer = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  return C_SUCCESS;
}

C_Status host_release(const C_Device, void* pointer, size_t) {
  std::free(pointer);
  return C_SUCCESS;
}

C_Status set(const C_Device device, void* pointer, unsigned char value, size_t bytes) {
  if (forked()) return refuse(FORKED);
  if (!memory().holds(device->id, pointer, bytes)) {
    Counters::instance().rejected("set");
    return refuse("memory set of " + std::to_string(bytes) + " bytes outside an allocation: " +
                  memory().describe(pointer));
  }
  drain(device->id);
  std::memset(memory().host(pointer), value, bytes);
  return C_SUCCESS;
}

enum class Way { to_device, to_host, on_device, to_peer };
const char* const NAMES[] = {"host_to_device", "device_to_host", "device_to_device", "peer_to_peer"};
const char* name(Way way) { return NAMES[static_cast<int>(way)]; }

// Empty, or what is wrong with a copy.
std::string objection(Way way, int to_device, int from_device, const void* to, const void* from, size_t bytes) {
  const bool to_is_device = way != Way::to_host, from_is_device = way != Way::to_device;
  const auto good = [&](bool is_device, int device, const void* pointer) {
    return is_device ? memory().holds(device, pointer, bytes) : !memory().touches(pointer, bytes);
  };
  const auto say = [&](const char* side, const void* pointer) {
    return std::string("a copy ") + name(way) + " of " + std::to_string(bytes) + " bytes has a wrong " + side + ": " +
           memory().describe(pointer);
  };
  if (!good(to_is_device, to_device, to)) return say("destination", to);
  if (!good(from_is_device, from_device, from)) return say("source", from);
  return "";
}

void move(Way way, void* to, const void* from, size_t bytes) {
  auto* target = static_cast<char*>(memory().host(to));
  std::memmove(target, memory().host(from), bytes);
  if (bytes > 0 && Faults::instance().hit("copy", "corrupt")) {
    // the first number's sign and exponent where it has four bytes: Paddle pads small copies at their end
    const size_t byte = bytes >= 4 ? 3 : 0;
    target[byte] = static_cast<char>(~target[byte]);
  }
  if (way == Way::to_host) note_copy_to_host(to, static_cast<int64_t>(bytes));
  if (way == Way::to_device) note_copy_to_device(from, static_cast<int64_t>(bytes));
}

C_Status checked(Way way, int to_device, int from_device, const void* to, const void* from, size_t bytes) {
  if (forked()) return refuse(FORKED);
  const auto wrong = objection(way, to_device, from_device, to, from, bytes);
  if (!wrong.empty()) {
    Counters::instance().rejected(name(way));
    return refuse(wrong);
  }
  if (Faults::instance().hit("copy", "fail"))
    return refuse(std::string("simulated fault: a copy ") + name(way) + " failed");
  Counters::instance().copied(name(way), static_cast<int64_t>(bytes));
  return C_SUCCESS;
}

template <Way WAY>
C_Status copy(const C_Device device, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return C_SUCCESS;
  const auto status = checked(WAY, device->id, device->id, to, from, bytes);
  if (status != C_SUCCESS) return status;
  if (!drain(device->id)) return C_FAILED;
  move(WAY, to, from, bytes);
  return C_SUCCESS;
}

C_Status copy_peer(const C_Device to_device, const C_Device from_device, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return C_SUCCESS;
  const auto status = checked(Way::to_peer, to_device->id, from_device->id, to, from, bytes);
  if (status != C_SUCCESS) return status;
  if (!drain(from_device->id) || !drain(to_device->id)) return C_FAILED;
  move(Way::to_peer, to, from, bytes);
  return C_SUCCESS;
}

template <Way WAY>
C_Status queue_copy(const C_Device device, C_Stream stream, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return C_SUCCESS;
  const auto status = checked(WAY, device->id, device->id, to, from, bytes);
  if (status != C_SUCCESS) return status;
  if (WAY != Way::on_device && stream_of(stream)->idle()) {
    move(WAY, to, from, bytes);
    return C_SUCCESS;
  }
  if (WAY == Way::to_device) {
    // the caller may free its buffer as soon as this returns (Paddle's numel does)
    note_copy_to_device(from, static_cast<int64_t>(bytes));
    const auto* start = static_cast<const char*>(from);
    auto snapshot = std::make_shared<std::vector<char>>(start, start + bytes);
    return enqueue(stream, [=] { move(Way::on_device, to, snapshot->data(), bytes); });
  }
  if (WAY == Way::to_host) note_copy_to_host(to, static_cast<int64_t>(bytes));
  const auto queued = enqueue(stream, [=] { move(Way::on_device, to, from, bytes); });
  if (WAY != Way::to_host || queued != C_SUCCESS) return queued;
  // to memory of the host that is not pinned a copy is complete when the call returns, as with CUDA: the caller
  // reads its buffer, or frees it
  return stream_of(stream)->synchronize() ? C_SUCCESS : refuse(stream_of(stream)->error());
}

C_Status queue_copy_peer(const C_Device to_device, const C_Device from_device, C_Stream stream, void* to,
                         const void* from, size_t bytes) {
  if (bytes == 0) return C_SUCCESS;
  const auto status = checked(Way::to_peer, to_device->id, from_device->id, to, from, bytes);
  if (status != C_SUCCESS) return status;
  // the stream belongs to one side only; what the other side has queued comes first
  const int other = stream_of(stream)->device() == to_device->id ? from_device->id : to_device->id;
  if (!drain(other)) return C_FAILED;
  const auto queued = enqueue(stream, [=] { move(Way::to_peer, to, from, bytes); });
  if (queued != C_SUCCESS) return queued;
  // Paddle queues it with the destination and may free the source at once; what the source's device does next in
  // that memory would not come after it
  return stream_of(stream)->synchronize() ? C_SUCCESS : refuse(stream_of(stream)->error());
}

C_Status statistics(const C_Device device, size_t* total, size_t* free) {
  const auto use = memory().use(device->id);
  *total = use.limit;
  *free = use.limit - use.current;
  return C_SUCCESS;
}

C_Status chunk(const C_Device, size_t* bytes) {
  *bytes = CHUNK_BYTES;
  return C_SUCCESS;
}

}  // namespace

void fill_memory(C_DeviceInterface* device) {
  device->device_memory_allocate = allocate;
  device->device_memory_deallocate = release;
  device->device_memory_set = set;
  device->host_memory_allocate = host_allocate;
  device->host_memory_deallocate = host_release;
  device->memory_copy_h2d = copy<Way::to_device>;
  device->memory_copy_d2h = copy<Way::to_host>;
  device->memory_copy_d2d = copy<Way::on_device>;
  device->memory_copy_p2p = copy_peer;
  device->async_memory_copy_h2d = queue_copy<Way::to_device>;
  device->async_memory_copy_d2h = queue_copy<Way::to_host>;
  device->async_memory_copy_d2d = queue_copy<Way::on_device>;
  device->async_memory_copy_p2p = queue_copy_peer;
  device->device_memory_stats = statistics;
  device->device_min_chunk_size = chunk;
}

}  // namespace mix::sim
