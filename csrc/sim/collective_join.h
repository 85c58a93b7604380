// How the ranks of a group find one another, and which transport they take.
//
// The id says where rank 0's memfd and its listening socket are. A rank that can open the memfd arrives there, any
// other at the socket. When all have come, rank 0 decides: shared memory if all came to it, else TCP for all, and
// those in the memory come to the socket too. MIX_SIM_TRANSPORT=tcp or =shared forces one (on any rank the former);
// MIX_SIM_HOST is the address that rank 0 gives to the others.
#pragma once

#include <memory>
#include <string>

#include "sim/collective_transport.h"

namespace mix::sim {

// Throws CollectiveError naming the ranks that did not come within `limit_s`.
std::unique_ptr<Transport> meet(const void* id, size_t rank, size_t ranks, double limit_s);
// A name of the group, the same on all ranks.
std::string name_of_id(const void* id);

}  // namespace mix::sim
