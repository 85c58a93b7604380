// Where Paddle comes in: the configuration is read, the device described and its kernels registered.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "sim/faults.h"
#include "sim/kernels.h"
#include "sim/memory.h"
#include "sim/report.h"
#include "sim/runtime.h"

namespace mix::sim {

namespace {

Configuration& chosen() {
  static auto* configuration = new Configuration;
  return *configuration;
}

std::string text_of(const char* name, const std::string& missing) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? missing : value;
}

size_t number_of(const char* name, size_t missing, size_t least, size_t most) {
  const auto text = text_of(name, std::to_string(missing));
  char* end = nullptr;
  const auto number = std::strtoull(text.c_str(), &end, 10);
  if (*end != '\0' || number < least || number > most)
    throw std::invalid_argument(std::string(name) + " must be a number from " + std::to_string(least) + " to " +
                                std::to_string(most) + ", not '" + text + "'");
  return number;
}

phi::DataType dtype_of(const std::string& name) {
  using phi::DataType;
  static const std::map<std::string, DataType> known = {
      {"bool", DataType::BOOL},         {"uint8", DataType::UINT8},         {"int8", DataType::INT8},
      {"uint16", DataType::UINT16},     {"int16", DataType::INT16},         {"uint32", DataType::UINT32},
      {"int32", DataType::INT32},       {"uint64", DataType::UINT64},       {"int64", DataType::INT64},
      {"float16", DataType::FLOAT16},   {"float32", DataType::FLOAT32},     {"float64", DataType::FLOAT64},
      {"bfloat16", DataType::BFLOAT16}, {"complex64", DataType::COMPLEX64}, {"complex128", DataType::COMPLEX128},
  };
  const auto found = known.find(name);
  if (found == known.end()) throw std::invalid_argument("the operator table has an unknown dtype '" + name + "'");
  return found->second;
}

// One kernel a line: its name, then its dtypes.
Table read_table(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::invalid_argument("the operator table " + path + " cannot be read");
  Table table;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name, dtype;
    if (!(words >> name)) continue;
    auto& dtypes = table[name];
    while (words >> dtype) dtypes.push_back(dtype_of(dtype));
  }
  return table;
}

struct sigaction before;

// A host access to device memory: say what it was, then let the process end as it would have.
void explain_fault(int signal, siginfo_t* about, void* context) {
  if (Memory::instance().touches(about->si_addr, 1)) {
    const char text[] = "mix-sim: the host touched memory of the simulated device; on a chip this fails too. Copy with "
                        ".numpy() or .cpu() first; MIX_SIM_PROTECT=0 turns the protection off\n";
    if (write(2, text, sizeof text - 1) < 0) _exit(128 + signal);
  }
  if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction != nullptr) return before.sa_sigaction(signal, about, context);
  sigaction(signal, &before, nullptr);
}

void explain_host_access() {
  struct sigaction action {};
  action.sa_sigaction = explain_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &before);
}

}  // namespace

const Configuration& configuration() { return chosen(); }

Configuration configuration_from_environment() {
  Configuration found;
  found.device_type = text_of("MIX_SIM_TYPE", found.device_type);
  found.devices = static_cast<int>(number_of("MIX_SIM_DEVICES", 1, 1, MAX_DEVICES));
  found.memory = number_of("MIX_SIM_BYTES", found.memory, 1 << 20, size_t{1} << 42);
  found.protect = number_of("MIX_SIM_PROTECT", 1, 0, 1) == 1;
  found.table = text_of("MIX_SIM_OPERATORS", found.table);
  found.refused = text_of("MIX_SIM_REFUSED", "");
  found.faults = text_of("MIX_SIM_FAULTS", "");
  return found;
}

// Everything of the device that must stand before Paddle uses it.
void start(CustomRuntimeParams* params) {
  chosen() = configuration_from_environment();
  const auto& own = configuration();
  Memory::instance().open(own.devices, own.memory, own.protect);
  Faults::instance().add(own.faults);
  params->device_type = const_cast<char*>(own.device_type.c_str());
  params->sub_device_type = const_cast<char*>("mix-sim");
  std::memset(static_cast<void*>(params->interface), 0, sizeof(C_DeviceInterface));
  params->interface->size = sizeof(C_DeviceInterface);
  fill_runtime(params->interface);
  fill_memory(params->interface);
  fill_collectives(params->interface);
  const bool all = own.table == "all";
  register_kernels(own.device_type, all ? Table() : read_table(own.table), all);
  for (const auto& fault : Faults::instance().list())
    if (fault.part == "operator" && fault.effect == "missing") set_missing(fault.values.at("name"), true);
  if (own.protect) explain_host_access();
  report_at_exit(text_of("MIX_SIM_REPORT", "0") != "0", text_of("MIX_SIM_COUNTERS", ""));
}

}  // namespace mix::sim

extern "C" void InitPlugin(CustomRuntimeParams* params) {
  PADDLE_CUSTOM_RUNTIME_CHECK_VERSION(params);
  mix::sim::start(params);
}
