#include "sim/collective_join.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "sim/collective_shared.h"
#include "sim/collective_tcp.h"

namespace mix::sim {
namespace {

constexpr char kMagic[8] = "mixsim1";
constexpr double kHelloLimit_s = 2.0;

struct Id {
  char magic[8];
  char token[TOKEN_BYTES];
  ProcessId process;
  int32_t memory_fd;
  Address address;
  char boot[40];
};
static_assert(sizeof(Id) <= ID_BYTES, "an id fits");

// The first words of a connection.
struct Hello {
  char token[TOKEN_BYTES];
  uint64_t rank;
  Address listening;
  int64_t pid;
};

// Rank 0's answer: a text if the group cannot start, else the Hello of every rank follows.
struct Answer {
  char error[1024];
};

struct Pending {
  File memory;
  File listener;
};

// What make_id opened and rank 0 has not taken yet, by token.
std::mutex pending_mutex;
std::map<std::string, Pending>& pending() {
  static std::map<std::string, Pending> groups;
  return groups;
}

Id parse(const void* bytes) {
  Id id;
  std::memcpy(&id, bytes, sizeof(id));
  if (std::memcmp(id.magic, kMagic, sizeof(kMagic)) != 0)
    throw CollectiveError("these bytes are no id of a group; take those that make_id wrote on rank 0");
  return id;
}

enum class Forced { none, tcp, shared };

Forced forced() {
  const char* text = std::getenv("MIX_SIM_TRANSPORT");
  const std::string name = text == nullptr ? "" : text;
  if (name.empty()) return Forced::none;
  if (name == "tcp") return Forced::tcp;
  if (name == "shared") return Forced::shared;
  throw CollectiveError("MIX_SIM_TRANSPORT is \"" + name + "\"; known are tcp and shared");
}

Hello own_hello(const Id& id, size_t rank, const Address& listening) {
  Hello hello{{}, rank, listening, own_process().pid};
  std::memcpy(hello.token, id.token, TOKEN_BYTES);
  return hello;
}

Link link_of(File socket, const Hello& hello) {
  const std::string address = socket ? text_of(remote_address(socket)) : "";
  return {std::move(socket), {hello.rank, hello.pid, address.substr(0, address.find(':'))}};
}

// Takes a connection that belongs to the group, if one comes in time; strangers are dropped.
bool accept_hello(const File& listener, const Id& id, size_t ranks, int timeout_ms, File& socket, Hello& hello) {
  socket = accept_within(listener, timeout_ms);
  return socket && recv_within(socket, &hello, sizeof(hello), kHelloLimit_s) == Moved::all &&
         std::memcmp(hello.token, id.token, TOKEN_BYTES) == 0 && hello.rank < ranks;
}

// Rank 0 gathers the others.
class Host {
 public:
  Host(const Id& id, size_t ranks, double limit_s)
      : id_(id), ranks_(ranks), watch_(limit_s), limit_s_(limit_s), links_(ranks), hellos_(ranks) {
    const std::lock_guard<std::mutex> lock(pending_mutex);
    const auto found = pending().find(std::string(id.token, TOKEN_BYTES));
    if (found == pending().end() || id.process.pid != own_process().pid)
      throw CollectiveError("rank 0 must join in the process that made the id (" + std::to_string(id.process.pid) +
                            "), once");
    Pending own = std::move(found->second);
    pending().erase(found);
    listener_ = std::move(own.listener);
    memory_ = std::make_unique<SharedMemory>(std::move(own.memory), 0, std::min(ranks, SHARED_MAX_RANKS));
    memory_->set_limit(limit_s);
    memory_->arrive();
  }

  std::unique_ptr<Transport> run(Forced wanted) {
    try {
      gather([&](size_t r) { return links_[r].socket || (ranks_ <= SHARED_MAX_RANKS && memory_->has_arrived(r)); });
      bool shared = wanted != Forced::tcp && ranks_ <= SHARED_MAX_RANKS;
      for (const Link& link : links_) shared = shared && !link.socket;
      memory_->decide(shared ? SharedMemory::Decision::shared : SharedMemory::Decision::tcp);
      if (shared) return std::move(memory_);
      gather([&](size_t r) { return static_cast<bool>(links_[r].socket); });
    } catch (const CollectiveError& error) {
      memory_->fail(error.what());
      answer(error.what());
      throw;
    }
    answer("");
    return std::make_unique<Tcp>(0, std::move(links_), limit_s_);
  }

 private:
  template <typename HasCome>
  void gather(HasCome has_come) {
    for (;;) {
      std::vector<PeerName> absent;
      for (size_t r = 1; r < ranks_; ++r)
        if (!has_come(r)) absent.push_back({r, 0, ""});
      if (absent.empty()) return;
      if (watch_.is_over()) throw_late(absent, Call(), limit_s_);
      File socket;
      Hello hello;
      if (accept_hello(listener_, id_, ranks_, 2, socket, hello)) {
        hello.listening.host = remote_address(socket).host;
        hellos_[hello.rank] = hello;
        links_[hello.rank] = link_of(std::move(socket), hello);
      }
      if (!watch_.is_due()) continue;
      for (size_t r = 1; r < std::min(ranks_, SHARED_MAX_RANKS); ++r)
        if (memory_->has_arrived(r)) memory_->check_alive(r, Call());
    }
  }

  void answer(const std::string& error) {
    Answer text{};
    std::strncpy(text.error, error.c_str(), sizeof(text.error) - 1);
    links_[0].name = {0, id_.process.pid, ""};
    for (const Link& link : links_) {
      if (!link.socket) continue;
      if (send_within(link.socket, &text, sizeof(text), kHelloLimit_s) == Moved::all && error.empty())
        send_within(link.socket, hellos_.data(), ranks_ * sizeof(Hello), kHelloLimit_s);
    }
  }

  const Id id_;
  const size_t ranks_;
  Watch watch_;
  const double limit_s_;
  File listener_;
  std::unique_ptr<SharedMemory> memory_;
  std::vector<Link> links_;
  std::vector<Hello> hellos_;
};

// A rank above 0 comes to the socket: the connections to lower ranks are made by it, those of higher ones awaited.
std::unique_ptr<Transport> join_tcp(const Id& id, size_t rank, size_t ranks, double limit_s) {
  const Call call;
  const double patience_s = limit_s + kHelloLimit_s;  // rank 0 speaks first
  std::vector<Link> links(ranks);
  std::vector<Hello> hellos(ranks);
  links[0] = {connect_to(id.address, "rank 0", limit_s), {0, id.process.pid, text_of(id.address)}};
  Address own = local_address(links[0].socket);
  const File listener = listen_at(own);
  const auto say_hello = [&](const File& socket) {
    const Hello hello = own_hello(id, rank, own);
    return send_within(socket, &hello, sizeof(hello), limit_s) == Moved::all;
  };
  Answer answer;
  Moved moved = Moved::closed;
  if (say_hello(links[0].socket)) moved = recv_within(links[0].socket, &answer, sizeof(answer), patience_s);
  if (moved == Moved::all && answer.error[0] != '\0') throw CollectiveError(answer.error);
  if (moved == Moved::all) moved = recv_within(links[0].socket, hellos.data(), ranks * sizeof(Hello), limit_s);
  if (moved == Moved::late) throw_late({links[0].name}, call, limit_s);
  if (moved == Moved::closed) throw_ended(links[0].name, call);
  for (size_t peer = 1; peer < rank; ++peer) {
    links[peer] = link_of(connect_to(hellos[peer].listening, "rank " + std::to_string(peer), limit_s), hellos[peer]);
    if (!say_hello(links[peer].socket)) throw_ended(links[peer].name, call);
  }
  Watch watch(limit_s);
  for (size_t missing = ranks - 1 - rank; missing > 0;) {
    File socket;
    Hello hello;
    if (accept_hello(listener, id, ranks, 50, socket, hello) && hello.rank > rank && !links[hello.rank].socket) {
      links[hello.rank] = link_of(std::move(socket), hello);
      --missing;
    } else if (watch.is_over()) {
      std::vector<PeerName> absent;
      for (size_t r = rank + 1; r < ranks; ++r)
        if (!links[r].socket) absent.push_back({r, hellos[r].pid, ""});
      throw_late(absent, call, limit_s);
    }
  }
  return std::make_unique<Tcp>(rank, std::move(links), limit_s);
}

}  // namespace

void make_id(void* bytes) {
  Id id{};
  std::memcpy(id.magic, kMagic, sizeof(kMagic));
  random_bytes(id.token, TOKEN_BYTES);
  id.process = own_process();
  boot_id().copy(id.boot, sizeof(id.boot) - 1);
  Pending own;
  own.memory = SharedMemory::create(id.token);
  id.memory_fd = own.memory.get();
  id.address.host = own_host();
  own.listener = listen_at(id.address);
  std::memset(bytes, 0, ID_BYTES);
  std::memcpy(bytes, &id, sizeof(id));
  const std::lock_guard<std::mutex> lock(pending_mutex);
  pending()[std::string(id.token, TOKEN_BYTES)] = std::move(own);
}

std::string name_of_id(const void* bytes) {
  const Id id = parse(bytes);
  char text[9];
  for (int i = 0; i < 4; ++i) std::snprintf(text + 2 * i, 3, "%02x", static_cast<unsigned char>(id.token[i]));
  return std::string("mix-sim-") + text;
}

std::unique_ptr<Transport> meet(const void* bytes, size_t rank, size_t ranks, double limit_s) {
  const Id id = parse(bytes);
  const Forced wanted = forced();
  if (rank == 0) return Host(id, ranks, limit_s).run(wanted);
  File file;
  if (wanted != Forced::tcp && ranks <= SHARED_MAX_RANKS && boot_id() == id.boot)
    file = SharedMemory::open(id.process.pid, id.memory_fd, id.token);
  if (file) {
    auto memory = std::make_unique<SharedMemory>(std::move(file), rank, ranks);
    memory->set_limit(limit_s);
    memory->arrive();
    if (memory->wait_for_decision(id.process) == SharedMemory::Decision::shared) return memory;
  }
  if (wanted == Forced::shared)
    throw CollectiveError("MIX_SIM_TRANSPORT is shared, but rank " + std::to_string(rank) +
                          " and others do not share memory with rank 0 (process " + std::to_string(id.process.pid) +
                          ")");
  return join_tcp(id, rank, ranks, limit_s);
}

}  // namespace mix::sim
