// What collectives are made of: rounds in which ranks show one another data, and messages.
//
// A round: each rank posts, all step, each rank views what was posted for it. A view is valid until the next step of
// this rank. What was posted to a rank is viewed by it exactly once. Shared memory and TCP implement this; the
// algorithms above are the same, and so are the results.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "sim/collective.h"

namespace mix::sim {

enum class Operation : uint32_t {
  join,
  all_reduce,
  reduce,
  broadcast,
  all_gather,
  reduce_scatter,
  all_to_all,
  send,
  recv,
};

// What a rank does now: for the comparison with its peers and for messages. Stands as it is in shared memory and on
// the wire between processes of one build.
struct Call {
  Operation operation = Operation::join;
  Dtype dtype = Dtype::undefined;
  Reduction reduction = Reduction::sum;
  uint32_t root = 0;      // or the peer of a message
  uint64_t count = 0;     // elements; nothing for all_to_all, whose counts differ
  uint64_t bytes = 0;     // of this rank, for texts only
  uint64_t sequence = 0;  // which collective of the communicator
  uint64_t round = 0;     // which round of the collective
};

bool has_reduction(Operation operation);
const char* name_of(Operation operation);
// "all_reduce of 4.0 MiB"
std::string describe(const Call& call);
// Throws CollectiveError unless all ranks do the same; the text names two that do not, the same on all ranks.
void check_agreement(const std::vector<Call>& calls);
// Throws CollectiveError unless the message that `peer` sent is the one that is received.
void check_message(const Call& received, const Call& sent, size_t peer);

// A peer gave up and has told all ranks why.
struct PeerFailure : CollectiveError {
  using CollectiveError::CollectiveError;
};

// Who a rank is, for error texts.
struct PeerName {
  size_t rank;
  int64_t pid;
  std::string host;  // "" on this machine
};

[[noreturn]] void throw_ended(const PeerName& peer, const Call& call);
[[noreturn]] void throw_left(const PeerName& peer, const Call& call);
[[noreturn]] void throw_late(const std::vector<PeerName>& peers, const Call& call, double limit_s);

class Transport {
 public:
  virtual ~Transport() = default;
  virtual const char* name() const = 0;

  // The most that may be posted in one round to one peer.
  virtual size_t cell_bytes() const = 0;
  virtual void post(size_t peer, const void* data, size_t bytes, const Call& call) = 0;
  // The same data to all others; at most as much.
  virtual void post_all(const void* data, size_t bytes, const Call& call) = 0;
  // Returns when all ranks have stepped, with the same call.
  virtual void step(const Call& call) = 0;
  virtual const void* view(size_t peer, size_t bytes, const Call& call) = 0;
  virtual const void* view_all(size_t peer, size_t bytes, const Call& call) = 0;

  // Unbounded and in order; send returns at once. Own rank included.
  virtual void send(size_t peer, const void* data, const Call& call) = 0;
  virtual void recv(size_t peer, void* data, const Call& call) = 0;

  // Tells all ranks that this one gives up.
  virtual void fail(const std::string& text) noexcept = 0;
  // Throws PeerFailure if a peer gave up.
  virtual void check_failure() const = 0;

  void set_limit(double seconds) { limit_s_ = seconds; }
  double limit_s() const { return limit_s_; }

 private:
  std::atomic<double> limit_s_{60.0};
};

}  // namespace mix::sim
