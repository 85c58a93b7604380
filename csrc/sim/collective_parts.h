// Buffers in parts: a reduction gives each rank a part to reduce.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "sim/collective_reduce.h"
#include "sim/collective_transport.h"

namespace mix::sim {

inline const char* at(const void* base, size_t offset) { return static_cast<const char*>(base) + offset; }
inline char* at(void* base, size_t offset) { return static_cast<char*>(base) + offset; }

// Elements [begin, begin + count) of a buffer, the part of one rank.
struct Part {
  size_t begin;
  size_t count;
};

// `count` elements from `begin` on in as many parts of nearly one size.
inline std::vector<Part> split(size_t begin, size_t count, size_t parts) {
  const size_t most = (count + parts - 1) / parts;
  std::vector<Part> result;
  for (size_t p = 0; p < parts; ++p) {
    const size_t from = std::min(p * most, count);
    result.push_back({begin + from, std::min(most, count - from)});
  }
  return result;
}

// One round: part p of every rank's `send` is reduced by rank p, this rank's into `out`.
template <typename Step>
void reduce_parts(Transport& transport, const Call& call, Step step, size_t rank, const void* send,
                  const std::vector<Part>& parts, void* out) {
  const size_t size = size_of(call.dtype);
  for (size_t p = 0; p < parts.size(); ++p)
    if (p != rank && parts[p].count != 0)
      transport.post(p, at(send, parts[p].begin * size), parts[p].count * size, call);
  step();
  const Part own = parts[rank];
  if (own.count == 0) return;
  std::vector<const void*> sources;
  for (size_t p = 0; p < parts.size(); ++p)
    sources.push_back(p == rank ? at(send, own.begin * size) : transport.view(p, own.count * size, call));
  reduce_elements(out, sources, own.count, call.dtype, call.reduction);
}

}  // namespace mix::sim
