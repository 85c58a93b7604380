// State that the parts of the runtime share: configuration, the current device, streams, and errors.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "paddle/phi/backends/device_ext.h"
#include "sim/stream.h"

namespace mix::sim {

struct Configuration {
  std::string device_type = "sim", table = "all", refused, faults;
  int devices = 1;
  size_t memory = size_t{4} << 30;  // bytes for each device
  bool protect = true;
};

// From the environment (MIX_SIM_*; mix_core/device/simulate.py writes it). Throws std::invalid_argument.
Configuration configuration_from_environment();
const Configuration& configuration();

// The version numbers that the simulator reports as its driver's and runtime's: major * 1000 + minor * 10.
constexpr size_t DRIVER_VERSION = 1000, RUNTIME_VERSION = 1000, COMPUTE_CAPABILITY = 10;

// Set in a child process that was forked after the device came into use; nothing of the device works there.
bool forked();
extern const char* const FORKED;  // what to say

// Print one line, `mix-sim: ...`, to standard error and remember it; the status says that a call was wrong.
C_Status refuse(const std::string& why);
std::string last_error();

inline Stream* stream_of(C_Stream stream) { return reinterpret_cast<Stream*>(stream); }
// Queue a task, with the faults of streams.
C_Status enqueue(C_Stream stream, std::function<void()> task, bool always = false);
// Wait for all streams of a device.
bool drain(int device);

void fill_runtime(C_DeviceInterface* device);
void fill_memory(C_DeviceInterface* device);
void fill_collectives(C_DeviceInterface* device);

}  // namespace mix::sim
