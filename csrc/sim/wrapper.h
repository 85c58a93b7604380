// What generated code instantiates: one Bind for every kernel and dtype.
#pragma once

#include "paddle/phi/backends/custom/custom_context.h"
#include "paddle/phi/common/int_array.h"
#include "paddle/phi/common/scalar.h"
#include "paddle/phi/core/kernel_registry.h"
#include "sim/kernels.h"

namespace mix::sim {

// The entry of the call that a KernelContext is being unpacked for.
inline thread_local Entry* unpacked_entry = nullptr;

template <typename D>
struct FromContext;
template <typename... A>
struct FromContext<Delegate<A...>> {
  static void run(const phi::CustomContext& context, A... arguments) {
    Delegate<A...>::run(*unpacked_entry, context, std::forward<A>(arguments)...);
  }
  static void unpack(phi::KernelContext* context) {
    phi::KernelImpl<decltype(&run), &run>::Compute(context);
  }
};

template <typename D, int NUMBER>
struct Bind;
template <typename... A, int NUMBER>
struct Bind<Delegate<A...>, NUMBER> {
  static inline Entry* entry = nullptr;

  static void variadic(const phi::DeviceContext& context, A... arguments) {
    Delegate<A...>::run(*entry, context, std::forward<A>(arguments)...);
  }
  static void from_context(phi::KernelContext* context) {
    unpacked_entry = entry;
    FromContext<Delegate<A...>>::unpack(context);
  }
  static Wrapper wrapper(const char* name, int dtype) {
    return {name, static_cast<phi::DataType>(dtype), &from_context, reinterpret_cast<void*>(&variadic), &entry};
  }
};

}  // namespace mix::sim
