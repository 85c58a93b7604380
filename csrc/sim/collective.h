// Collectives between the processes of a simulated device: what the vendor's collective library is to a chip.
//
// Free of Paddle; buffers are ordinary host pointers. Every collective is called by all ranks in the same order.
// Calls of several threads are safe, but threads that start collectives of one communicator must agree on an order
// that is the same on all ranks; sends and receives go on beside a collective that waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace mix::sim {

// In the order of Paddle's C_DataType (paddle/phi/backends/device_ext.h).
enum class Dtype : uint32_t {
  undefined,
  boolean,
  uint8,
  uint16,
  uint32,
  uint64,
  int8,
  int16,
  int32,
  int64,
  float16,
  float32,
  float64,
  bfloat16,
  complex64,
  complex128,
};

// In the order of Paddle's C_CCLReduceOp. `avg` of integers is rounded towards zero; booleans know no `avg`, complex
// numbers no `max` and `min`.
enum class Reduction : uint32_t { sum, avg, max, min, product };

// Bytes of one element; throws CollectiveError for what is no element type.
size_t size_of(Dtype dtype);

// A peer that ended or did not come, ranks that call different things, memory or network that failed.
struct CollectiveError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr size_t ID_BYTES = 128;

// Writes ID_BYTES that name a new group. Rank 0 calls it and joins in the same process; the others get the bytes by
// any channel. Until rank 0 joins, the id holds two file descriptors.
void make_id(void* bytes);

struct Totals {
  uint64_t calls = 0;
  uint64_t bytes = 0;
};

// One entry of a group of sends and receives.
struct Transfer {
  enum class Kind { send, recv };
  Kind kind;
  void* buffer;
  size_t count;
  Dtype dtype;
  size_t peer;
};

struct Call;
class Transport;

// One rank of a group. Every call throws CollectiveError; after the first error each call throws that error again,
// and the peers that wait for this rank get it too. `send == recv` is allowed everywhere.
class Communicator {
 public:
  // Waits for all ranks. Shared memory where every rank can open that of rank 0, else TCP (see collective_join.h).
  // `limit_s`: seconds to wait for a peer, here and in every call; 0 takes MIX_SIM_TIMEOUT, by default 60.
  static std::unique_ptr<Communicator> join(const void* id, size_t rank, size_t ranks, double limit_s = 0);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // Reductions add in the order of ranks, so results are equal to the bit on all ranks and in every run; float16
  // and bfloat16 are summed in float32 and rounded once. `count` is in elements: of the whole buffer, for
  // all_gather and reduce_scatter of one rank's part.
  void all_reduce(const void* send, void* recv, size_t count, Dtype dtype, Reduction reduction);
  void reduce(const void* send, void* recv, size_t count, Dtype dtype, Reduction reduction, size_t root);
  void broadcast(void* buffer, size_t count, Dtype dtype, size_t root);
  void all_gather(const void* send, void* recv, size_t count, Dtype dtype);
  void reduce_scatter(const void* send, void* recv, size_t count, Dtype dtype, Reduction reduction);
  // One buffer, count and dtype a peer; what a peer sends must be what this rank expects.
  void all_to_all(const void* const* send, const size_t* send_counts, const Dtype* send_dtypes, void* const* recv,
                  const size_t* recv_counts, const Dtype* recv_dtypes);

  // A send completes at once, whatever its size; messages between two ranks keep their order.
  void send(const void* buffer, size_t count, Dtype dtype, size_t peer);
  void recv(void* buffer, size_t count, Dtype dtype, size_t peer);
  // A group: every send is under way before the first receive waits.
  void run(const std::vector<Transfer>& transfers);

  void set_limit(double seconds);
  const std::string& name() const { return name_; }
  const char* transport() const;
  size_t rank() const { return rank_; }
  size_t ranks() const { return ranks_; }
  // Calls and bytes of this rank's own input (of its output for recv), by operation.
  std::map<std::string, Totals> totals() const;

 private:
  Communicator(std::unique_ptr<Transport> transport, std::string name, size_t rank, size_t ranks);
  template <typename Body>
  void guarded(const Call& call, Body body);
  template <typename Body>
  void collective(Call call, Body body);
  void check(const Call& call) const;
  void keep_failure(const char* text);

  std::unique_ptr<Transport> transport_;
  const std::string name_;
  const size_t rank_;
  const size_t ranks_;
  const int owner_;   // the process that joined
  std::mutex order_;  // held during a collective
  uint64_t sequence_ = 0;
  mutable std::mutex state_;  // guards what follows
  std::string failure_;
  std::map<std::string, Totals> totals_;
};

}  // namespace mix::sim
