// The smallest runtime library that Paddle loads as a custom device: two devices that share the host's memory and
// do everything at once. It has no kernels, so that every operator falls back to the CPU.
#include <cstdlib>
#include <cstring>

#include "paddle/phi/backends/device_ext.h"

namespace {

thread_local int current = 0;

C_Status done() { return C_SUCCESS; }
C_Status device_done(const C_Device) { return C_SUCCESS; }
C_Status stream_done(const C_Device, C_Stream) { return C_SUCCESS; }
C_Status event_done(const C_Device, C_Event) { return C_SUCCESS; }
C_Status both_done(const C_Device, C_Stream, C_Event) { return C_SUCCESS; }

C_Status set_device(const C_Device device) {
  current = device->id;
  return C_SUCCESS;
}

C_Status get_device(const C_Device device) {
  device->id = current;
  return C_SUCCESS;
}

C_Status count(size_t* number) {
  *number = 2;
  return C_SUCCESS;
}

C_Status list(size_t* ids) {
  ids[0] = 0;
  ids[1] = 1;
  return C_SUCCESS;
}

C_Status make_stream(const C_Device, C_Stream* stream) {
  *stream = static_cast<C_Stream>(std::malloc(1));
  return C_SUCCESS;
}

C_Status make_event(const C_Device, C_Event* event) {
  *event = static_cast<C_Event>(std::malloc(1));
  return C_SUCCESS;
}

C_Status free_stream(const C_Device, C_Stream stream) {
  std::free(stream);
  return C_SUCCESS;
}

C_Status free_event(const C_Device, C_Event event) {
  std::free(event);
  return C_SUCCESS;
}

C_Status copy(const C_Device, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status copy_on(const C_Device, C_Stream, void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status allocate(const C_Device, void** pointer, size_t bytes) {
  *pointer = std::malloc(bytes);
  return C_SUCCESS;
}

C_Status release(const C_Device, void* pointer, size_t) {
  std::free(pointer);
  return C_SUCCESS;
}

C_Status memory(const C_Device, size_t* total, size_t* free) {
  *total = *free = size_t{1} << 30;
  return C_SUCCESS;
}

C_Status chunk(const C_Device, size_t* bytes) {
  *bytes = 512;
  return C_SUCCESS;
}

}  // namespace

extern "C" void InitPlugin(CustomRuntimeParams* params) {
  PADDLE_CUSTOM_RUNTIME_CHECK_VERSION(params);
  params->device_type = const_cast<char*>("pocket");
  params->sub_device_type = const_cast<char*>("1");
  C_DeviceInterface* device = params->interface;
  std::memset(static_cast<void*>(device), 0, sizeof(*device));
  device->initialize = device->finalize = done;
  device->init_device = device->deinit_device = device->synchronize_device = device_done;
  device->set_device = set_device;
  device->get_device = get_device;
  device->get_device_count = count;
  device->get_device_list = list;
  device->create_stream = make_stream;
  device->destroy_stream = free_stream;
  device->synchronize_stream = stream_done;
  device->create_event = make_event;
  device->destroy_event = free_event;
  device->synchronize_event = event_done;
  device->record_event = device->stream_wait_event = both_done;
  device->memory_copy_h2d = device->memory_copy_d2d = device->memory_copy_d2h = copy;
  device->async_memory_copy_h2d = device->async_memory_copy_d2d = device->async_memory_copy_d2h = copy_on;
  device->device_memory_allocate = device->host_memory_allocate = allocate;
  device->device_memory_deallocate = device->host_memory_deallocate = release;
  device->device_memory_stats = memory;
  device->device_min_chunk_size = chunk;
}
