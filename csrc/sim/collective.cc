#include "sim/collective.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "sim/collective_join.h"
#include "sim/collective_parts.h"
#include "sim/collective_process.h"
#include "sim/collective_reduce.h"
#include "sim/collective_transport.h"

namespace mix::sim {
namespace {

// `parts`: the buffer has that many times `count` elements.
Call make_call(Operation operation, size_t count, Dtype dtype, size_t parts = 1) {
  Call call;
  call.operation = operation;
  call.dtype = dtype;
  call.count = count;
  const bool is_known = dtype > Dtype::undefined && dtype <= Dtype::complex128;
  call.bytes = is_known ? count * parts * size_of(dtype) : 0;
  return call;
}

Call make_call(Operation operation, size_t count, Dtype dtype, Reduction reduction, size_t parts = 1) {
  Call call = make_call(operation, count, dtype, parts);
  call.reduction = reduction;
  return call;
}

Call with_root(Call call, size_t root) {
  call.root = static_cast<uint32_t>(root);
  return call;
}

void copy(void* to, const void* from, size_t bytes) {
  if (to != from && bytes != 0) std::memmove(to, from, bytes);
}

}  // namespace

std::unique_ptr<Communicator> Communicator::join(const void* id, size_t rank, size_t ranks, double limit_s) {
  if (rank >= ranks)
    throw CollectiveError("rank " + std::to_string(rank) + " of " + std::to_string(ranks) + "; ranks count from 0");
  if (limit_s <= 0) limit_s = default_limit_s();
  return std::unique_ptr<Communicator>(new Communicator(meet(id, rank, ranks, limit_s), name_of_id(id), rank, ranks));
}

Communicator::Communicator(std::unique_ptr<Transport> transport, std::string name, size_t rank, size_t ranks)
    : transport_(std::move(transport)), name_(std::move(name)), rank_(rank), ranks_(ranks), owner_(getpid()) {}

Communicator::~Communicator() {
  // a forked child holds a copy, but neither the threads nor the right to leave the group
  if (getpid() != owner_) static_cast<void>(transport_.release());
}

const char* Communicator::transport() const { return transport_->name(); }

void Communicator::set_limit(double seconds) { transport_->set_limit(seconds > 0 ? seconds : default_limit_s()); }

std::map<std::string, Totals> Communicator::totals() const {
  const std::lock_guard<std::mutex> lock(state_);
  return totals_;
}

void Communicator::check(const Call& call) const {
  if (call.operation == Operation::all_to_all) return;  // has a dtype and a count a peer
  has_reduction(call.operation) ? check_reduction(call.dtype, call.reduction) : void(size_of(call.dtype));
  if (call.root >= ranks_)
    throw CollectiveError(describe(call) + " with rank " + std::to_string(call.root) + ", but the group has " +
                          std::to_string(ranks_) + " ranks");
}

void Communicator::keep_failure(const char* text) {
  const std::lock_guard<std::mutex> lock(state_);
  if (failure_.empty()) failure_ = text;
}

// Counts the call; keeps and spreads its error.
template <typename Body>
void Communicator::guarded(const Call& call, Body body) {
  {
    const std::lock_guard<std::mutex> lock(state_);
    if (!failure_.empty()) throw CollectiveError(failure_);
    Totals& totals = totals_[name_of(call.operation)];
    ++totals.calls;
    totals.bytes += call.bytes;
  }
  try {
    check(call);
    transport_->check_failure();
    body();
  } catch (const PeerFailure& error) {
    keep_failure(error.what());
    throw;
  } catch (const std::exception& error) {
    keep_failure(error.what());
    transport_->fail("rank " + std::to_string(rank_) + " gave up: " + error.what());
    throw CollectiveError(error.what());
  }
}

// Hands `body` the end of a round to call: collective k, round 1, 2...
template <typename Body>
void Communicator::collective(Call call, Body body) {
  const std::lock_guard<std::mutex> lock(order_);
  call.sequence = ++sequence_;
  guarded(call, [&] {
    body([&] {
      ++call.round;
      transport_->step(call);
    });
  });
}

void Communicator::all_reduce(const void* send, void* recv, size_t count, Dtype dtype, Reduction reduction) {
  const Call call = make_call(Operation::all_reduce, count, dtype, reduction);
  collective(call, [&](auto step) {
    const size_t size = size_of(dtype);
    const size_t most = transport_->cell_bytes() / size * ranks_;
    size_t offset = 0;
    do {
      const std::vector<Part> parts = split(offset, std::min(most, count - offset), ranks_);
      char* own = at(recv, parts[rank_].begin * size);
      reduce_parts(*transport_, call, step, rank_, send, parts, own);
      if (parts[rank_].count != 0) transport_->post_all(own, parts[rank_].count * size, call);
      step();
      for (size_t p = 0; p < ranks_; ++p) {
        const size_t bytes = parts[p].count * size;
        if (p != rank_ && bytes != 0)
          copy(at(recv, parts[p].begin * size), transport_->view_all(p, bytes, call), bytes);
      }
      offset += most;
    } while (offset < count);
  });
}

void Communicator::reduce(const void* send, void* recv, size_t count, Dtype dtype, Reduction reduction, size_t root) {
  const Call call = with_root(make_call(Operation::reduce, count, dtype, reduction), root);
  collective(call, [&](auto step) {
    const size_t size = size_of(dtype);
    const size_t most = transport_->cell_bytes() / size * ranks_;
    std::vector<char> reduced(rank_ == root ? 0 : std::min(transport_->cell_bytes(), count * size));
    size_t offset = 0;
    do {
      const std::vector<Part> parts = split(offset, std::min(most, count - offset), ranks_);
      char* own = rank_ == root ? at(recv, parts[rank_].begin * size) : reduced.data();
      reduce_parts(*transport_, call, step, rank_, send, parts, own);
      if (rank_ != root && parts[rank_].count != 0) transport_->post(root, own, parts[rank_].count * size, call);
      step();
      for (size_t p = 0; rank_ == root && p < ranks_; ++p) {
        const size_t bytes = parts[p].count * size;
        if (p != rank_ && bytes != 0) copy(at(recv, parts[p].begin * size), transport_->view(p, bytes, call), bytes);
      }
      offset += most;
    } while (offset < count);
  });
}

void Communicator::reduce_scatter(const void* send, void* recv, size_t count, Dtype dtype, Reduction reduction) {
  const Call call = make_call(Operation::reduce_scatter, count, dtype, reduction, ranks_);
  collective(call, [&](auto step) {
    const size_t size = size_of(dtype);
    const size_t most = transport_->cell_bytes() / size;
    size_t offset = 0;
    do {
      std::vector<Part> parts;
      for (size_t p = 0; p < ranks_; ++p) parts.push_back({p * count + offset, std::min(most, count - offset)});
      reduce_parts(*transport_, call, step, rank_, send, parts, at(recv, offset * size));
      offset += most;
    } while (offset < count);
  });
}

void Communicator::broadcast(void* buffer, size_t count, Dtype dtype, size_t root) {
  const Call call = with_root(make_call(Operation::broadcast, count, dtype), root);
  collective(call, [&](auto step) {
    size_t offset = 0;
    do {
      const size_t bytes = std::min<size_t>(transport_->cell_bytes(), call.bytes - offset);
      if (rank_ == root && bytes != 0) transport_->post_all(at(buffer, offset), bytes, call);
      step();
      if (rank_ != root && bytes != 0) copy(at(buffer, offset), transport_->view_all(root, bytes, call), bytes);
      offset += transport_->cell_bytes();
    } while (offset < call.bytes);
  });
}

void Communicator::all_gather(const void* send, void* recv, size_t count, Dtype dtype) {
  const Call call = make_call(Operation::all_gather, count, dtype);
  collective(call, [&](auto step) {
    size_t offset = 0;
    do {
      const size_t bytes = std::min<size_t>(transport_->cell_bytes(), call.bytes - offset);
      if (bytes != 0) transport_->post_all(at(send, offset), bytes, call);
      copy(at(recv, rank_ * call.bytes + offset), at(send, offset), bytes);
      step();
      for (size_t p = 0; p < ranks_; ++p)
        if (p != rank_ && bytes != 0)
          copy(at(recv, p * call.bytes + offset), transport_->view_all(p, bytes, call), bytes);
      offset += transport_->cell_bytes();
    } while (offset < call.bytes);
  });
}

void Communicator::all_to_all(const void* const* send, const size_t* send_counts, const Dtype* send_dtypes,
                              void* const* recv, const size_t* recv_counts, const Dtype* recv_dtypes) {
  std::vector<Call> sent, received;
  Call call = make_call(Operation::all_to_all, 0, Dtype::undefined);
  uint64_t longest = 0;
  for (size_t p = 0; p < ranks_; ++p) {
    sent.push_back(make_call(Operation::all_to_all, send_counts[p], send_dtypes[p]));
    received.push_back(make_call(Operation::all_to_all, recv_counts[p], recv_dtypes[p]));
    call.bytes += sent[p].bytes;
    longest = std::max({longest, sent[p].bytes, received[p].bytes});
  }
  collective(call, [&](auto step) {
    // first what each pair is about to move, and how many rounds the longest takes
    const auto is_other = [&](size_t p) { return p != rank_; };
    for (size_t p = 0; p < ranks_; ++p) {
      Call terms = sent[p];
      terms.bytes = longest;
      if (is_other(p)) transport_->post(p, &terms, sizeof(terms), call);
    }
    step();
    for (size_t p = 0; p < ranks_; ++p) {
      Call terms = sent[p];
      if (is_other(p)) std::memcpy(&terms, transport_->view(p, sizeof(terms), call), sizeof(terms));
      check_message(received[p], terms, p);
      if (is_other(p)) longest = std::max(longest, terms.bytes);
    }
    copy(recv[rank_], send[rank_], sent[rank_].bytes);
    const size_t most = transport_->cell_bytes();
    for (size_t offset = 0; offset < longest; offset += most) {
      for (size_t p = 0; p < ranks_; ++p)
        if (is_other(p) && offset < sent[p].bytes)
          transport_->post(p, at(send[p], offset), std::min<size_t>(most, sent[p].bytes - offset), call);
      step();
      for (size_t p = 0; p < ranks_; ++p) {
        if (!is_other(p) || offset >= received[p].bytes) continue;
        const size_t bytes = std::min<size_t>(most, received[p].bytes - offset);
        copy(at(recv[p], offset), transport_->view(p, bytes, call), bytes);
      }
    }
  });
}

void Communicator::send(const void* buffer, size_t count, Dtype dtype, size_t peer) {
  const Call call = with_root(make_call(Operation::send, count, dtype), peer);
  guarded(call, [&] { transport_->send(peer, buffer, call); });
}

void Communicator::recv(void* buffer, size_t count, Dtype dtype, size_t peer) {
  const Call call = with_root(make_call(Operation::recv, count, dtype), peer);
  guarded(call, [&] { transport_->recv(peer, buffer, call); });
}

void Communicator::run(const std::vector<Transfer>& transfers) {
  for (const Transfer& one : transfers)
    if (one.kind == Transfer::Kind::send) send(one.buffer, one.count, one.dtype, one.peer);
  for (const Transfer& one : transfers)
    if (one.kind == Transfer::Kind::recv) recv(one.buffer, one.count, one.dtype, one.peer);
}

}  // namespace mix::sim
