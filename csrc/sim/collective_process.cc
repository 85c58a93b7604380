#include "sim/collective_process.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "sim/collective.h"

namespace mix::sim {
namespace {

// Fields 3 (state) and 22 (start) of /proc/<pid>/stat; false when there is no such process. Field 2, the name, is in
// brackets and may hold anything.
bool read_stat(int64_t pid, char& state, uint64_t& start_ticks) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return false;
  const size_t bracket = text.rfind(')');
  if (bracket == std::string::npos) return false;
  std::istringstream fields(text.substr(bracket + 1));
  fields >> state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> start_ticks;
  return !fields.fail();
}

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

}  // namespace

ProcessId own_process() {
  // not getpid: where /proc belongs to another process namespace, its numbers are the ones that peers look up
  char self[16] = "";
  ProcessId own{0, 0};
  if (readlink("/proc/self", self, sizeof(self) - 1) > 0) own.pid = std::atoll(self);
  char state;
  if (!read_stat(own.pid, state, own.start_ticks))
    throw CollectiveError("collectives need /proc: /proc/self/stat cannot be read");
  return own;
}

bool is_alive(const ProcessId& process) {
  char state;
  uint64_t start_ticks;
  return read_stat(process.pid, state, start_ticks) && state != 'Z' && state != 'X' &&
         start_ticks == process.start_ticks;
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  return text;
}

void random_bytes(void* bytes, size_t count) {
  if (getrandom(bytes, count, 0) != static_cast<ssize_t>(count))
    throw CollectiveError("no random bytes from the system: " + error_text(errno));
}

std::string error_text(int number) {
  char buffer[128];
  return strerror_r(number, buffer, sizeof(buffer));
}

double default_limit_s() {
  const char* text = std::getenv("MIX_SIM_TIMEOUT");
  if (text == nullptr || *text == '\0') return 60.0;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (*end != '\0' || !(seconds > 0) || !std::isfinite(seconds))
    throw CollectiveError(std::string("MIX_SIM_TIMEOUT is \"") + text + "\"; a number of seconds above 0 is needed");
  return seconds;
}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

int File::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

bool Watch::is_due() {
  const auto now = Clock::now();
  if (now < next_) return false;
  next_ = now + kInterval;
  return true;
}

void Signal::store_and_wake(uint32_t next) {
  value.store(next, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) != 0)
    syscall(SYS_futex, &value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void Signal::wait(uint32_t seen) {
  // a peer that is about to arrive is worth a few microseconds, not more: there may be more ranks than cores
  for (int i = 0; i < 400; ++i) {
    if (load() != seen) return;
    pause_briefly();
  }
  const timespec interval{0, std::chrono::nanoseconds(Watch::kInterval).count()};
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  syscall(SYS_futex, &value, FUTEX_WAIT, seen, &interval, nullptr, 0);
  sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace mix::sim
