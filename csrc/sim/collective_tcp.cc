#include "sim/collective_tcp.h"

#include <signal.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <new>

namespace mix::sim {
namespace {

// A thread that no signal reaches: they belong to the program's own threads.
template <typename Body>
std::thread start_quietly(Body body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(body);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

constexpr double kFarewell_s = 1.0;

// recv until the peer sends or the connection ends; for the reader threads, which wait as long as the group lasts
bool read_all(const File& socket, void* data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = recv(socket.get(), static_cast<char*>(data) + done, bytes - done, MSG_WAITALL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += n;
  }
  return true;
}

}  // namespace

Tcp::Tcp(size_t rank, double limit_s) : rank_(rank) { set_limit(limit_s); }

// Delegates, so that the destructor ends the threads that run if one cannot be started.
Tcp::Tcp(size_t rank, std::vector<Link> links, double limit_s) : Tcp(rank, limit_s) {
  for (Link& link : links) {
    peers_.push_back(std::make_unique<Peer>());
    peers_.back()->link = std::move(link);
  }
  for (size_t peer = 0; peer < peers_.size(); ++peer) {
    if (peer == rank) continue;
    others_.push_back(peer);
    Peer* reading = peers_[peer].get();
    reading->reader = start_quietly([this, reading] { read(*reading); });
  }
}

Tcp::~Tcp() {
  for (const size_t peer : others_) {
    write(*peers_[peer], Kind::leave, Call(), nullptr, 0, kFarewell_s);
    shutdown(peers_[peer]->link.socket.get(), SHUT_RDWR);
  }
  for (const size_t peer : others_)
    if (peers_[peer]->reader.joinable()) peers_[peer]->reader.join();
}

void Tcp::read(Peer& peer) {
  Head head;
  while (read_all(peer.link.socket, &head, sizeof(head))) {
    Frame frame{head.call, head.bytes, std::unique_ptr<char[]>(new (std::nothrow) char[head.bytes])};
    if (!frame.data || !read_all(peer.link.socket, frame.data.get(), head.bytes)) break;
    take(peer, head, std::move(frame));
  }
  const std::lock_guard<std::mutex> lock(state_);
  peer.is_closed = true;
  changed_.notify_all();
}

void Tcp::take(Peer& peer, const Head& head, Frame frame) {
  const std::lock_guard<std::mutex> lock(state_);
  if (head.kind == Kind::failure) {
    if (failure_.empty()) failure_.assign(frame.data.get(), frame.bytes);
  } else if (head.kind == Kind::leave) {
    peer.has_left = true;
  } else {
    auto& queue = head.kind == Kind::data ? peer.data : head.kind == Kind::step ? peer.steps : peer.messages;
    queue.push_back(std::move(frame));
  }
  changed_.notify_all();
}

Moved Tcp::write(Peer& peer, Kind kind, const Call& call, const void* data, size_t bytes, double limit_s) {
  const Head head{kind, call, bytes};
  const std::lock_guard<std::mutex> lock(peer.writing);
  const Moved moved = send_within(peer.link.socket, &head, sizeof(head), limit_s);
  return moved == Moved::all ? send_within(peer.link.socket, data, bytes, limit_s) : moved;
}

void Tcp::write_or_throw(size_t peer, Kind kind, const Call& call, const void* data, size_t bytes) {
  const Moved moved = write(*peers_[peer], kind, call, data, bytes, limit_s());
  if (moved == Moved::all) return;
  const PeerName& name = peers_[peer]->link.name;
  if (moved == Moved::late) throw_late({name}, call, limit_s());
  std::unique_lock<std::mutex> lock(state_);
  // what it said last is still on its way through the reader
  changed_.wait_for(lock, std::chrono::seconds(1), [&] { return peers_[peer]->is_closed; });
  if (!failure_.empty()) throw PeerFailure(failure_);
  peers_[peer]->has_left ? throw_left(name, call) : throw_ended(name, call);
}

// Waits until the queues of all `peers` hold a frame.
void Tcp::wait_for(Queue queue, const std::vector<size_t>& peers, const Call& call,
                   std::unique_lock<std::mutex>& lock) {
  Watch watch(limit_s());
  for (;;) {
    std::vector<PeerName> absent;
    for (const size_t peer : peers)
      if ((peers_[peer].get()->*queue).empty()) absent.push_back(peers_[peer]->link.name);
    if (absent.empty()) return;
    if (!failure_.empty()) throw PeerFailure(failure_);
    for (const PeerName& name : absent) {
      const Peer& peer = *peers_[name.rank];
      if (peer.is_closed) peer.has_left ? throw_left(name, call) : throw_ended(name, call);
    }
    if (watch.is_over()) throw_late(absent, call, limit_s());
    changed_.wait_for(lock, Watch::kInterval);
  }
}

Tcp::Frame Tcp::pop(Queue queue, size_t peer, const Call& call) {
  std::unique_lock<std::mutex> lock(state_);
  wait_for(queue, {peer}, call, lock);
  auto& frames = peers_[peer].get()->*queue;
  Frame frame = std::move(frames.front());
  frames.pop_front();
  return frame;
}

void Tcp::post(size_t peer, const void* data, size_t bytes, const Call& call) {
  write_or_throw(peer, Kind::data, call, data, bytes);
}

void Tcp::post_all(const void* data, size_t bytes, const Call& call) {
  for (const size_t peer : others_) post(peer, data, bytes, call);
}

void Tcp::step(const Call& call) {
  for (const size_t peer : others_) write_or_throw(peer, Kind::step, call, nullptr, 0);
  std::unique_lock<std::mutex> lock(state_);
  wait_for(&Peer::steps, others_, call, lock);
  std::vector<Call> calls(peers_.size(), call);
  for (const size_t peer : others_) {
    calls[peer] = peers_[peer]->steps.front().call;
    peers_[peer]->steps.pop_front();
  }
  lock.unlock();
  check_agreement(calls);
}

const void* Tcp::view(size_t peer, size_t, const Call& call) {
  peers_[peer]->viewed = pop(&Peer::data, peer, call);
  return peers_[peer]->viewed.data.get();
}

void Tcp::send(size_t peer, const void* data, const Call& call) {
  if (peer != rank_) return write_or_throw(peer, Kind::message, call, data, call.bytes);
  Frame frame{call, call.bytes, std::unique_ptr<char[]>(new char[call.bytes])};
  std::memcpy(frame.data.get(), data, call.bytes);
  take(*peers_[peer], {Kind::message, call, call.bytes}, std::move(frame));
}

void Tcp::recv(size_t peer, void* data, const Call& call) {
  const Frame frame = pop(&Peer::messages, peer, call);
  check_message(call, frame.call, peer);
  std::memcpy(data, frame.data.get(), frame.bytes);
}

void Tcp::fail(const std::string& text) noexcept {
  for (const size_t peer : others_) write(*peers_[peer], Kind::failure, Call(), text.data(), text.size(), kFarewell_s);
}

void Tcp::check_failure() const {
  const std::lock_guard<std::mutex> lock(state_);
  if (!failure_.empty()) throw PeerFailure(failure_);
}

}  // namespace mix::sim
