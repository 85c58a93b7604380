// Collectives as Paddle asks for them: queued on the stream, run by csrc/sim/collective.h on the host's view.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "sim/collective.h"
#include "sim/counters.h"
#include "sim/faults.h"
#include "sim/memory.h"
#include "sim/runtime.h"

struct C_CCLComm_st {
  std::unique_ptr<mix::sim::Communicator> communicator;
};

namespace mix::sim {

namespace {

// Sends and receives between group_start and group_end, which run together.
struct Queued {
  Transfer transfer;
  C_CCLComm comm;
  C_Stream stream;
};
thread_local int group_depth = 0;
thread_local std::vector<Queued> group;

template <typename T>
T* host(T* pointer) {
  return Memory::instance().host(pointer);
}

const char* const DTYPE_NAMES[] = {"undefined", "bool",  "uint8",   "uint16",  "uint32",  "uint64",   "int8",      "int16",
                                   "int32",     "int64", "float16", "float32", "float64", "bfloat16", "complex64", "complex128"};

// What a chip's collectives do not take, as its profile says.
C_Status refused(const char* operation, C_DataType type) {
  const std::string name = DTYPE_NAMES[static_cast<int>(type)];
  const auto& list = configuration().refused;
  if (("," + list + ",").find("," + name + ",") == std::string::npos) return C_SUCCESS;
  return refuse(std::string(operation) + " of " + name + " is not supported by this chip; cast to float32 or int32");
}

// Faults that concern a rank, at each of its collectives.
void suffer(const C_CCLComm comm) {
  auto& faults = Faults::instance();
  if (!faults.any()) return;
  const auto rank = static_cast<int64_t>(comm->communicator->rank());
  const auto is_own = [&](const Fault& fault) { return fault.number("rank", -1) == rank; };
  bool own_slow = false, own_dead = false;
  for (const auto& fault : faults.list()) {
    own_slow = own_slow || (fault.part == "rank" && fault.effect == "slow" && is_own(fault));
    own_dead = own_dead || (fault.part == "rank" && fault.effect == "dead" && is_own(fault));
  }
  if (own_slow)
    if (const auto slow = faults.hit("rank", "slow"))
      std::this_thread::sleep_for(std::chrono::milliseconds(slow->number("ms", 0)));
  if (own_dead && faults.hit("rank", "dead")) kill(getpid(), SIGKILL);
}

template <typename Work>
C_Status start(const char* operation, C_CCLComm comm, C_Stream stream, size_t bytes, Work work) {
  Counters::instance().collective(operation, static_cast<int64_t>(bytes));
  return enqueue(stream, [=] {
    suffer(comm);
    work(*comm->communicator);
  });
}

size_t bytes_of(size_t count, C_DataType type) { return count * size_of(static_cast<Dtype>(type)); }

C_Status id_size(size_t* size) {
  *size = ID_BYTES;
  return C_SUCCESS;
}

template <typename Work>
C_Status guarded(Work work) {
  if (forked()) return refuse(FORKED);
  try {
    work();
    return C_SUCCESS;
  } catch (const std::exception& error) {
    return refuse(error.what());
  }
}

C_Status get_id(C_CCLRootId* id) {
  return guarded([=] {
    std::memset(id->data, 0, id->sz);
    make_id(id->data);
  });
}

C_Status init_rank(size_t ranks, C_CCLRootId* id, size_t rank, C_CCLComm* comm) {
  return guarded([=] { *comm = new C_CCLComm_st{Communicator::join(id->data, rank, ranks)}; });
}

C_Status destroy(C_CCLComm comm) {
  if (!forked()) delete comm;
  return C_SUCCESS;
}

C_Status comm_name(C_CCLComm comm, char* name) {
  std::strcpy(name, comm->communicator->name().c_str());
  return C_SUCCESS;
}

C_Status all_reduce(void* send, void* recv, size_t count, C_DataType type, C_CCLReduceOp op, C_CCLComm comm,
                    C_Stream stream) {
  if (const auto status = refused("all_reduce", type)) return status;
  return start("all_reduce", comm, stream, bytes_of(count, type), [=](Communicator& ranks) {
    auto* result = host(static_cast<char*>(recv));
    ranks.all_reduce(host(send), result, count, static_cast<Dtype>(type), static_cast<Reduction>(op));
    if (count > 0 && Faults::instance().hit("all_reduce", "wrong"))
      result[bytes_of(count, type) - 1] = static_cast<char>(result[bytes_of(count, type) - 1] ^ 0x3f);
  });
}

C_Status broadcast(void* buffer, size_t count, C_DataType type, size_t root, C_CCLComm comm, C_Stream stream) {
  return start("broadcast", comm, stream, bytes_of(count, type), [=](Communicator& ranks) {
    ranks.broadcast(host(buffer), count, static_cast<Dtype>(type), root);
  });
}

C_Status reduce(void* send, void* recv, size_t count, C_DataType type, C_CCLReduceOp op, size_t root, C_CCLComm comm,
                C_Stream stream) {
  if (const auto status = refused("reduce", type)) return status;
  return start("reduce", comm, stream, bytes_of(count, type), [=](Communicator& ranks) {
    ranks.reduce(host(send), host(recv), count, static_cast<Dtype>(type), static_cast<Reduction>(op), root);
  });
}

C_Status all_gather(void* send, void* recv, size_t count, C_DataType type, C_CCLComm comm, C_Stream stream) {
  return start("all_gather", comm, stream, bytes_of(count, type), [=](Communicator& ranks) {
    ranks.all_gather(host(send), host(recv), count, static_cast<Dtype>(type));
  });
}

C_Status reduce_scatter(void* send, void* recv, size_t count, C_DataType type, C_CCLReduceOp op, C_CCLComm comm,
                        C_Stream stream) {
  if (const auto status = refused("reduce_scatter", type)) return status;
  return start("reduce_scatter", comm, stream, bytes_of(count, type), [=](Communicator& ranks) {
    ranks.reduce_scatter(host(send), host(recv), count, static_cast<Dtype>(type), static_cast<Reduction>(op));
  });
}

C_Status all_to_all(const void** send, const size_t* send_counts, const C_DataType* send_types, void** recv,
                    const size_t* recv_counts, const C_DataType* recv_types, size_t, size_t ranks_count, C_CCLComm comm,
                    C_Stream stream) {
  // the caller's arrays end with this call
  std::vector<const void*> from(send, send + ranks_count);
  std::vector<void*> to(recv, recv + ranks_count);
  std::vector<size_t> sent(send_counts, send_counts + ranks_count), received(recv_counts, recv_counts + ranks_count);
  std::vector<Dtype> send_dtypes, recv_dtypes;
  size_t bytes = 0;
  for (size_t i = 0; i < ranks_count; ++i) {
    from[i] = host(from[i]), to[i] = host(to[i]);
    send_dtypes.push_back(static_cast<Dtype>(send_types[i]));
    recv_dtypes.push_back(static_cast<Dtype>(recv_types[i]));
    bytes += bytes_of(sent[i], send_types[i]);
  }
  return start("all_to_all", comm, stream, bytes, [=](Communicator& ranks) {
    ranks.all_to_all(from.data(), sent.data(), send_dtypes.data(), to.data(), received.data(), recv_dtypes.data());
  });
}

C_Status transfer(Transfer::Kind kind, void* buffer, size_t count, C_DataType type, size_t peer, C_CCLComm comm,
                  C_Stream stream) {
  const Transfer one{kind, host(buffer), count, static_cast<Dtype>(type), peer};
  const char* name = kind == Transfer::Kind::send ? "send" : "recv";
  if (group_depth > 0) {
    Counters::instance().collective(name, static_cast<int64_t>(bytes_of(count, type)));
    group.push_back({one, comm, stream});
    return C_SUCCESS;
  }
  return start(name, comm, stream, bytes_of(count, type), [=](Communicator& ranks) { ranks.run({one}); });
}

C_Status send(void* buffer, size_t count, C_DataType type, size_t peer, C_CCLComm comm, C_Stream stream) {
  return transfer(Transfer::Kind::send, buffer, count, type, peer, comm, stream);
}

C_Status recv(void* buffer, size_t count, C_DataType type, size_t peer, C_CCLComm comm, C_Stream stream) {
  return transfer(Transfer::Kind::recv, buffer, count, type, peer, comm, stream);
}

C_Status group_start() {
  ++group_depth;
  return C_SUCCESS;
}

C_Status group_end() {
  if (group_depth == 0) return refuse("group_end without group_start");
  if (--group_depth > 0) return C_SUCCESS;
  std::map<std::pair<C_CCLComm, C_Stream>, std::vector<Transfer>> together;
  for (const auto& one : group) together[{one.comm, one.stream}].push_back(one.transfer);
  group.clear();
  for (const auto& [place, transfers] : together) {
    const auto comm = place.first;
    const auto queued = transfers;
    const auto status = enqueue(place.second, [=] {
      suffer(comm);
      comm->communicator->run(queued);
    });
    if (status != C_SUCCESS) return status;
  }
  return C_SUCCESS;
}

}  // namespace

void fill_collectives(C_DeviceInterface* device) {
  device->xccl_get_comm_name = comm_name;
  device->xccl_get_unique_id_size = id_size;
  device->xccl_get_unique_id = get_id;
  device->xccl_comm_init_rank = init_rank;
  device->xccl_destroy_comm = destroy;
  device->xccl_all_reduce = all_reduce;
  device->xccl_broadcast = broadcast;
  device->xccl_reduce = reduce;
  device->xccl_all_gather = all_gather;
  device->xccl_reduce_scatter = reduce_scatter;
  device->xccl_all_to_all = all_to_all;
  device->xccl_send = send;
  device->xccl_recv = recv;
  device->xccl_group_start = group_start;
  device->xccl_group_end = group_end;
}

}  // namespace mix::sim
