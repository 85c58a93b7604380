// Devices, streams, events and what the simulator says of itself.
#include "sim/runtime.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "paddle/phi/backends/device_base.h"
#include "sim/faults.h"
#include "sim/memory.h"

namespace mix::sim {

const char* const FORKED =
    "this process was forked after the simulated device came into use and cannot use it; start processes with the "
    "'spawn' method";

namespace {

thread_local int current_device = 0;
std::atomic<bool> in_forked_child{false};
std::mutex mutex;
std::string error_seen;

std::set<Stream*>& streams() {
  static auto* all = new std::set<Stream*>;
  return *all;
}

bool exists(int device) { return device >= 0 && device < configuration().devices; }

C_Status initialize() {
  static const bool once = [] {
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
    return true;
  }();
  (void)once;
  return C_SUCCESS;
}

C_Status finalize() { return C_SUCCESS; }

C_Status check(const C_Device device) {
  if (forked()) return refuse(FORKED);
  if (exists(device->id)) return C_SUCCESS;
  return refuse("device " + std::to_string(device->id) + " was asked for; there are " +
                std::to_string(configuration().devices));
}

C_Status set_device(const C_Device device) {
  const auto status = check(device);
  if (status == C_SUCCESS) current_device = device->id;
  return status;
}

C_Status get_device(const C_Device device) {
  device->id = current_device;
  return C_SUCCESS;
}

C_Status deinit_device(const C_Device) { return C_SUCCESS; }

C_Status create_stream(const C_Device device, C_Stream* stream) {
  const auto status = check(device);
  if (status != C_SUCCESS) return status;
  auto* made = new Stream(device->id);
  std::lock_guard<std::mutex> lock(mutex);
  streams().insert(made);
  *stream = reinterpret_cast<C_Stream>(made);
  return C_SUCCESS;
}

C_Status destroy_stream(const C_Device, C_Stream stream) {
  if (forked()) return C_SUCCESS;
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (streams().erase(stream_of(stream)) == 0) return refuse("a stream was destroyed that is not there");
  }
  delete stream_of(stream);
  return C_SUCCESS;
}

C_Status query_stream(const C_Device, C_Stream stream) {
  return stream_of(stream)->idle() ? C_SUCCESS : C_FAILED;
}

C_Status synchronize_stream(const C_Device, C_Stream stream) {
  if (forked()) return refuse(FORKED);
  return stream_of(stream)->synchronize() ? C_SUCCESS : refuse(stream_of(stream)->error());
}

C_Status synchronize_device(const C_Device device) {
  if (forked()) return refuse(FORKED);
  return drain(device->id) ? C_SUCCESS : C_FAILED;
}

C_Status add_callback(const C_Device device, C_Stream stream, C_Callback callback, void* data) {
  const int id = device->id;
  return enqueue(stream, [=] {
    C_Device_st place{id};
    C_Status status = C_SUCCESS;
    callback(&place, stream, data, &status);
    if (status != C_SUCCESS) throw std::runtime_error("a stream's callback failed");
  });
}

// Streams share an event: Paddle destroys it while another stream has yet to wait for it.
using SharedEvent = std::shared_ptr<Event>;
SharedEvent& event_of(C_Event event) { return *reinterpret_cast<SharedEvent*>(event); }

C_Status create_event(const C_Device device, C_Event* event) {
  const auto status = check(device);
  if (status == C_SUCCESS) *event = reinterpret_cast<C_Event>(new SharedEvent(std::make_shared<Event>()));
  return status;
}

C_Status destroy_event(const C_Device, C_Event event) {
  delete reinterpret_cast<SharedEvent*>(event);
  return C_SUCCESS;
}

C_Status record_event(const C_Device, C_Stream stream, C_Event event) {
  if (Faults::instance().hit("event", "drop")) return C_SUCCESS;
  const auto shared = event_of(event);
  const uint64_t ticket = shared->record();
  return enqueue(stream, [=] { shared->reach(ticket); }, true);
}

C_Status query_event(const C_Device, C_Event event) {
  return event_of(event)->reached() ? C_SUCCESS : C_FAILED;
}

C_Status synchronize_event(const C_Device, C_Event event) {
  event_of(event)->wait();
  return C_SUCCESS;
}

C_Status stream_wait_event(const C_Device, C_Stream stream, C_Event event) {
  const auto shared = event_of(event);
  if (shared->reached()) return C_SUCCESS;
  return enqueue(stream, [shared, ticket = shared->recorded()] { shared->wait(ticket); });
}

C_Status device_count(size_t* count) {
  *count = static_cast<size_t>(configuration().devices);
  return C_SUCCESS;
}

C_Status device_list(size_t* ids) {
  for (int id = 0; id < configuration().devices; ++id) ids[id] = static_cast<size_t>(id);
  return C_SUCCESS;
}

template <size_t VALUE>
C_Status constant(const C_Device, size_t* value) {
  *value = VALUE;
  return C_SUCCESS;
}

C_Status yes(const C_Device, bool* supported) {
  *supported = true;
  return C_SUCCESS;
}

C_Status no(const C_Device, bool* supported) {
  *supported = false;
  return C_SUCCESS;
}

C_Status properties(const C_Device device, void* filled) {
  auto* about = static_cast<phi::DeviceProp*>(filled);
  about->name = configuration().device_type + " (simulated)";
  about->deviceMajor = 1;
  about->totalGlobalMem = Memory::instance().use(device->id).limit;
  about->multiProcessorCount = 1;
  return C_SUCCESS;
}

}  // namespace

bool forked() { return in_forked_child.load(std::memory_order_relaxed); }

C_Status refuse(const std::string& why) {
  std::lock_guard<std::mutex> lock(mutex);
  if (why != error_seen) std::fprintf(stderr, "mix-sim: %s\n", why.c_str());
  error_seen = why;
  return C_ERROR;
}

std::string last_error() {
  std::lock_guard<std::mutex> lock(mutex);
  return error_seen;
}

C_Status enqueue(C_Stream stream, std::function<void()> task, bool always) {
  if (forked()) return refuse(FORKED);
  if (const auto stall = Faults::instance().hit("stream", "stall")) {
    const auto wait = std::chrono::milliseconds(stall->number("ms", 0));
    stream_of(stream)->submit([wait] { std::this_thread::sleep_for(wait); });
  }
  stream_of(stream)->submit(std::move(task), always);
  return C_SUCCESS;
}

bool drain(int device) {
  std::vector<Stream*> own;
  {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto* stream : streams())
      if (stream->device() == device && (!stream->idle() || stream->failed())) own.push_back(stream);
  }
  bool fine = true;
  for (auto* stream : own)
    if (!stream->synchronize()) fine = (refuse(stream->error()), false);
  return fine;
}

void fill_runtime(C_DeviceInterface* device) {
  device->initialize = initialize;
  device->finalize = finalize;
  device->init_device = check;
  device->deinit_device = deinit_device;
  device->set_device = set_device;
  device->get_device = get_device;
  device->create_stream = create_stream;
  device->destroy_stream = destroy_stream;
  device->query_stream = query_stream;
  device->stream_add_callback = add_callback;
  device->synchronize_stream = synchronize_stream;
  device->synchronize_device = synchronize_device;
  device->create_event = create_event;
  device->destroy_event = destroy_event;
  device->record_event = record_event;
  device->query_event = query_event;
  device->synchronize_event = synchronize_event;
  device->stream_wait_event = stream_wait_event;
  device->get_device_count = device_count;
  device->get_device_list = device_list;
  device->get_compute_capability = constant<COMPUTE_CAPABILITY>;
  device->get_runtime_version = constant<RUNTIME_VERSION>;
  device->get_driver_version = constant<DRIVER_VERSION>;
  device->get_multi_process = constant<1>;
  device->get_max_threads_per_mp = constant<1>;
  device->get_max_threads_per_block = constant<1>;
  device->is_float16_supported = yes;
  device->is_bfloat16_supported = yes;
  device->is_dnn_supported = no;
  device->get_device_properties = properties;
}

}  // namespace mix::sim
