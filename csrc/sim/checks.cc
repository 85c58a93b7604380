#include "sim/checks.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "sim/runtime.h"

namespace mix::sim {

namespace {

// Long enough that a stream which does not wait comes before it on a busy machine too.
constexpr auto LATE = std::chrono::milliseconds(500);

const C_DeviceInterface& interface() {
  static const C_DeviceInterface filled = [] {
    C_DeviceInterface device{};
    fill_runtime(&device);
    fill_memory(&device);
    return device;
  }();
  return filled;
}

}  // namespace

std::map<std::string, bool> check_copies() {
  constexpr size_t BYTES = 1024;
  C_Device_st place{0};
  char host[2 * BYTES] = {};
  void* there = nullptr;
  interface().device_memory_allocate(&place, &there, BYTES);
  const auto works = [&](void* to, const void* from, size_t bytes) {
    return interface().memory_copy_h2d(&place, to, from, bytes) == C_SUCCESS;
  };
  std::map<std::string, bool> result;
  result["to_host_memory"] = works(host, host + BYTES, BYTES);
  result["from_device_memory"] = works(there, there, BYTES);
  result["past_the_end"] = works(there, host, BYTES + 1);
  result["right"] = works(there, host, BYTES);
  interface().device_memory_deallocate(&place, there, BYTES);
  result["freed"] = works(there, host, BYTES);
  return result;
}

bool event_orders() {
  C_Device_st place{0};
  C_Stream first = nullptr, second = nullptr;
  C_Event event = nullptr;
  interface().create_stream(&place, &first);
  interface().create_stream(&place, &second);
  interface().create_event(&place, &event);
  std::atomic<bool> done{false}, came_after{false};
  enqueue(second, [] {});
  interface().synchronize_stream(&place, second);  // its thread is there
  enqueue(first, [&] {
    std::this_thread::sleep_for(LATE);
    done = true;
  });
  interface().record_event(&place, first, event);
  interface().stream_wait_event(&place, second, event);
  enqueue(second, [&] { came_after = done.load(); });
  interface().synchronize_stream(&place, second);
  interface().synchronize_stream(&place, first);
  interface().destroy_event(&place, event);
  interface().destroy_stream(&place, first);
  interface().destroy_stream(&place, second);
  return came_after;
}

}  // namespace mix::sim
