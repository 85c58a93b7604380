#include "sim/collective_shared.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace mix::sim {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSlotBytes = size_t{1} << 20;  // two a rank: a round fits into the cache of a core

constexpr double kGrace_s = 1.0;

enum Failed : uint32_t { kFine, kWriting, kFailed };

struct alignas(128) Member {
  ProcessId process;
  Signal arrived;
  Signal steps;
  std::atomic<uint32_t> has_left;
  Call calls[2];
};

struct alignas(64) Mailbox {
  Signal sent;
};

constexpr size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

struct SharedMemory::Control {
  char token[TOKEN_BYTES];
  Signal decision;
  std::atomic<uint32_t> failed;
  char failure[1024];
  std::atomic<uint64_t> tail;
  Member members[SHARED_MAX_RANKS];
  Mailbox mailboxes[SHARED_MAX_RANKS][SHARED_MAX_RANKS];  // from, to
};

// Head of a message in the file, a page; what fits follows it in the page.
struct SharedMemory::Node {
  Call call;
  uint64_t bytes;
  uint64_t data;
  uint64_t next;
};

namespace {
// where the parts of the file begin
constexpr size_t kSlots = size_t{512} << 10;  // Control is before
constexpr uint64_t kNodes = kSlots + SHARED_MAX_RANKS * 2 * kSlotBytes;
constexpr uint64_t kMessages = kNodes + SHARED_MAX_RANKS * SHARED_MAX_RANKS * kPage;
}  // namespace

File SharedMemory::create(const void* token) {
  static_assert(sizeof(Control) <= kSlots, "the control area holds Control");
  File file(memfd_create("mix-sim-collective", MFD_CLOEXEC));
  if (!file || ftruncate(file.get(), static_cast<off_t>(kNodes)) != 0)
    throw CollectiveError("no shared memory for collectives: " + error_text(errno));
  const uint64_t tail = kMessages;
  if (pwrite(file.get(), token, TOKEN_BYTES, 0) != TOKEN_BYTES ||
      pwrite(file.get(), &tail, sizeof(tail), offsetof(Control, tail)) != sizeof(tail))
    throw CollectiveError("shared memory for collectives cannot be written: " + error_text(errno));
  return file;
}

File SharedMemory::open(int64_t pid, int fd, const void* token) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  // another process of that number may have anything there, a pipe that blocks included
  struct stat about;
  if (stat(path.c_str(), &about) != 0 || !S_ISREG(about.st_mode)) return File();
  File file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  char found[TOKEN_BYTES];
  if (!file || pread(file.get(), found, TOKEN_BYTES, 0) != static_cast<ssize_t>(TOKEN_BYTES) ||
      std::memcmp(found, token, TOKEN_BYTES) != 0)
    return File();
  return file;
}

SharedMemory::SharedMemory(File file, size_t rank, size_t ranks)
    : file_(std::move(file)),
      rank_(rank),
      ranks_(ranks),
      cell_bytes_(kSlotBytes / ranks / 64 * 64),
      mapped_bytes_(kSlots + ranks * 2 * kSlotBytes),
      out_(ranks),
      in_(ranks) {
  void* mapped = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  if (mapped == MAP_FAILED)
    throw CollectiveError("shared memory for collectives cannot be mapped: " + error_text(errno));
  control_ = static_cast<Control*>(mapped);
  for (size_t peer = 0; peer < ranks; ++peer) {
    out_[peer].node = kNodes + (rank * SHARED_MAX_RANKS + peer) * kPage;
    in_[peer].node = kNodes + (peer * SHARED_MAX_RANKS + rank) * kPage;
  }
}

SharedMemory::~SharedMemory() {
  control_->members[rank_].has_left.store(1);
  munmap(control_, mapped_bytes_);
}

void SharedMemory::arrive() {
  Member& own = control_->members[rank_];
  own.process = own_process();
  own.arrived.store_and_wake(1);
}

bool SharedMemory::has_arrived(size_t peer) const { return control_->members[peer].arrived.load() != 0; }

void SharedMemory::check_alive(size_t peer, const Call& call) const {
  if (!is_alive(control_->members[peer].process)) throw_ended(peer_name(peer), call);
}

void SharedMemory::decide(Decision decision) { control_->decision.store_and_wake(static_cast<uint32_t>(decision)); }

SharedMemory::Decision SharedMemory::wait_for_decision(const ProcessId& rank0) {
  // rank 0 knows which rank is missing: let it speak first
  Watch watch(limit_s() + kGrace_s);
  const Call call;
  for (;;) {
    const uint32_t seen = control_->decision.load();
    if (seen != 0) return static_cast<Decision>(seen);
    control_->decision.wait(seen);
    if (!watch.is_due()) continue;
    check_failure();
    const bool alive = is_alive(rank0);
    if (!alive && control_->decision.load() == 0) throw_ended({0, rank0.pid, ""}, call);
    if (watch.is_over()) throw_late({{0, rank0.pid, ""}}, call, limit_s());
  }
}

PeerName SharedMemory::peer_name(size_t peer) const { return {peer, control_->members[peer].process.pid, ""}; }

char* SharedMemory::slot(size_t rank, uint32_t step) const {
  return reinterpret_cast<char*>(control_) + kSlots + (rank * 2 + step % 2) * kSlotBytes;
}

template <typename Missing>
void SharedMemory::look_after(const std::vector<size_t>& absent, Missing missing, const Call& call) const {
  check_failure();
  for (const size_t peer : absent) {
    const bool left = control_->members[peer].has_left.load() != 0;
    if (!left && is_alive(control_->members[peer].process)) continue;
    const std::vector<size_t> now = missing();  // it may have done its part before it went
    if (std::find(now.begin(), now.end(), peer) == now.end()) continue;
    check_failure();
    left ? throw_left(peer_name(peer), call) : throw_ended(peer_name(peer), call);
  }
}

// Waits until `missing()` names no rank; `signal` changes when the first of them has done its part.
template <typename Missing>
void SharedMemory::wait_until(Signal& signal, Missing missing, const Call& call) {
  Watch watch(limit_s());
  for (;;) {
    const uint32_t seen = signal.load();
    std::vector<size_t> absent = missing();
    if (absent.empty()) return;
    signal.wait(seen);
    if (!watch.is_due()) continue;
    look_after(absent, missing, call);
    if (!watch.is_over()) continue;
    std::vector<PeerName> names;
    for (const size_t peer : missing()) names.push_back(peer_name(peer));
    if (!names.empty()) throw_late(names, call, limit_s());
  }
}

// A rank writes slot k % 2 before step k. Others have read it when they come to step k + 1, which this rank awaits
// before it writes there again.
void SharedMemory::post(size_t peer, const void* data, size_t bytes, const Call&) {
  std::memcpy(slot(rank_, step_ + 1) + peer * cell_bytes_, data, bytes);
}

void SharedMemory::post_all(const void* data, size_t bytes, const Call&) {
  std::memcpy(slot(rank_, step_ + 1), data, bytes);
}

const void* SharedMemory::view(size_t peer, size_t, const Call&) { return slot(peer, step_) + rank_ * cell_bytes_; }

const void* SharedMemory::view_all(size_t peer, size_t, const Call&) { return slot(peer, step_); }

void SharedMemory::step(const Call& call) {
  const uint32_t step = ++step_;
  Member& own = control_->members[rank_];
  own.calls[step % 2] = call;
  own.steps.store_and_wake(step);
  const auto is_behind = [&](size_t peer) {
    return static_cast<int32_t>(control_->members[peer].steps.load() - step) < 0;
  };
  for (size_t peer = 0; peer < ranks_; ++peer) {
    if (!is_behind(peer)) continue;
    const auto missing = [&] {
      std::vector<size_t> found;
      for (size_t p = peer; p < ranks_; ++p)
        if (is_behind(p)) found.push_back(p);
      return found;
    };
    const auto first_missing = [&] { return is_behind(peer) ? missing() : std::vector<size_t>(); };
    wait_until(control_->members[peer].steps, first_missing, call);
  }
  std::vector<Call> calls;
  for (size_t peer = 0; peer < ranks_; ++peer) calls.push_back(control_->members[peer].calls[step % 2]);
  check_agreement(calls);
}

uint64_t SharedMemory::reserve(size_t bytes) { return control_->tail.fetch_add(round_up(bytes, kPage)); }

void SharedMemory::write_at(const void* data, size_t bytes, uint64_t offset, const Call& call) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = pwrite(file_.get(), static_cast<const char*>(data) + done, bytes - done, offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw CollectiveError("no shared memory for " + describe(call) + ": " + error_text(errno));
    done += n;
  }
}

void SharedMemory::read_at(void* data, size_t bytes, uint64_t offset, const Call& call) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = pread(file_.get(), static_cast<char*>(data) + done, bytes - done, offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw CollectiveError("shared memory cannot be read for " + describe(call) + ": " + error_text(errno));
    done += n;
  }
}

void SharedMemory::free_at(uint64_t offset, size_t bytes) {
  // a refusal costs memory until the group ends, nothing else
  (void)fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, round_up(bytes, kPage));
}

void SharedMemory::send(size_t peer, const void* data, const Call& call) {
  Lane& lane = out_[peer];
  const std::lock_guard<std::mutex> lock(lane.mutex);
  const bool fits = sizeof(Node) + call.bytes <= kPage;
  const uint64_t place = fits ? lane.node + sizeof(Node) : reserve(call.bytes);
  const Node node{call, call.bytes, place, reserve(kPage)};
  write_at(data, call.bytes, place, call);
  write_at(&node, sizeof(node), lane.node, call);
  lane.node = node.next;
  control_->mailboxes[rank_][peer].sent.store_and_wake(++lane.count);
}

void SharedMemory::recv(size_t peer, void* data, const Call& call) {
  Lane& lane = in_[peer];
  const std::lock_guard<std::mutex> lock(lane.mutex);
  Signal& sent = control_->mailboxes[peer][rank_].sent;
  const auto missing = [&] {
    return sent.load() == lane.count ? std::vector<size_t>{peer} : std::vector<size_t>();
  };
  wait_until(sent, missing, call);
  Node node;
  read_at(&node, sizeof(node), lane.node, call);
  check_message(call, node.call, peer);
  read_at(data, node.bytes, node.data, call);
  free_at(lane.node, kPage);
  if (node.data != lane.node + sizeof(Node)) free_at(node.data, node.bytes);
  lane.node = node.next;
  ++lane.count;
}

void SharedMemory::fail(const std::string& text) noexcept {
  uint32_t expected = kFine;
  if (!control_->failed.compare_exchange_strong(expected, kWriting)) return;
  std::strncpy(control_->failure, text.c_str(), sizeof(control_->failure) - 1);
  control_->failed.store(kFailed, std::memory_order_release);
}

void SharedMemory::check_failure() const {
  if (control_->failed.load(std::memory_order_acquire) == kFailed) throw PeerFailure(control_->failure);
}

}  // namespace mix::sim
