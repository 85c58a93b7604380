// The communicator with a C interface, for the tests that call it through ctypes. Not part of any built library.
#include <cstring>
#include <string>

#include "sim/collective.h"

namespace {

using mix::sim::Communicator;
using mix::sim::Dtype;
using mix::sim::Reduction;
using mix::sim::Transfer;

thread_local std::string last_error;

// 0, or 1 after an error that driver_error tells.
template <typename Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const mix::sim::CollectiveError& error) {
    last_error = error.what();
  }
  return 1;
}

Communicator& of(void* group) { return *static_cast<Communicator*>(group); }
Dtype dtype_of(int number) { return static_cast<Dtype>(number); }
Reduction reduction_of(int number) { return static_cast<Reduction>(number); }

}  // namespace

extern "C" {

const char* driver_error() { return last_error.c_str(); }

size_t driver_id_bytes() { return mix::sim::ID_BYTES; }

int driver_make_id(void* bytes) {
  return guarded([&] { mix::sim::make_id(bytes); });
}

int driver_join(const void* id, size_t rank, size_t ranks, double limit_s, void** group) {
  return guarded([&] { *group = Communicator::join(id, rank, ranks, limit_s).release(); });
}

void driver_leave(void* group) { delete static_cast<Communicator*>(group); }

const char* driver_transport(void* group) { return of(group).transport(); }

void driver_set_limit(void* group, double seconds) { of(group).set_limit(seconds); }

int driver_all_reduce(void* group, const void* send, void* recv, size_t count, int dtype, int reduction) {
  return guarded([&] { of(group).all_reduce(send, recv, count, dtype_of(dtype), reduction_of(reduction)); });
}

int driver_reduce(void* group, const void* send, void* recv, size_t count, int dtype, int reduction, size_t root) {
  return guarded([&] { of(group).reduce(send, recv, count, dtype_of(dtype), reduction_of(reduction), root); });
}

int driver_broadcast(void* group, void* buffer, size_t count, int dtype, size_t root) {
  return guarded([&] { of(group).broadcast(buffer, count, dtype_of(dtype), root); });
}

int driver_all_gather(void* group, const void* send, void* recv, size_t count, int dtype) {
  return guarded([&] { of(group).all_gather(send, recv, count, dtype_of(dtype)); });
}

int driver_reduce_scatter(void* group, const void* send, void* recv, size_t count, int dtype, int reduction) {
  return guarded([&] { of(group).reduce_scatter(send, recv, count, dtype_of(dtype), reduction_of(reduction)); });
}

int driver_all_to_all(void* group, const void* const* send, const size_t* send_counts, const Dtype* send_dtypes,
                      void* const* recv, const size_t* recv_counts, const Dtype* recv_dtypes) {
  return guarded(
      [&] { of(group).all_to_all(send, send_counts, send_dtypes, recv, recv_counts, recv_dtypes); });
}

int driver_run(void* group, size_t transfers, const int* is_send, void* const* buffers, const size_t* counts,
               const int* dtypes, const size_t* peers) {
  return guarded([&] {
    std::vector<Transfer> queued;
    for (size_t i = 0; i < transfers; ++i)
      queued.push_back({is_send[i] ? Transfer::Kind::send : Transfer::Kind::recv, buffers[i], counts[i],
                        dtype_of(dtypes[i]), peers[i]});
    of(group).run(queued);
  });
}

// "all_reduce 3 4096\n..." into text, cut at its size.
void driver_totals(void* group, char* text, size_t size) {
  std::string lines;
  for (const auto& [name, totals] : of(group).totals())
    lines += name + " " + std::to_string(totals.calls) + " " + std::to_string(totals.bytes) + "\n";
  std::strncpy(text, lines.c_str(), size - 1);
  text[size - 1] = '\0';
}

}  // extern "C"
