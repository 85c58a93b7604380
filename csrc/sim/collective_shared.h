// Ranks of one machine over one memfd: it has no name, and the kernel frees it with the last process that holds it.
//
// Layout of the file: a control area (state of the group, a Member a rank, a Mailbox a pair), two slots a rank for
// rounds, then messages. Control area and slots are mapped; messages are written and read as a file, grow without
// bound and are freed (hole punched) when received. Everything is sparse: what is not used costs no memory.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sim/collective_process.h"
#include "sim/collective_transport.h"

namespace mix::sim {

constexpr size_t TOKEN_BYTES = 16;
constexpr size_t SHARED_MAX_RANKS = 64;

class SharedMemory final : public Transport {
 public:
  enum class Decision : uint32_t { none, shared, tcp };

  // A new memfd that bears the token.
  static File create(const void* token);
  // That of another process, by its number there; an empty File unless it can be opened and bears the token.
  static File open(int64_t pid, int fd, const void* token);

  SharedMemory(File file, size_t rank, size_t ranks);
  ~SharedMemory() override;

  // For joining: this rank has come; has that one; what rank 0 has decided. Waiting looks after rank 0.
  void arrive();
  bool has_arrived(size_t peer) const;
  void check_alive(size_t peer, const Call& call) const;
  void decide(Decision decision);
  Decision wait_for_decision(const ProcessId& rank0);

  const char* name() const override { return "shared memory"; }
  size_t cell_bytes() const override { return cell_bytes_; }
  void post(size_t peer, const void* data, size_t bytes, const Call& call) override;
  void post_all(const void* data, size_t bytes, const Call& call) override;
  void step(const Call& call) override;
  const void* view(size_t peer, size_t bytes, const Call& call) override;
  const void* view_all(size_t peer, size_t bytes, const Call& call) override;
  void send(size_t peer, const void* data, const Call& call) override;
  void recv(size_t peer, void* data, const Call& call) override;
  void fail(const std::string& text) noexcept override;
  void check_failure() const override;

 private:
  struct Control;
  struct Node;
  struct Lane {  // messages to or from one peer
    std::mutex mutex;
    uint64_t node;  // where the next message's node is in the file
    uint32_t count = 0;
  };
  template <typename Missing>
  void wait_until(Signal& signal, Missing missing, const Call& call);
  template <typename Missing>
  void look_after(const std::vector<size_t>& absent, Missing missing, const Call& call) const;
  PeerName peer_name(size_t peer) const;
  char* slot(size_t rank, uint32_t step) const;
  uint64_t reserve(size_t bytes);
  void write_at(const void* data, size_t bytes, uint64_t offset, const Call& call);
  void read_at(void* data, size_t bytes, uint64_t offset, const Call& call);
  void free_at(uint64_t offset, size_t bytes);

  File file_;
  const size_t rank_;
  const size_t ranks_;
  const size_t cell_bytes_;
  size_t mapped_bytes_ = 0;
  Control* control_ = nullptr;
  uint32_t step_ = 0;
  std::vector<Lane> out_;
  std::vector<Lane> in_;
};

}  // namespace mix::sim
