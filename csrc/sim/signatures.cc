// Writes the signature of every CPU kernel of the Paddle in this process, one line a kernel:
//   name <tab> C++ parameter types after the context <tab> dtypes, as numbers of phi::DataType
// Built and run once when the simulator is built; mix_core.device.simulate_build makes wrappers from it.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "paddle/phi/core/kernel_factory.h"
#include "paddle/phi/core/kernel_registry.h"

namespace {

// The parameter type by which kernels take a tensor of this type, "" for what the simulator does not wrap.
std::string input_type(std::type_index type) {
  using phi::DenseTensor;
  if (type == std::type_index(typeid(const DenseTensor&))) return "const DenseTensor&";
  if (type == std::type_index(typeid(const paddle::optional<DenseTensor>&)))
    return "const paddle::optional<DenseTensor>&";
  if (type == std::type_index(typeid(const std::vector<const DenseTensor*>&)))
    return "const std::vector<const DenseTensor*>&";
  if (type == std::type_index(typeid(const paddle::optional<std::vector<const DenseTensor*>>&)))
    return "const paddle::optional<std::vector<const DenseTensor*>>&";
  // of any kind; add_n is the one kernel of these that models call
  if (type == std::type_index(typeid(const std::vector<const phi::TensorBase*>&)))
    return "const std::vector<const phi::TensorBase*>&";
  return "";
}

std::string output_type(std::type_index type) {
  if (type == std::type_index(typeid(phi::DenseTensor*))) return "DenseTensor*";
  if (type == std::type_index(typeid(std::vector<phi::DenseTensor*>))) return "std::vector<DenseTensor*>";
  return "";
}

std::string attribute_type(phi::AttributeType type) {
  switch (type) {
    case phi::AttributeType::BOOL: return "bool";
    case phi::AttributeType::INT32: return "int";
    case phi::AttributeType::INT64: return "int64_t";
    case phi::AttributeType::FLOAT32: return "float";
    case phi::AttributeType::FLOAT64: return "double";
    case phi::AttributeType::STRING: return "const std::string&";
    case phi::AttributeType::BOOLS: return "const std::vector<bool>&";
    case phi::AttributeType::INT32S: return "const std::vector<int>&";
    case phi::AttributeType::INT64S: return "const std::vector<int64_t>&";
    case phi::AttributeType::FLOAT32S: return "const std::vector<float>&";
    case phi::AttributeType::FLOAT64S: return "const std::vector<double>&";
    case phi::AttributeType::STRINGS: return "const std::vector<std::string>&";
    case phi::AttributeType::SCALAR: return "const phi::Scalar&";
    case phi::AttributeType::SCALARS: return "const std::vector<phi::Scalar>&";
    case phi::AttributeType::INT_ARRAY: return "const phi::IntArray&";
    case phi::AttributeType::DATA_TYPE: return "phi::DataType";
    case phi::AttributeType::DATA_LAYOUT: return "phi::DataLayout";
    case phi::AttributeType::PLACE: return "phi::Place";
    default: return "";
  }
}

// Comma-separated types, "" when one of them cannot be wrapped. Kernels take inputs, attributes, outputs.
std::string signature(const phi::KernelArgsDef& arguments) {
  std::vector<std::string> types;
  for (const auto& input : arguments.input_defs()) types.push_back(input_type(input.type_index));
  for (const auto& attribute : arguments.attribute_defs()) types.push_back(attribute_type(attribute.type_index));
  for (const auto& output : arguments.output_defs()) types.push_back(output_type(output.type_index));
  std::string joined;
  for (const auto& type : types) {
    if (type.empty()) return "";
    joined += (joined.empty() ? "" : ", ") + type;
  }
  return joined;
}

}  // namespace

extern "C" int mix_sim_write_signatures(const char* path) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) return 1;
  for (const auto& named : phi::KernelFactory::Instance().kernels()) {
    std::string types, dtypes;
    for (const auto& keyed : named.second) {
      const auto& kernel = keyed.second;
      if (keyed.first.backend() != phi::Backend::CPU || keyed.first.layout() != phi::DataLayout::ALL_LAYOUT ||
          kernel.GetKernelRegisteredType() != phi::KernelRegisteredType::FUNCTION)
        continue;
      types = signature(kernel.args_def());
      if (types.empty()) break;
      dtypes += (dtypes.empty() ? "" : " ") + std::to_string(static_cast<int>(keyed.first.dtype()));
    }
    if (!types.empty()) std::fprintf(file, "%s\t%s\t%s\n", named.first.c_str(), types.c_str(), dtypes.c_str());
  }
  return std::fclose(file);
}
