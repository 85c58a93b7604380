#include "sim/collective_transport.h"

#include <cstdio>

#include "sim/collective_reduce.h"

namespace mix::sim {
namespace {

std::string number(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string size_text(uint64_t bytes) {
  constexpr double kKib = 1024.0;
  if (bytes < 1024) return std::to_string(bytes) + " bytes";
  if (bytes < 1024 * 1024) return number("%.1f KiB", bytes / kKib);
  if (bytes < 1024 * 1024 * 1024) return number("%.1f MiB", bytes / (kKib * kKib));
  return number("%.1f GiB", bytes / (kKib * kKib * kKib));
}

std::string peer_text(const PeerName& peer) {
  std::string text = "rank " + std::to_string(peer.rank) + " (process " + std::to_string(peer.pid);
  if (!peer.host.empty()) text += " on " + peer.host;
  return text + ")";
}

bool has_root(Operation operation) { return operation == Operation::reduce || operation == Operation::broadcast; }

// "all_reduce of 10 float32 (sum)"
std::string full_text(const Call& call) {
  std::string text = name_of(call.operation);
  if (call.operation == Operation::all_to_all) return text;
  text += " of " + std::to_string(call.count) + " " + name_of(call.dtype);
  if (has_reduction(call.operation)) text += std::string(" (") + name_of(call.reduction) + ")";
  if (has_root(call.operation)) text += " with root " + std::to_string(call.root);
  return text;
}

bool agrees(const Call& a, const Call& b) {
  return a.operation == b.operation && a.dtype == b.dtype && a.reduction == b.reduction && a.root == b.root &&
         a.count == b.count && a.sequence == b.sequence && a.round == b.round;
}

}  // namespace

bool has_reduction(Operation operation) {
  return operation == Operation::all_reduce || operation == Operation::reduce ||
         operation == Operation::reduce_scatter;
}

const char* name_of(Operation operation) {
  constexpr const char* kNames[] = {"join",           "all_reduce", "reduce", "broadcast", "all_gather",
                                    "reduce_scatter", "all_to_all", "send",   "recv"};
  return kNames[static_cast<size_t>(operation)];
}

std::string describe(const Call& call) {
  if (call.operation == Operation::join) return "the start of the group";
  return std::string(name_of(call.operation)) + " of " + size_text(call.bytes);
}

void check_agreement(const std::vector<Call>& calls) {
  for (size_t r = 1; r < calls.size(); ++r) {
    if (agrees(calls[0], calls[r])) continue;
    throw CollectiveError("ranks disagree at collective " + std::to_string(calls[0].sequence) + ": rank 0 calls " +
                          full_text(calls[0]) + ", rank " + std::to_string(r) + " calls " + full_text(calls[r]) +
                          "; all ranks must make the same calls in the same order");
  }
}

void check_message(const Call& received, const Call& sent, size_t peer) {
  if (received.count == sent.count && received.dtype == sent.dtype) return;
  throw CollectiveError(std::string(name_of(received.operation)) + ": " + std::to_string(received.count) + " " +
                        name_of(received.dtype) + " are expected from rank " + std::to_string(peer) +
                        ", which sent " + std::to_string(sent.count) + " " + name_of(sent.dtype));
}

void throw_ended(const PeerName& peer, const Call& call) {
  throw CollectiveError(peer_text(peer) + " ended during " + describe(call));
}

void throw_left(const PeerName& peer, const Call& call) {
  throw CollectiveError(peer_text(peer) + " has left the group, and " + describe(call) + " needs it");
}

void throw_late(const std::vector<PeerName>& peers, const Call& call, double limit_s) {
  std::string names;
  for (const PeerName& peer : peers) {
    const bool known = peer.pid != 0;
    names += (names.empty() ? "" : ", ") + (known ? peer_text(peer) : "rank " + std::to_string(peer.rank));
  }
  throw CollectiveError(names + " did not come to " + describe(call) + " within " + number("%g", limit_s) +
                        " s (MIX_SIM_TIMEOUT sets the limit)");
}

}  // namespace mix::sim
