#include "sim/own_kernels.h"

#include <cstring>
#include <tuple>

#include "paddle/phi/backends/cpu/cpu_context.h"
#include "paddle/phi/kernels/adagrad_kernel.h"
#include "paddle/phi/kernels/adam_kernel.h"
#include "paddle/phi/kernels/adamax_kernel.h"
#include "paddle/phi/kernels/adamw_kernel.h"
#include "paddle/phi/kernels/lamb_kernel.h"
#include "paddle/phi/kernels/momentum_kernel.h"
#include "paddle/phi/kernels/rmsprop_kernel.h"
#include "paddle/phi/kernels/sgd_kernel.h"

namespace mix::sim {

namespace {

using phi::DataType;
using phi::DenseTensor;

// The forward half of a collective whose backward sums: a copy, which the CPU's kernel refuses to make.
void identity(const phi::DeviceContext& context, const DenseTensor& x, int, bool, bool, DenseTensor* out) {
  out->Resize(x.dims());
  context.Alloc(out, x.dtype());
  if (x.numel() > 0) std::memcpy(out->data(), x.data(), x.numel() * phi::SizeOf(x.dtype()));
}

// A row of zeros for an index out of range, as Paddle's loss over a cut vocabulary needs it of a custom device for
// labels of other ranks; the CPU's kernel refuses.
template <typename T>
void one_hot(const phi::DeviceContext& context, const DenseTensor& x, const phi::Scalar& classes, DenseTensor* out) {
  const auto depth = classes.to<int64_t>();
  auto dims = out->dims();
  dims[dims.size() - 1] = depth;
  out->Resize(dims);
  auto* row = static_cast<float*>(context.Alloc(out, DataType::FLOAT32));
  std::memset(row, 0, out->numel() * sizeof(float));
  const auto* indices = x.data<T>();
  for (int64_t i = 0; i < x.numel(); ++i, row += depth)
    if (indices[i] >= 0 && indices[i] < depth) row[indices[i]] = 1.0f;
}

template <typename First, typename... Rest>
DenseTensor* first_output(First first, Rest... rest) {
  if constexpr (std::is_same_v<First, DenseTensor*>)
    return first;
  else
    return first_output<Rest...>(rest...);
}

// An optimizer's step on the float32 master weight of a 16-bit parameter. The CPU's kernels know no master weights
// and would start from the rounded parameter. MASTER: which argument after the context is the master weight.
template <typename Function, size_t MASTER>
struct OnMaster;
template <typename Context, typename... A, size_t MASTER>
struct OnMaster<void(const Context&, A...), MASTER> {
  using Kernel = void (*)(const phi::DeviceContext&, A...);
  static inline Kernel cpu = nullptr;

  static void run(const phi::DeviceContext& context, A... arguments) {
    const auto all = std::tie(arguments...);
    const paddle::optional<DenseTensor>& master = std::get<MASTER>(all);
    if (!master) return cpu(context, arguments...);
    step(context, *master, arguments...);
    // both are float32 here: the parameter is rounded when it is taken back
    const DenseTensor* stepped = first_output<A...>(arguments...);
    DenseTensor* master_out = std::get<sizeof...(A) - 1>(all);
    context.Alloc(master_out, DataType::FLOAT32);
    std::memcpy(master_out->data(), stepped->data(), stepped->numel() * sizeof(float));
  }

 private:
  template <typename Parameter, typename... Rest>
  static void step(const phi::DeviceContext& context, const DenseTensor& master, const Parameter&, Rest&... rest) {
    cpu(context, master, rest...);
  }
};

template <size_t MASTER, typename Context, typename... A>
void* on_master(void (*)(const Context&, A...), void* cpu) {
  using Step = OnMaster<void(const Context&, A...), MASTER>;
  Step::cpu = reinterpret_cast<typename Step::Kernel>(cpu);
  return reinterpret_cast<void*>(&Step::run);
}

void* optimizer(const std::string& name, void* cpu) {
  using C = phi::CPUContext;
  if (name == "adam") return on_master<8>(&phi::AdamDenseKernel<float, C>, cpu);
  if (name == "adamw") return on_master<8>(&phi::AdamwDenseKernel<float, C>, cpu);
  if (name == "adamax") return on_master<6>(&phi::AdamaxKernel<float, C>, cpu);
  if (name == "adagrad") return on_master<4>(&phi::AdagradDenseKernel<float, C>, cpu);
  if (name == "lamb") return on_master<7>(&phi::LambKernel<float, C>, cpu);
  if (name == "momentum") return on_master<4>(&phi::MomentumDenseKernel<float, C>, cpu);
  if (name == "rmsprop") return on_master<6>(&phi::RmspropDenseKernel<float, C>, cpu);
  if (name == "sgd") return on_master<3>(&phi::SGDDenseKernel<float, C>, cpu);
  return cpu;
}

}  // namespace

void* own_kernel(const std::string& name, DataType type, bool widened, void* cpu) {
  if (name == "c_identity") return reinterpret_cast<void*>(&identity);
  if (name == "one_hot" && type == DataType::INT32) return reinterpret_cast<void*>(&one_hot<int32_t>);
  if (name == "one_hot" && type == DataType::INT64) return reinterpret_cast<void*>(&one_hot<int64_t>);
  return widened ? optimizer(name, cpu) : cpu;
}

bool impossible(const std::string& name, bool widened) {
  return widened && (name == "merged_adam" || name == "merged_momentum");
}

}  // namespace mix::sim
