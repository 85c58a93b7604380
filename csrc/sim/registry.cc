// Which of the CPU's kernels the device has: the chip's table, and kernels taken away on demand.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>
#include <unordered_map>

#include "paddle/phi/common/place.h"
#include "sim/kernels.h"
#include "sim/own_kernels.h"

namespace mix::sim {

namespace {

using phi::DataType;

// Kernels that only move numbers: what the CPU has for 16-bit types is exact. The others are widened.
const std::set<std::string>& movers() {
  static const std::set<std::string> names = {
      "as_complex",     "assign",        "assign_value",  "broadcast_tensors", "cast",          "concat",
      "contiguous",     "crop",          "diagonal",      "empty",             "empty_like",    "expand",
      "expand_as",      "fill",          "flatten",       "flip",              "full",          "full_batch_size_like",
      "full_like",      "gather",        "gather_nd",     "index_sample",      "index_select",  "meshgrid",
      "pad",            "pad3d",         "repeat_interleave", "reshape",       "reverse",       "roll",
      "set_value",      "set_value_with_tensor", "shape", "shape64",           "share_data",    "slice",
      "split",          "split_with_num", "squeeze",      "stack",             "strided_copy",  "strided_slice",
      "tile",           "transpose",     "tril",          "triu",              "unbind",        "unsqueeze",
      "unstack",        "where",         "view_shape",    "view_dtype",
  };
  return names;
}

// What Paddle itself calls where tensors are views. Tables of operators, made from lists of models' operators, may
// lack them although the chip's library has them.
const std::set<std::string>& for_views() {
  static const std::set<std::string> names = {"contiguous", "strided_copy"};
  return names;
}

// Collectives called as kernels. The CPU's refuse or want a transport of the CPU's; Paddle has one for every custom
// device, over the device's own collectives, and that one stays.
const std::set<std::string>& collectives() {
  static const std::set<std::string> names = {
      "all_gather",       "all_reduce",      "all_to_all",      "barrier",       "broadcast",      "c_allreduce_max",
      "c_allreduce_min",  "c_allreduce_prod", "c_allreduce_sum", "c_broadcast",  "c_concat",       "c_scatter",
      "c_softmax_with_cross_entropy", "c_softmax_with_cross_entropy_grad",
      "c_softmax_with_multi_label_cross_entropy", "c_split", "c_sync_calc_stream", "c_sync_comm_stream",
      "global_gather",    "global_scatter",  "mp_allreduce_sum", "p_recv",       "p_recv_array",   "p_send",
      "p_send_array",     "partial_allgather", "partial_recv",  "partial_send",  "recv_v2",        "reduce",
      "reduce_scatter",   "send_v2",
  };
  return names;
}

bool is_half(DataType type) { return type == DataType::BFLOAT16 || type == DataType::FLOAT16; }

phi::Backend backend_of(const std::string& device_type) {
  const auto id = phi::CustomRegisteredDeviceMap::Instance().GetOrRegisterGlobalDeviceTypeId(device_type);
  return static_cast<phi::Backend>(static_cast<size_t>(phi::Backend::NUM_BACKENDS) + id);
}

phi::KernelKey key_of(phi::Backend backend, DataType dtype) {
  return {backend, phi::DataLayout::ALL_LAYOUT, dtype};
}

phi::Kernel* find(const std::string& name, const phi::KernelKey& key) {
  auto& all = phi::KernelFactory::Instance().kernels();
  const auto named = all.find(name);
  if (named == all.end()) return nullptr;
  const auto found = named->second.find(key);
  return found == named->second.end() ? nullptr : &found->second;
}

// A kernel like `model` whose function is the wrapper's, for a backend and a dtype.
phi::Kernel wrapped(const phi::Kernel& model, const Wrapper& wrapper, phi::Backend from, phi::Backend to,
                    DataType model_dtype) {
  phi::Kernel kernel(wrapper.from_context, wrapper.variadic);
  *kernel.mutable_args_def() = model.args_def();
  kernel.get_kerneltype_forvar_fn_ = model.get_kerneltype_forvar_fn_;
  const auto adapt = [&](auto& definitions) {
    for (auto& definition : definitions) {
      if (definition.backend == from) definition.SetBackend(to);
      if (definition.dtype == model_dtype) definition.SetDataType(wrapper.dtype);
    }
  };
  adapt(kernel.mutable_args_def()->input_defs());
  adapt(kernel.mutable_args_def()->output_defs());
  return kernel;
}

std::vector<std::unique_ptr<Entry>>& all_entries() {
  static auto* entries = new std::vector<std::unique_ptr<Entry>>;
  return *entries;
}

struct Taken {
  std::string name;
  phi::KernelKey key;
  phi::Kernel kernel;
};

std::mutex mutex;
phi::Backend device_backend = phi::Backend::UNDEFINED;
std::vector<Taken>& taken() {
  static auto* kernels = new std::vector<Taken>;
  return *kernels;
}

}  // namespace

std::vector<Wrapper>& wrappers() {
  static auto* all = new std::vector<Wrapper>;
  return *all;
}

const std::vector<std::unique_ptr<Entry>>& entries() { return all_entries(); }

void reset_kernel_counters() {
  for (auto& entry : all_entries()) entry->calls = entry->bytes = entry->fallbacks = entry->bytes_in = entry->bytes_out = 0;
}

Registered register_kernels(const std::string& device_type, const Table& table, bool all) {
  std::lock_guard<std::mutex> lock(mutex);
  Registered done;
  device_backend = backend_of(device_type);
  std::set<std::string> known;
  std::vector<std::pair<const Wrapper*, phi::Kernel>> to_device, to_host;
  for (const auto& wrapper : wrappers()) {
    known.insert(wrapper.name);
    if (collectives().count(wrapper.name) != 0) continue;
    const auto* own = find(wrapper.name, key_of(phi::Backend::CPU, wrapper.dtype));
    const auto* wide =
        is_half(wrapper.dtype) ? find(wrapper.name, key_of(phi::Backend::CPU, DataType::FLOAT32)) : nullptr;
    const bool widened = wide != nullptr && (own == nullptr || movers().count(wrapper.name) == 0);
    const auto* model = widened ? wide : own;
    if (model == nullptr || impossible(wrapper.name, widened)) continue;
    auto entry = std::make_unique<Entry>();
    entry->name = wrapper.name;
    entry->dtype = wrapper.dtype;
    entry->widened = widened;
    entry->cpu = own_kernel(wrapper.name, wrapper.dtype, widened, model->GetVariadicKernelFn<void*>());
    entry->host = own == nullptr ? nullptr : own->GetVariadicKernelFn<void*>();
    *wrapper.entry = entry.get();
    const auto row = table.find(wrapper.name);
    const bool listed = all || for_views().count(wrapper.name) != 0 || (row != table.end() && std::find(row->second.begin(), row->second.end(),
                                                                 wrapper.dtype) != row->second.end());
    const auto model_dtype = widened ? DataType::FLOAT32 : wrapper.dtype;
    if (listed)
      to_device.emplace_back(&wrapper, wrapped(*model, wrapper, phi::Backend::CPU, device_backend, model_dtype));
    if (own != nullptr)  // the CPU's own, so that what falls back to it is counted
      to_host.emplace_back(&wrapper, wrapped(*own, wrapper, phi::Backend::CPU, phi::Backend::CPU, wrapper.dtype));
    all_entries().push_back(std::move(entry));
  }
  auto& kernels = phi::KernelFactory::Instance().kernels();
  for (auto& [wrapper, kernel] : to_device) kernels[wrapper->name][key_of(device_backend, wrapper->dtype)] = kernel;
  for (auto& [wrapper, kernel] : to_host)
    kernels[wrapper->name][key_of(phi::Backend::CPU, wrapper->dtype)] = kernel;
  done.kernels = static_cast<int64_t>(to_device.size());
  for (const auto& row : table)
    if (known.count(row.first) == 0) done.unknown.push_back(row.first);
  return done;
}

bool set_missing(const std::string& name, bool missing) {
  std::lock_guard<std::mutex> lock(mutex);
  auto& kernels = phi::KernelFactory::Instance().kernels();
  bool found = false;
  if (!missing) {
    for (auto& one : taken())
      if (one.name == name) kernels[name][one.key] = one.kernel, found = true;
    taken().erase(std::remove_if(taken().begin(), taken().end(), [&](const Taken& one) { return one.name == name; }),
                  taken().end());
    return found;
  }
  const auto named = kernels.find(name);
  if (named == kernels.end()) return false;
  std::vector<phi::KernelKey> keys;
  for (auto& keyed : named->second)
    if (keyed.first.backend() == device_backend) keys.push_back(keyed.first);
  for (const auto& key : keys) {
    taken().push_back({name, key, named->second[key]});
    named->second.erase(key);
  }
  return !keys.empty();
}

}  // namespace mix::sim
