// The simulator's control from Python: module `libmix_sim`, the library that Paddle has loaded itself.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "paddle/phi/backends/context_pool.h"
#include "sim/checks.h"
#include "sim/counters.h"
#include "sim/faults.h"
#include "sim/host_context.h"
#include "sim/kernels.h"
#include "sim/memory.h"
#include "sim/runtime.h"

namespace py = pybind11;

namespace mix::sim {

namespace {

py::dict traffic(const std::map<std::string, Traffic>& table) {
  py::dict result;
  for (const auto& [name, entry] : table) result[name.c_str()] = py::dict(py::arg("calls") = entry.calls, py::arg("bytes") = entry.bytes);
  return result;
}

std::string dtype_name(phi::DataType type) { return phi::DataTypeToString(type); }

py::list kernel_rows() {
  py::list rows;
  for (const auto& entry : entries())
    if (entry->calls + entry->fallbacks > 0)
      rows.append(py::dict(py::arg("kernel") = entry->name, py::arg("dtype") = dtype_name(entry->dtype),
                           py::arg("calls") = entry->calls.load(), py::arg("bytes") = entry->bytes.load(),
                           py::arg("fallbacks") = entry->fallbacks.load(),
                           py::arg("bytes_in") = entry->bytes_in.load(),
                           py::arg("bytes_out") = entry->bytes_out.load()));
  return rows;
}

py::dict memory_row(int device) {
  const auto use = Memory::instance().use(device);
  return py::dict(py::arg("limit") = use.limit, py::arg("current") = use.current, py::arg("peak") = use.peak,
                  py::arg("allocations") = use.allocations);
}

void check_device(int device) {
  if (device < 0 || device >= configuration().devices)
    throw py::index_error("device " + std::to_string(device) + " of " + std::to_string(configuration().devices));
}

py::list fault_rows() {
  py::list rows;
  for (const auto& fault : Faults::instance().list())
    rows.append(py::dict(py::arg("fault") = fault.text, py::arg("calls") = fault.calls, py::arg("hits") = fault.hits));
  return rows;
}

void add_faults(const std::string& text) {
  auto& faults = Faults::instance();
  const auto before = faults.list().size();
  faults.add(text);
  const auto all = faults.list();
  for (size_t i = before; i < all.size(); ++i)
    if (all[i].part == "operator" && all[i].effect == "missing") set_missing(all[i].values.at("name"), true);
}

void clear_faults() {
  for (const auto& fault : Faults::instance().list())
    if (fault.part == "operator" && fault.effect == "missing") set_missing(fault.values.at("name"), false);
  Faults::instance().clear();
}

void reset() {
  Counters::instance().reset();
  reset_kernel_counters();
  for (int device = 0; device < configuration().devices; ++device) Memory::instance().reset_peak(device);
}

// For operators that Paddle does not choose as kernels: a device's come after what its own stream has queued, as
// kernels do. Collectives go on beside them.
void wait_for_stream_of(int device) {
  wait_for_stream(*phi::DeviceContextPool::Instance().Get(phi::CustomPlace(configuration().device_type, device)));
}

}  // namespace

PYBIND11_MODULE(libmix_sim, module) {
  module.doc() = "Control of the simulated device in this process.";
  module.def("kernels", kernel_rows, "Calls and fallbacks of every kernel that ran.");
  module.def("copies", [] { return traffic(Counters::instance().copies()); }, "Copies by direction.");
  module.def("collectives", [] { return traffic(Counters::instance().collectives()); }, "Collectives by name.");
  module.def("rejections", [] { return traffic(Counters::instance().rejections()); }, "Calls that were refused.");
  module.def("memory", [](int device) { check_device(device); return memory_row(device); }, py::arg("device"));
  module.def("set_memory_limit", [](int device, size_t bytes) { check_device(device); Memory::instance().set_limit(device, bytes); },
             py::arg("device"), py::arg("bytes"));
  module.def("add_faults", add_faults, py::arg("text"));
  module.def("clear_faults", clear_faults);
  module.def("faults", fault_rows, "Every fault with its calls and hits.");
  module.def("reset_counters", reset);
  module.def("device_type", [] { return configuration().device_type; });
  module.def("devices", [] { return configuration().devices; });
  module.def("check_copies", check_copies, "Wrong copies, and one that is right, by whether they succeed.");
  module.def("event_orders", event_orders, "Whether a stream that waits for an event comes after it.");
  module.def("versions", [] {
    return std::map<std::string, size_t>{
        {"driver", DRIVER_VERSION}, {"runtime", RUNTIME_VERSION}, {"compute_capability", COMPUTE_CAPABILITY}};
  });
  module.def("last_error", last_error, "The last line that the simulator refused a call with.");
  module.def("host_view", [] {
    const auto& memory = Memory::instance();
    return py::make_tuple(memory.base(), memory.size(), memory.delta(),
                          reinterpret_cast<uintptr_t>(&wait_for_stream_of));
  }, "(start, bytes, distance of the alias, address of a function that waits for a device's own stream)");
}

}  // namespace mix::sim
