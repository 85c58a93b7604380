// Kernels of the device that are not simply the CPU's: the CPU refuses or does what no chip does.
#pragma once

#include <string>

#include "paddle/phi/common/data_type.h"

namespace mix::sim {

// What runs in the place of the CPU's kernel `cpu` of the same signature; `cpu` itself for most.
// `widened`: a kernel for a 16-bit type that computes in float32.
void* own_kernel(const std::string& name, phi::DataType type, bool widened, void* cpu);

// Whether a widened kernel cannot do what the chip's does, so that the device must not have it.
bool impossible(const std::string& name, bool widened);

}  // namespace mix::sim
