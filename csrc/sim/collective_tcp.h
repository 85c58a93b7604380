// Ranks that do not share memory: a socket to each peer, and a thread a peer that reads it into unbounded queues, so
// that a sender never waits for a receiver.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "sim/collective_socket.h"
#include "sim/collective_transport.h"

namespace mix::sim {

// A connected rank; of the own rank the name only.
struct Link {
  File socket;
  PeerName name;
};

class Tcp final : public Transport {
 public:
  Tcp(size_t rank, std::vector<Link> links, double limit_s);
  ~Tcp() override;

  const char* name() const override { return "tcp"; }
  size_t cell_bytes() const override { return size_t{1} << 20; }
  void post(size_t peer, const void* data, size_t bytes, const Call& call) override;
  void post_all(const void* data, size_t bytes, const Call& call) override;
  void step(const Call& call) override;
  const void* view(size_t peer, size_t bytes, const Call& call) override;
  const void* view_all(size_t peer, size_t bytes, const Call& call) override { return view(peer, bytes, call); }
  void send(size_t peer, const void* data, const Call& call) override;
  void recv(size_t peer, void* data, const Call& call) override;
  void fail(const std::string& text) noexcept override;
  void check_failure() const override;

 private:
  enum class Kind : uint32_t { data, step, message, failure, leave };
  struct Head {
    Kind kind;
    Call call;
    uint64_t bytes;
  };
  struct Frame {
    Call call;
    uint64_t bytes = 0;
    std::unique_ptr<char[]> data;
  };
  struct Peer {
    Link link;
    std::thread reader;
    std::mutex writing;
    // guarded by state_
    std::deque<Frame> data, steps, messages;
    bool has_left = false;
    bool is_closed = false;
    Frame viewed;  // of the thread that runs a collective
  };
  using Queue = std::deque<Frame> Peer::*;

  Tcp(size_t rank, double limit_s);
  void read(Peer& peer);
  void take(Peer& peer, const Head& head, Frame frame);
  Moved write(Peer& peer, Kind kind, const Call& call, const void* data, size_t bytes, double limit_s);
  void write_or_throw(size_t peer, Kind kind, const Call& call, const void* data, size_t bytes);
  void wait_for(Queue queue, const std::vector<size_t>& peers, const Call& call, std::unique_lock<std::mutex>& lock);
  Frame pop(Queue queue, size_t peer, const Call& call);

  const size_t rank_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<size_t> others_;
  mutable std::mutex state_;
  std::condition_variable changed_;
  std::string failure_;
};

}  // namespace mix::sim
